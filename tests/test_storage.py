"""State files and state dictionaries: they continue a stream bit for bit, or say why they cannot."""

from __future__ import annotations

import copy
import json
import os
import stat

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from states import assert_same_state

import gradhess as gh
from gradhess._streaming import storage

N = 900


def data(dtype=np.float64):
    return np.random.default_rng(1).normal(size=(N, 3)).astype(dtype)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.safetensors"


@pytest.mark.parametrize("seen", [0, 1, 256, 700])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_file_continues_the_stream_bit_for_bit(backend, path, seen, weighted, dtype):
    X = data(dtype)
    weights = np.random.default_rng(2).uniform(0, 1, N) if weighted else np.ones(N)
    cov = gh.StreamingCovariance("full", ddof=1, on_nonfinite="skip")
    cov.partial_fit(X[:seen], weights[:seen] if weighted else None)
    cov.save(path)
    loaded = gh.StreamingCovariance.load(path)
    assert loaded.get_params() == cov.get_params()
    assert_same_state(loaded, cov)
    for one in (cov, loaded):
        one.partial_fit(X[seen:], weights[seen:])
    assert_same_state(loaded, cov)
    np.testing.assert_array_equal(loaded.covariance_, cov.covariance_)


@pytest.mark.parametrize(
    "parameters",
    [{"structure": "diagonal"}, {"assume_centered": True}, {"dtype": "float32"}, {"dtype": np.float64}],
)
def test_parameters_come_back(path, parameters):
    cov = gh.StreamingCovariance(**parameters).partial_fit(data(np.float32))
    cov.save(path)
    assert_same_state(gh.StreamingCovariance.load(path), cov)
    assert_same_state(gh.StreamingCovariance().load_state_dict(cov.state_dict()), cov)


def test_the_file_says_what_it_is(path):
    gh.StreamingCovariance().partial_fit(data()).save(path)
    size = int.from_bytes(path.read_bytes()[:8], "little")
    metadata = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]
    assert metadata["format"] == "gradhess.StreamingCovariance"
    assert metadata["format_version"] == "1"
    assert metadata["library_version"] == gh.__version__
    assert json.loads(metadata["settings"])["structure"] == "full"


def test_saving_replaces_in_one_step_and_leaves_nothing_behind(path, monkeypatch):
    gh.StreamingCovariance().partial_fit(data()).save(path)
    first = path.read_bytes()
    plain = path.with_name("plain")
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    plain.unlink()

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        gh.StreamingCovariance().partial_fit(data()[:5]).save(path)
    assert path.read_bytes() == first
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        gh.StreamingCovariance().save(tmp_path / "missing" / "state.safetensors")
    with pytest.raises(FileNotFoundError, match=r"no state file.*absent"):
        gh.StreamingCovariance.load(tmp_path / "absent")


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_a_truncated_file(path, keep):
    gh.StreamingCovariance().partial_fit(data()).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(gh.errors.StateFileError, match="truncated"):
        gh.StreamingCovariance.load(path)


@pytest.mark.parametrize("content", [b"hello", b"\x80\x04K\x01.", bytes(1000)])
def test_a_file_that_is_no_safetensors(path, content):
    path.write_bytes(content)
    with pytest.raises(gh.errors.StateFileError, match="no state file"):
        gh.StreamingCovariance.load(path)


def rewrite(path, *, arrays=None, drop=None, settings=None, **metadata):
    """Change parts of a state file."""
    size = int.from_bytes(path.read_bytes()[:8], "little")
    old = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]
    if settings is not None:
        old["settings"] = json.dumps({**json.loads(old["settings"]), **settings})
    tensors = {**load_file(path), **(arrays or {})}
    tensors.pop(drop, None)
    save_file(tensors, path, {**old, **metadata})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not one that StreamingCovariance.save wrote"),
        ({"format_version": "2", "library_version": "9.1"}, r"gradhess 9\.1 in format version 2.*upgrade"),
        ({"format_version": "x"}, "no number"),
        ({"settings": {"structure": "blocks"}}, "'full', 'diagonal'"),
        ({"settings": {"structure": "diagonal"}}, "array 'scatter'|array 'block_scatter'"),
        ({"settings": {"compute_dtype": "float16"}}, "'float16'"),
        ({"settings": {"slab_rows": 128}}, "slabs of 128"),
        ({"drop": "counts"}, "should hold"),
        ({"drop": "location"}, "'location'"),
        ({"arrays": {"extra": np.zeros(1)}}, "extra"),
        ({"arrays": {"location": np.zeros(7)}}, "array '"),
        ({"arrays": {"location": np.zeros((3, 1))}}, "one dimension"),
        ({"arrays": {"scalars": np.zeros(6, np.float32)}}, "scalars"),
        ({"arrays": {"counts": np.array([0, 5])}}, r"counts \[0, 5\]"),
        ({"arrays": {"pending_rows": np.zeros((300, 3))}}, "300 rows"),
        ({"arrays": {"pending_rows": np.zeros((5, 4))}}, "pending_rows"),
        ({"arrays": {"pending_weights": np.zeros(3)}}, "pending_weights"),
    ],
)
def test_a_file_that_does_not_fit_together(path, change, message):
    gh.StreamingCovariance().partial_fit(data()).save(path)
    rewrite(path, **change)
    with pytest.raises(gh.errors.StateFileError, match=message):
        gh.StreamingCovariance.load(path)


def test_settings_that_are_no_json(path):
    gh.StreamingCovariance().partial_fit(data()).save(path)
    save_file(load_file(path), path, {"format": storage.FORMAT, "format_version": "1"})
    with pytest.raises(gh.errors.StateFileError, match="settings"):
        gh.StreamingCovariance.load(path)


def test_a_dictionary_is_a_copy_both_ways():
    cov = gh.StreamingCovariance().partial_fit(data()[:300])
    state = cov.state_dict()
    kept = copy.deepcopy(state)
    other = gh.StreamingCovariance("diagonal").load_state_dict(state)
    assert_same_state(other, cov)
    cov.partial_fit(data())
    other.partial_fit(data())
    for name, array in state["arrays"].items():
        np.testing.assert_array_equal(array, kept["arrays"][name])


@pytest.mark.parametrize("wrong", [None, {}, {"format": "other"}])
def test_a_dictionary_of_something_else(wrong):
    cov = gh.StreamingCovariance().partial_fit(data())
    before = copy.copy(cov)
    with pytest.raises(gh.errors.StateFileError, match="no dictionary"):
        cov.load_state_dict(wrong)
    state = cov.state_dict()
    for change, message in (({"format_version": 3}, "version 3"), ({"settings": {}}, "settings")):
        with pytest.raises(gh.errors.StateFileError, match=message):
            cov.load_state_dict({**state, **change})
    assert_same_state(cov, before)
