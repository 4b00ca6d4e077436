"""``StreamingCovariance`` on a GPU: any chunking, streams, failures, merging, files, and rows from the host."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from gpu_streams import BLOCK, bits, close, data, shorten_blocks

import gradhess as gh
from gradhess._backends import registry
from gradhess._backends.cupy import layout
from gradhess._streaming import host_feed
from gradhess.errors import (
    InputError,
    NonFiniteError,
    NotFittedError,
    ResultTooLargeError,
)


@pytest.mark.parametrize("structure", ["full", "diagonal"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_same_bits_for_any_chunking_and_stream(gpu, dtype, structure):
    X = data(2 * BLOCK + 1500, dtype=dtype)
    w = np.random.default_rng(1).uniform(0.5, 2, len(X))
    for weights in (None, w):
        found = []
        for cuts in ([], [1, 63, 900, BLOCK + 1], [BLOCK, 2 * BLOCK], [BLOCK - 1, BLOCK, 2 * BLOCK + 1]):
            cov = gh.StreamingCovariance(structure, ddof=1)
            for number, rows in enumerate(np.split(np.arange(len(X)), cuts)):
                chunk, part = gpu.array(X[rows]), None if weights is None else gpu.array(weights[rows])
                stream = gpu.stream() if number % 2 else gpu.cupy.cuda.Stream.null
                if number == 0:
                    cov.partial_fit(chunk, part)
                    continue
                with stream, gpu.silent():
                    cov.partial_fit(chunk, part)
            found.append(bits(cov))
            host = gh.StreamingCovariance(structure, ddof=1).fit(X, weights)
            close(cov.covariance_, host.covariance_, float(np.finfo(dtype).eps) / 2)
            close(cov.location_, host.location_, float(np.finfo(dtype).eps) / 2)
            assert cov.n_samples_seen_ == len(X)
            assert abs(cov.weight_sum_ - host.weight_sum_) <= 1e-9
        assert all(other == found[0] for other in found[1:])


def test_long_blocks_and_buffers_that_grow(gpu, monkeypatch):
    monkeypatch.setattr(layout, "STREAM_ROWS", 4 * BLOCK)
    X = data(4 * BLOCK + 700, 3, dtype=np.float32)
    w = np.random.default_rng(1).uniform(0.5, 2, len(X))
    found = []
    for cuts in ([], [5, 11, 300, 3 * BLOCK, 4 * BLOCK + 1]):
        cov = gh.StreamingCovariance(ddof=1)
        for rows in np.split(np.arange(len(X)), cuts):
            cov.partial_fit(gpu.array(X[rows]), gpu.array(w[rows]))
        found.append(bits(cov))
        close(cov.covariance_, gh.StreamingCovariance(ddof=1).fit(X, w).covariance_, 2.0**-24)
    assert found[0] == found[1]
    cov = gh.StreamingCovariance()
    sizes = []
    for start, weights in ((0, None), (5, None), (8, w[8:20]), (20, None)):
        rows = X[start : start + 5] if weights is None else X[8:20]
        cov.partial_fit(gpu.array(rows), None if weights is None else gpu.array(weights))
        sizes.append(max(len(buffer) for buffer in cov._stream._buffers if buffer is not None))
    assert sizes == [10, 10, 22, 44]
    parts = np.concatenate([np.ones(10), w[8:20], np.ones(5)])
    rows = np.concatenate([X[:10], X[8:20], X[20:25]])
    close(cov.covariance_, gh.StreamingCovariance().fit(rows, parts).covariance_, 2.0**-24)


@pytest.mark.parametrize("d", [1, 17, 65, 129, 1000, 1100])
@pytest.mark.parametrize("n", [1, 63, 300, 16385])
def test_odd_sizes(gpu, n, d):
    if gpu.is_standin and registry.active_device().name == "cuda" and n * d > 400_000:
        pytest.skip("too many numbers for the emulator")
    X = data(n, d)
    cov = gh.StreamingCovariance().partial_fit(gpu.array(X[: n // 2])).partial_fit(gpu.array(X[n // 2 :]))
    host = gh.StreamingCovariance().fit(X)
    bound = 8 * (n + 64) * 2.0**-53 * (np.abs(X).max(axis=0) ** 2).max()
    assert np.abs(cov.covariance_.get() - host.covariance_).max() <= bound
    assert np.abs(cov.second_moment_.get() - host.second_moment_).max() <= bound


def test_gradients_go_in(gpu):
    X, y, coef = data(900, 5), data(900, 1, seed=2)[:, 0], np.linspace(-1, 1, 5)
    device = gh.glm_gradients(gpu.array(X), gpu.array(y), gpu.array(coef), intercept=0.5)
    host = gh.glm_gradients(X, y, coef, intercept=0.5)
    close(
        gh.StreamingCovariance().fit(device).covariance_,
        gh.StreamingCovariance().fit(host).covariance_,
    )


def test_what_follows_from_the_covariance(gpu):
    X = data(2000, 5)
    for structure in ("full", "diagonal"):
        host, device = (gh.StreamingCovariance(structure, ddof=1).fit(rows) for rows in (X, gpu.array(X)))
        condition = np.linalg.cond(np.cov(X.T))
        for name in ("precision_", "second_moment_"):
            close(getattr(device, name), getattr(host, name), 2.0**-53 * condition)
        values, vectors = device.eigh(3)
        expected, directions = host.eigh(3)
        close(values, expected, 2.0**-50)
        assert np.abs(np.abs((vectors.get() * directions).sum(axis=0)) - 1).max() < 1e-8
        assert abs(device.logdet() - host.logdet()) < 1e-9
        close(device.mahalanobis(gpu.array(X[:50])), host.mahalanobis(X[:50]), 2.0**-53 * condition)


@pytest.mark.parametrize("d", [4, 1100])
@pytest.mark.parametrize(("first", "bad"), [(0, 5), (100, 5), (100, BLOCK + 7)])
def test_a_bad_row_drops_its_call_and_those_after_it(gpu, first, bad, d):
    if d > 1000 and bad > BLOCK:
        bad = 300
    good, wrong, later = data(first, d), data(bad + 50, d, seed=1), data(70, d, seed=2)
    wrong[bad, 1] = np.nan
    cov, like = gh.StreamingCovariance(), gh.StreamingCovariance()
    cov.partial_fit(gpu.array(good))
    like.partial_fit(gpu.array(good))
    chunks = gpu.array(wrong), gpu.array(later), gpu.array(np.tile(later, (300, 1)) if d < 1000 else later)
    with gpu.silent():
        for chunk in chunks:
            cov.partial_fit(chunk)
    with pytest.raises(
        NonFiniteError, match=rf"row {bad} of call {1 + (first > 0)} of partial_fit"
    ) as raised:
        _ = cov.covariance_
    assert raised.value.row == bad
    if first:
        assert bits(cov) == bits(like)
        assert cov.n_samples_seen_ == first
    else:
        with pytest.raises(NotFittedError):
            _ = cov.covariance_
    cov.partial_fit(chunks[1])  # it is open again
    like.partial_fit(chunks[1])
    assert bits(cov) == bits(like)


def test_bad_rows_are_skipped_and_counted(gpu):
    X = data(BLOCK + 500)
    X[[3, 400, BLOCK + 9]] = np.inf
    cov = gh.StreamingCovariance(ddof=1, on_nonfinite="skip")
    chunks = [gpu.array(part) for part in np.array_split(X, 5)]
    cov.partial_fit(chunks[0])
    with gpu.silent():
        for chunk in chunks[1:]:
            cov.partial_fit(chunk)
    host = gh.StreamingCovariance(ddof=1, on_nonfinite="skip").fit(X)
    assert (cov.n_samples_skipped_, cov.n_samples_seen_) == (3, len(X) - 3)
    close(cov.covariance_, host.covariance_)
    moved = cov.to("cpu")
    assert (moved.n_samples_skipped_, moved.n_samples_seen_) == (3, len(X) - 3)


def test_float32_rows_and_then_float64(gpu):
    X = data(3000)
    narrow = X[:1000].astype(np.float32)
    cov = gh.StreamingCovariance().partial_fit(gpu.array(narrow)).partial_fit(gpu.array(X[1000:]))
    cov.partial_fit(gpu.array(narrow))
    expected = gh.StreamingCovariance().fit(np.vstack([narrow, X[1000:], narrow]))
    close(cov.covariance_, expected.covariance_)


def test_merging_across_devices(gpu):
    X = data(BLOCK + 900)
    whole = gh.StreamingCovariance(ddof=1).fit(X)
    places = ["cpu", "cuda:0", *(["cuda:1"] if gpu.cupy.cuda.runtime.getDeviceCount() > 1 else [])]
    for first in places:
        for second in places:
            one, two = (
                gh.StreamingCovariance(ddof=1).fit(part).to(place)
                for part, place in ((X[:700], first), (X[700:], second))
            )
            before = bits(two)
            one.merge(two)
            assert one.n_samples_seen_ == len(X)
            close(one.covariance_, whole.covariance_)
            assert bits(two) == before
            assert (one.covariance_.device.id if first != "cpu" else None) == {"cuda:0": 0, "cuda:1": 1}.get(
                first
            )
    with pytest.raises(InputError, match="cannot merge 3 parameters into 4"):
        gh.StreamingCovariance().fit(gpu.array(X)).merge(gh.StreamingCovariance().fit(gpu.array(X[:, :3])))


@pytest.mark.parametrize("weighted", [False, True])
def test_files_go_from_any_device_to_any_other(gpu, tmp_path, weighted):
    X = data(BLOCK + 5000)
    w = np.random.default_rng(0).uniform(1, 2, len(X)) if weighted else None
    cut = BLOCK + 1000
    head, tail = (slice(0, cut), slice(cut, None))

    def weights(span, there):
        return None if w is None else gpu.array(w[span]) if there else w[span]

    device = gh.StreamingCovariance(ddof=1).partial_fit(gpu.array(X[head]), weights(head, True))
    host = gh.StreamingCovariance(ddof=1).partial_fit(X[head], weights(head, False))
    whole = gh.StreamingCovariance(ddof=1).partial_fit(X, w)
    for source in (device, host):
        source.save(tmp_path / "state")
        on_host = gh.StreamingCovariance.load(tmp_path / "state")
        on_device = gh.StreamingCovariance.load(tmp_path / "state", device="cuda")
        for loaded in (on_host, on_device, pickle.loads(pickle.dumps(source))):
            assert loaded.n_samples_seen_ == cut
        close(
            on_host.partial_fit(X[tail], weights(tail, False)).covariance_,
            whole.covariance_,
        )
        on_device.partial_fit(gpu.array(X[tail]), weights(tail, True))
        close(on_device.covariance_, whole.covariance_)
        if source is device:  # goes on bit for bit
            copied = device.copy().partial_fit(gpu.array(X[tail]), weights(tail, True))
            assert bits(on_device) == bits(copied)


def test_rows_of_the_host_are_copied_while_others_are_computed(gpu, monkeypatch):
    X = data(5000, 6)
    w = np.random.default_rng(0).uniform(1, 2, 5000)
    monkeypatch.setattr(host_feed, "PIECE_BYTES", 300 * 8 * 7)  # many pieces, that straddle blocks of nothing
    shorten_blocks(monkeypatch, 1024)
    for rows in (X, np.asfortranarray(X), X.astype(np.float32), X[:, ::-1]):
        cov = gh.StreamingCovariance(device="cuda", ddof=1)
        cov.partial_fit(rows[:1000], w[:1000]).partial_fit(rows[1000:], w[1000:])
        host = gh.StreamingCovariance(ddof=1).fit(rows, w)
        assert type(cov.covariance_) is np.ndarray
        close(cov.covariance_, host.covariance_, float(np.finfo(rows.dtype).eps) / 2)
        there = gh.StreamingCovariance(ddof=1).fit(gpu.array(np.ascontiguousarray(rows)), gpu.array(w))
        assert bits(there) == bits(cov)  # the same as from an array that is there
    if gpu.is_standin:  # the host waits for a pinned buffer to be free, and for nothing else
        cov = gh.StreamingCovariance(device="cuda")
        gpu.cupy.cuda.reset()
        cov.partial_fit(X, w)
        pieces = -(-len(X) // 300)
        assert gpu.cupy.cuda.counts["synchronize"] == pieces - 2
        assert gpu.cupy.cuda.counts["to_device"] == pieces
        assert gpu.cupy.cuda.counts["to_host"] == 0
    y = (X[:, 0] > 0) * 1.0
    gradients = gh.glm_gradients(X, y, np.ones(6) / 6, "logistic", intercept=0.1, sample_weight=w)
    close(
        gh.StreamingCovariance(device="cuda").fit(gradients).covariance_,
        gh.StreamingCovariance().fit(gradients).covariance_,
    )
    bad = X.copy()
    bad[4321, 2] = np.nan
    cov = gh.StreamingCovariance(device="cuda").partial_fit(X[:100])
    before = bits(cov)
    cov.partial_fit(bad)
    with pytest.raises(NonFiniteError, match="row 4321 of call 2"):
        _ = cov.location_
    assert bits(cov) == before


def test_wide_rows_of_the_host_are_looked_at_first(gpu):
    X = data(40, 1100)
    X[17, 3] = np.inf
    cov = gh.StreamingCovariance(device="cuda")
    with pytest.raises(NonFiniteError) as raised:
        cov.partial_fit(X)
    assert raised.value.row == 17
    assert cov.n_samples_seen_ == 0


def test_chunks_that_lie_elsewhere_are_refused(gpu):
    X = data(50)
    on_host, on_device = gh.StreamingCovariance().fit(X), gh.StreamingCovariance().fit(gpu.array(X))
    with pytest.raises(InputError, match=r"sums on the host; move it first: \.to\('cuda:0'\)"):
        on_host.partial_fit(gpu.array(X))
    with pytest.raises(InputError, match="X is on the host, and the rows seen so far are on cuda:0"):
        on_device.partial_fit(X)
    with pytest.raises(InputError, match="it must be 'cpu', 'cuda'"):
        gh.StreamingCovariance(device="gpu")
    with pytest.raises(InputError, match="but there are"):
        gh.StreamingCovariance(device="cuda:99")
    with pytest.raises(InputError, match="these rows have 3 parameters"):
        on_device.partial_fit(gpu.array(X[:, :3]))


def test_memory_of_wide_rows(gpu):
    assert gh.estimate_memory(100_000, dtype="float32", device="cuda") < 141 * 10**9
    assert gh.estimate_memory(100_000, device="cuda") > 160 * 10**9
    with pytest.raises(ResultTooLargeError, match="what would fit: structure='diagonal'"):
        gh.StreamingCovariance().fit(gpu.cupy.ones((1, 400_000), np.float32))


def test_three_runs_have_the_same_bits(gpu):
    X = gpu.array(data(3 * BLOCK + 17, 3 if gpu.is_standin else 300, dtype=np.float32))
    found = []
    for size in (BLOCK, 4 * BLOCK, len(X)):
        for stream in (gpu.stream(), gpu.stream()):
            for _ in range(3):
                cov = gh.StreamingCovariance()
                with stream:
                    for start in range(0, len(X), size):
                        cov.partial_fit(X[start : start + size])
                found.append(bits(cov))
    assert all(other == found[0] for other in found[1:])
