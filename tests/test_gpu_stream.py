"""``StreamingCovariance`` on a GPU: any chunking, streams, failures, merging, files, and rows from the host."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import gradhess as gh
from gradhess._backends import registry
from gradhess._backends.cupy import layout
from gradhess._streaming import host_feed
from gradhess.errors import (
    DeviceError,
    DeviceMemoryError,
    InputError,
    NonFiniteError,
    NotFittedError,
    ResultTooLargeError,
)

BLOCK = layout.BLOCK_ROWS


def data(n, d=4, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3 * rng.normal(size=d)).astype(dtype)


def bits(cov):
    state = cov.state_dict()
    return {name: array.tobytes() for name, array in state["arrays"].items()}


def close(got, expected, u=2.0**-53):
    """Both are sums of the same numbers in other orders; sizes are those of the largest entry."""
    got = got.get() if hasattr(got, "get") else got
    bound = 8 * (layout.SLAB_ROWS + 64) * u * np.abs(expected).max()
    assert np.abs(got - expected).max() <= bound


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
    for name in ("BLOCK_ROWS", "STREAM_ROWS", "BATCH_ROWS"):
        monkeypatch.setattr(layout, name, 1024)
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


class OutOfMemory:
    """Allocations on the stand-in's devices, of which the ``allowed`` next ones succeed."""

    def __init__(self, gpu, monkeypatch):
        from cupy._memory import Allocation

        self.allowed = None
        made = Allocation.__init__

        def allocate(allocation, nbytes, device):
            if self.allowed is not None:
                self.allowed -= 1
                if self.allowed < 0:
                    raise gpu.cupy.cuda.memory.OutOfMemoryError("as asked for")
            made(allocation, nbytes, device)

        monkeypatch.setattr(Allocation, "__init__", allocate)

    def fails_at_each(self, make, call):
        """``call(make())`` with each of its allocations failing in turn: how many there were."""
        failed = 0
        while True:
            cov = make()
            before = bits(cov), cov.n_samples_seen_, cov.n_samples_skipped_
            self.allowed = failed
            try:
                call(cov)
            except DeviceMemoryError:
                failed += 1
            else:
                return failed, cov
            finally:
                self.allowed = None
            assert (bits(cov), cov.n_samples_seen_, cov.n_samples_skipped_) == before, failed


