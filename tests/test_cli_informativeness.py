"""``gradhess informativeness``: what it prints, draws and refuses."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gradhess.cli.app import app


def invoke(*arguments: Any) -> Any:
    return CliRunner(env={"COLUMNS": "80", "NO_COLOR": "1"}).invoke(
        app, ["informativeness", *(str(argument) for argument in arguments)]
    )


def test_lwe_prints_lines_and_entropies(tmp_path: Path) -> None:
    picture = tmp_path / "lwe.png"
    result = invoke("lwe", "--plot", picture)
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.replace(str(picture), "").splitlines())) <= 80
    # the slope of full secrets over all of Z_3 tends to 1/2: epsilon is about |class|^(-1/2)
    assert re.search(r"^ *3 +0\.49\d", result.output, re.MULTILINE)
    for entropy in ("4.394", "3.923", "2.502", "0.818"):
        assert entropy in result.output
    assert picture.stat().st_size > 10_000


def test_lwe_takes_shorter_secrets_for_a_large_modulus() -> None:
    """16^4 inputs of length 4 would be 2e9 pairs for each row; 256^4 would not fit in memory."""
    result = invoke("lwe", "--q", 16, "--kind", "binary")
    assert result.exit_code == 0, result.output
    assert "Sparse inputs, n = 3," in result.output


def test_frequency_prints_the_variance(tmp_path: Path) -> None:
    picture = tmp_path / "waves.svg"
    result = invoke("frequency", "--plot", picture)
    assert result.exit_code == 0, result.output
    assert re.search(r"^ *226 +225 +7\.73e-05", result.output, re.MULTILINE)
    assert picture.exists()


def test_frequency_trains_where_torch_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from gradhess.cli import informativeness

    monkeypatch.setattr(informativeness, "TRAINING_STEPS", 10)
    result = invoke("frequency", "--train")
    assert result.exit_code == 0, result.output
    assert "of 1/12" in result.output


def test_training_without_torch_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from gradhess.cli import informativeness

    monkeypatch.setattr(informativeness.importlib.util, "find_spec", lambda name: None)
    result = invoke("frequency", "--train")
    assert result.exit_code == 1
    assert "needs torch" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lwe", "--plot", "picture.jpeg"), "must end in"),
        (("lwe", "--plot", "no-such-folder/picture.png"), "there is no folder"),
        (("lwe", "--q", "2"), "q of at least 3"),
        (("lwe", "--kind", "quaternary"), "error: --kind is 'quaternary'"),
    ],
)
def test_refusals_are_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_the_group_is_listed_without_loading_what_it_needs() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert "informativeness" in result.output
    assert "gradhess.cli.informativeness" in sys.modules
