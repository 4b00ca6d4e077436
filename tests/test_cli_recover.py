"""``gradhess recover``: what it prints, writes and refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("typer")

from typer.testing import CliRunner

from gradhess.cli.app import app


def invoke(*arguments: Any) -> Any:
    return CliRunner(env={"COLUMNS": "110", "NO_COLOR": "1"}).invoke(app, [str(a) for a in arguments])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Columns of different units, one constant, one a sum of others."""
    rng = np.random.default_rng(0)
    a, b, c = rng.standard_normal((3, 3000)) * [[1.0], [1000.0], [0.01]] + [[0.0], [5000.0], [3.0]]
    y = a + b / 1000 + 100 * c + rng.standard_normal(3000)
    path = tmp_path / "data.csv"
    table = np.column_stack([a, b, c, a + b, np.full(3000, 7.0), y])
    np.savetxt(path, table, delimiter=",", header="a,b,c,total,seven,y", comments="")
    return path


def error_of(output: str) -> float:
    found = re.search(r"error\s+(\S+) \(whitened, against the exact Hessian", output)
    assert found, output
    return float(found[1])


@pytest.mark.parametrize("method", ["antithetic", "rescaled", "difference", "calibrated"])
def test_it_recovers(data: Path, method: str) -> None:
    result = invoke("recover", data, "-t", "y", "-n", 50, "-m", 20_000, "--method", method, "--at-optimum")
    assert result.exit_code == 0, result.output
    assert "data.csv: y on 4 parameters" in result.output
    assert "3,000 rows; gradients at the optimum" in result.output
    assert "total = a + b" in result.output
    assert "seven is constant (7)" in result.output
    predicted = float(re.search(r"sampling error\s+(\S+)", result.output)[1])
    # The targets have noise of variance 1, of which nobody was told: 1 / 50 beside the sampling error.
    assert error_of(result.output) < 1.5 * predicted + 1 / 50


@pytest.mark.parametrize("command", ["recover", "fit"])
def test_squares_that_overflow(tmp_path: Path, command: str) -> None:
    path = tmp_path / "large.csv"
    rows = np.random.default_rng(0).standard_normal((50, 3)) * [1.0, 1e200, 1.0]
    np.savetxt(path, rows, delimiter=",", header="a,b,y", comments="")
    result = invoke(command, path, "-t", "y")
    assert result.exit_code == 1
    assert "column 'b' are so large that their squares overflow" in " ".join(result.output.split())


def test_excess_risk_far_from_the_optimum(data: Path) -> None:
    result = invoke("recover", data, "-t", "y", "-n", 50, "-m", 20_000)
    assert "gradients at zero" in result.output
    found = re.search(r"excess risk (\S+)", result.output)
    assert found
    # E y^2 = (0 + 5 + 300)^2 + 1 + 1 + 1 + 1, of which 1 is noise; with a standard error of a few percent.
    assert float(found[1]) == pytest.approx(305.0**2 + 3, rel=0.05)


@pytest.mark.parametrize("suffix", [".html", ".png", ".svg"])
def test_reports(data: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"report{suffix}"
    result = invoke("recover", data, "-t", "y", "--method", "orthogonal", "-n", 20, "--report", path)
    assert result.exit_code == 0, result.output
    assert "from 21 gradients on batches of 20 (orthogonal)" in result.output
    assert "not of all rows" in result.output
    assert f"report: {path}" in result.output.replace("\n", "")
    content = path.read_bytes()
    assert len(content) > 10_000
    if suffix == ".html":
        assert b"data:image/png;base64," in content
        assert b"<h1>data.csv: y on 4 parameters</h1>" in content
        assert b"whitened, against the exact Hessian" in content


def test_options_reach_the_recovery(data: Path) -> None:
    base = ("recover", data, "-t", "y", "-m", 200)
    one, again = invoke(*base, "--seed", 3), invoke(*base, "--seed", 3)
    assert one.output == again.output
    assert error_of(one.output) != error_of(invoke(*base, "--seed", 4).output)
    assert "y on 3 parameters" in invoke(*base, "--no-intercept", "-f", "a,b,c").output
    assert "variance 7," in invoke(*base, "--noise-variance", 7).output
    assert "beside 3 known" in invoke(*base, "--existing-noise", 3).output
    assert invoke(*base, "--without-replacement").output != invoke(*base).output
    raw = invoke(*base, "--raw").output
    condition = float(re.search(r"condition number (\S+)", raw)[1])
    assert condition > 1e6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-m", 11), "--gradients is 11; antithetic gradients come in pairs"),
        (("--method", "orthogonal", "-m", 40), "--gradients is 40;"),
        (("--method", "orthogonal", "-m", 40), "pass --gradients 101, or leave it out"),
        (("--method", "calibrated", "--existing-noise", 101), "--existing-noise is 101, more than"),
        (("--method", "calibrated", "--existing-noise", 101), "Use --method rescaled,"),
        (
            ("--method", "calibrated", "--noise-variance", 3),
            "Leave --noise-variance out, or use --method rescaled",
        ),
        (("--method", "rescaled", "--noise-variance", 0), "pass a --noise-variance above 0"),
        (("--noise-variance", 0), "--noise-variance is 0; --method antithetic tells"),
        (("--noise-variance", -1), "--noise-variance is -1"),
        (("--report", "report.txt"), "must end in"),
        (("--report", "nowhere/report.html"), "there is no folder"),
        (("-f", ","), "no column is named"),
        (
            ("-n", 4000, "--without-replacement"),
            "--batch-size is 4000, but there are 3000 rows to draw without replacement",
        ),
        (("-t", "nothing"), "there is no column"),
    ],
)
def test_errors(data: Path, arguments: tuple[Any, ...], message: str) -> None:
    target = () if "-t" in arguments else ("-t", "y")
    result = invoke("recover", data, *target, *arguments)
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["1,2"], ["1 row;", "note: there is one row: the Hessian of a single sample, of rank 1 at most"]),
        (["1,2", "2,2", "4,2"], ["3 rows;", "note: y is constant (2); the Hessian does not depend on it"]),
    ],
)
def test_data_that_say_little(tmp_path: Path, lines: list[str], expected: list[str]) -> None:
    path = tmp_path / "little.csv"
    path.write_text("\n".join(["a,y", *lines]) + "\n", encoding="utf-8")
    result = invoke("recover", path, "-t", "y", "-n", 10, "-m", 40)
    assert result.exit_code == 0, result.output
    for line in expected:
        assert sum(found.startswith(line) for found in result.output.splitlines()) == 1, result.output
    assert "1 rows" not in result.output


def test_data_that_say_enough_have_no_note(data: Path) -> None:
    result = invoke("recover", data, "-t", "y", "-n", 10, "-m", 100)
    assert "there is one row" not in result.output
    assert "y is constant" not in result.output