def calls_that_fill_blocks(gpu, d, n=700):
    """Rows, and the calls with them after the first 100: what comes straight from them, what waits, and all kinds."""
    X, rng = data(n, d) / d, np.random.default_rng(0)
    y, c, coef = rng.normal(size=n), rng.uniform(0.5, 2, n), rng.normal(size=d - 1)
    head, rest = slice(0, 100), slice(100, None)
    made = gh.losses.custom(lambda eta, y: np.tanh(eta - y))

    def gradients(rows, loss="squared"):
        given = gpu.array(X[rows, :-1]), gpu.array(y[rows]), gpu.array(coef), loss
        return gh.glm_gradients(*given, intercept=0.5, sample_weight=gpu.array(c[rows]))

    broken = X.copy()
    broken[[150, 300], 2] = np.nan
    narrow = X.astype(np.float32)
    return {
        "dense": ({}, gpu.array(X[head]), (gpu.array(X[rest]),)),
        "weights": ({}, gpu.array(X[head]), (gpu.array(X[rest]), gpu.array(c[rest]))),
        "few rows": ({}, gpu.array(X[head]), (gpu.array(X[100:130]),)),
        "narrower before": ({}, gpu.array(narrow[head]), (gpu.array(X[rest]),)),
        "narrower after": ({}, gpu.array(X[head]), (gpu.array(narrow[rest]),)),
        "integers": ({}, gpu.array(X[head]), (gpu.array((1000 * X[rest]).astype(np.int32)),)),
        "gradients": ({}, gradients(head), (gradients(rest),)),
        "custom": ({}, gradients(head, made), (gradients(rest, made),)),
        "skip": ({"on_nonfinite": "skip"}, gpu.array(broken[head]), (gpu.array(broken[rest]),)),
        "layer": (
            {},
            gh.layer_gradients(gpu.array(X[head, : d // 5]), gpu.array(X[head, -5:])),
            (gh.layer_gradients(gpu.array(X[rest, : d // 5]), gpu.array(X[rest, -5:])),),
        ),
    }


KINDS_OF_CALLS = (
    "dense", "weights", "few rows", "narrower before", "narrower after", "integers", "gradients", "custom", "skip",
    "layer",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS_OF_CALLS)
@pytest.mark.parametrize("copied", [True, False])
def test_memory_that_runs_out_anywhere_leaves_all_as_it_was(gpu, monkeypatch, copied, kind):
    """Every allocation of a call fails in turn, where a copy of the accumulators is kept, and where none is."""
    if not gpu.is_standin:
        pytest.skip("memory of a device does not run out on demand")
    d = 140
    monkeypatch.setattr(layout, "SNAPSHOT_PARAMETERS", d if copied else d - 10)
    for name in ("BLOCK_ROWS", "STREAM_ROWS", "BATCH_ROWS"):
        monkeypatch.setattr(layout, name, 256)
    options, first, arguments = calls_that_fill_blocks(gpu, d)[kind]

    def make():
        return gh.StreamingCovariance(**options).partial_fit(first)

    memory = OutOfMemory(gpu, monkeypatch)
    failed, cov = memory.fails_at_each(make, lambda one: one.partial_fit(*arguments))
    assert failed > 4 or kind == "few rows"
    assert bits(cov) == bits(make().partial_fit(*arguments))


@pytest.mark.parametrize("copied", [True, False])
def test_memory_that_runs_out_in_a_merge_or_with_rows_of_the_host(gpu, monkeypatch, copied):
    if not gpu.is_standin:
        pytest.skip("memory of a device does not run out on demand")
    d = 140
    monkeypatch.setattr(layout, "SNAPSHOT_PARAMETERS", d if copied else d - 10)
    monkeypatch.setattr(host_feed, "PIECE_BYTES", 170 * 8 * (d + 1))
    for name in ("BLOCK_ROWS", "STREAM_ROWS", "BATCH_ROWS"):
        monkeypatch.setattr(layout, name, 256)
    X = data(900, d)
    memory = OutOfMemory(gpu, monkeypatch)
    other = gh.StreamingCovariance(device="cuda").partial_fit(X[:300])

    def make():
        return gh.StreamingCovariance(device="cuda").partial_fit(X[:100])

    weights = np.random.default_rng(0).uniform(0.5, 2, 800)
    for call in (
        lambda one: one.merge(other),
        lambda one: one.partial_fit(X[100:]),
        lambda one: one.partial_fit(X[100:], weights),
    ):
        failed, cov = memory.fails_at_each(make, call)
        assert failed > 4
        like = make()
        call(like)
        assert bits(cov) == bits(like)


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("kernel", ["correct", "fold_block"])
def test_a_device_that_fails_is_never_a_wrong_result(gpu, monkeypatch, kernel, copied):
    """The second block fails after its product was added: with a copy all is as before, without one it is an error."""
    if not gpu.is_standin:
        pytest.skip("a device does not fail on demand")
    from cupy._raw import RawKernel

    monkeypatch.setattr(layout, "SNAPSHOT_PARAMETERS", 100 if copied else 10)
    for name in ("BLOCK_ROWS", "STREAM_ROWS", "BATCH_ROWS"):
        monkeypatch.setattr(layout, name, 256)
    X = data(900, 20)
    cov = gh.StreamingCovariance().partial_fit(gpu.array(X[:300]))
    before = bits(cov)
    launch, left = RawKernel.__call__, [1]

    def fail(self, *args, **rest):
        if self.name == kernel:
            left[0] -= 1
            if left[0] < 0:
                raise gpu.cupy.cuda.runtime.CUDARuntimeError(700)
        return launch(self, *args, **rest)

    monkeypatch.setattr(RawKernel, "__call__", fail)
    with pytest.raises(DeviceError, match="cudaError 700"):
        cov.partial_fit(gpu.array(X[300:]))
    monkeypatch.setattr(RawKernel, "__call__", launch)
    if copied:
        assert bits(cov) == before
        return
    for use in (
        bits,
        lambda one: one.covariance_,
        lambda one: one.partial_fit(gpu.array(X)),
        lambda one: one.copy(),
    ):
        with pytest.raises(DeviceError, match="left half of a block"):
            use(cov)
    cov.reset()
    assert bits(cov.partial_fit(gpu.array(X[:300]))) == before


def test_memory_that_runs_out_in_the_first_call(gpu, monkeypatch):
    if not gpu.is_standin:
        pytest.skip("memory of a device does not run out on demand")
    monkeypatch.setattr(layout, "SNAPSHOT_PARAMETERS", 10)
    for name in ("BLOCK_ROWS", "STREAM_ROWS", "BATCH_ROWS"):
        monkeypatch.setattr(layout, name, 256)
    X = gpu.array(data(600, 20))
    memory = OutOfMemory(gpu, monkeypatch)
    for failing in range(8):
        cov = gh.StreamingCovariance()
        memory.allowed = failing
        with pytest.raises(DeviceMemoryError):
            cov.partial_fit(X)
        memory.allowed = None
        with pytest.raises(NotFittedError):
            _ = cov.covariance_
        cov.partial_fit(X[:300])
        assert bits(cov) == bits(gh.StreamingCovariance().partial_fit(X[:300]))
