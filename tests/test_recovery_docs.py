"""The Python of docs/recovery.md runs, and gives what the text around it says."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SOURCE = Path(__file__).parents[1]
BLOCKS = re.findall(
    r"^```python\n(.*?)^```",
    (SOURCE / "docs" / "recovery.md").read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)


def test_least_squares(capsys):
    names = {}
    exec(BLOCKS[0], names)
    est, X = names["est"], names["X"]
    assert "Hessian of 20 parameters from 20,000 gradients" in capsys.readouterr().out
    assert names["rec"].whitened_error(est, X.T @ X / len(X)) < 1.3 * est.sampling_error
    # One step leaves, in units of the Hessian, its error times the distance.
    start = X @ np.ones(20)
    best = np.linalg.lstsq(X, names["y"])[0]
    risks = [np.mean((X @ (coef - best)) ** 2) for coef in (np.zeros(20), names["w"])]
    assert "from {:.1f} to {:.3f}\n".format(*risks) in BLOCKS[0]
    assert np.mean((X @ names["w"] - start) ** 2) < (2 * est.sampling_error) ** 2 * np.mean(start**2)
    messages = [(worker, np.random.default_rng(worker).standard_normal((50, 3))) for worker in range(2)]
    exec(BLOCKS[2], {**names, "messages": messages})


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch")
def test_networks():
    exec(BLOCKS[1], {})


def test_processes_that_send_gradients(tmp_path):
    """The example with real sockets and processes, for a few rounds after the Hessian was recovered."""
    command = [sys.executable, SOURCE / "examples" / "recovery_distributed.py", "--rounds", "24"]
    done = subprocess.run(
        [*command, "--plot", tmp_path / "plot.png"], capture_output=True, text=True, timeout=600, check=True
    )
    error = float(re.search(r"whitened error (\S+),", done.stdout)[1])
    predicted = float(re.search(r"sampling error (\S+)", done.stdout)[1])
    assert error < 1.5 * predicted
    plain, fast = (float(value) for value in re.findall(r": (\S+e-\d+)$", done.stdout, re.MULTILINE))
    assert fast < plain / 20
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_study_of_real_data(tmp_path):
    pytest.importorskip("sklearn")
    command = [
        sys.executable,
        SOURCE / "examples" / "recovery_study.py",
        "--quick",
        "--plot",
        tmp_path / "plot.png",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    assert "diabetes: 442 rows, 11 parameters" in done.stdout
    assert (tmp_path / "plot.png").stat().st_size > 10_000
