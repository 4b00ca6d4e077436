"""Choosing backends and threads, and saying what was found."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

import gradhess as gh
from gradhess._backends import registry


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in ("GRADHESS_BACKEND", "GRADHESS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    token = registry._override.set(None)
    yield
    registry._override.reset(token)
    gh.set_num_threads(None)


def test_a_choice_ends_with_the_block_or_stays():
    default = registry.active().name
    with gh.use_backend("reference"):
        assert registry.active().name == "reference"
    assert registry.active().name == default
    choice = gh.use_backend("reference")
    assert registry.active().name == "reference"
    assert repr(choice) == "<gradhess backend 'reference'>"


def test_choices_nest_and_end_with_an_error():
    with gh.use_backend("reference"):
        with pytest.raises(ZeroDivisionError), gh.use_backend(registry._fastest().name):
            _ = 1 / 0
        assert registry.active().name == "reference"


def test_other_threads_do_not_see_a_choice():
    seen = []
    with gh.use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(registry.active().name))
        thread.start()
        thread.join()
    assert seen == [registry.active().name]


def test_the_environment_chooses_where_nobody_did(monkeypatch):
    monkeypatch.setenv("GRADHESS_BACKEND", "reference")
    assert registry.active().name == "reference"
    monkeypatch.setenv("GRADHESS_BACKEND", "nonsense")
    with pytest.raises(gh.errors.InputError, match="nonsense"):
        registry.active()


def test_an_absent_backend_is_a_reason(monkeypatch, capsys):
    for name in ("GRADHESS_ISA", "GRADHESS_BACKEND"):  # with a choice there is nothing else to take
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.setattr(registry, "_reasons", {})
    monkeypatch.setitem(registry.MODULES, "cpu", "gradhess._backends.there_is_no_such_module")
    with pytest.raises(gh.errors.BackendError, match="backend 'cpu' is not available: No module named"):
        gh.use_backend("cpu")
    assert registry.active().name in ("numba", "reference")
    assert gh.show_config() is None
    assert "cpu        not usable: No module named" in capsys.readouterr().out


def test_config_says_what_was_found(capsys):
    found = registry.config()
    assert found["gradhess"] == gh.__version__
    assert found["active"] == registry.active().name
    assert found["backends"]["reference"]["available"]
    assert not found["backends"]["cuda"]["available"]
    assert found["backends"]["cuda"]["reason"]
    gh.show_config()
    printed = capsys.readouterr().out
    for name in ("cpu", "numba", "reference", "cuda", "threads"):
        assert name in printed


def test_threads(monkeypatch):
    default = registry.num_threads()
    assert default >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", "5,2")
    assert registry.num_threads() == 5
    monkeypatch.setenv("GRADHESS_NUM_THREADS", "3")
    assert registry.num_threads() == 3
    gh.set_num_threads(2)
    assert registry.num_threads() == 2
    gh.set_num_threads(None)
    monkeypatch.setenv("GRADHESS_NUM_THREADS", "many")
    with pytest.raises(gh.errors.InputError, match="GRADHESS_NUM_THREADS is 'many'"):
        registry.num_threads()
    monkeypatch.delenv("GRADHESS_NUM_THREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", "junk")
    assert registry.num_threads() == default


def test_estimate_memory_counts_what_a_stream_holds():
    d = 1000
    state = gh.StreamingCovariance().partial_fit([[0.0] * d]).state_dict()["arrays"]
    held = sum(array.nbytes for name, array in state.items() if not name.startswith("pending"))
    slab = 512 * d * 8
    assert 2 * (held + slab) <= gh.estimate_memory(d) <= 2 * (held + slab) + 32 * d
    assert gh.estimate_memory(d, "diagonal") < gh.estimate_memory(d, dtype="float32") < gh.estimate_memory(d)
    assert gh.estimate_memory(10**6) > 16 * 10**12


def test_an_instruction_set_that_is_not_there_is_an_error_and_not_a_slower_backend():
    script = "import gradhess as gh; gh.show_config(); gh.weighted_gram([[1.0]])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "GRADHESS_ISA": "sse9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "GRADHESS_ISA='sse9' is not available here" in done.stderr
    assert "active backend: none (" in done.stdout
