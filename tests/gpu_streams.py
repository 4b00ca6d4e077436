"""What the tests of streams on a GPU share: data, comparisons, bits, memory that runs out, and illegal launches."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

import gradhess as gh
from gradhess._backends.cupy import layout
from gradhess.errors import DeviceError, DeviceMemoryError

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


def shorten_blocks(monkeypatch, rows):
    """Blocks of streams and of batches, of so many rows."""
    for name in ("BLOCK_ROWS", "STREAM_ROWS", "BATCH_ROWS"):
        monkeypatch.setattr(layout, name, rows)


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


class IllegalLaunches:
    """Launches that the stand-in's device, and the emulator's, refuse, of whatever kind a call has."""

    def __init__(self, gpu, module=None):
        self.cuda, self.module = gpu.cupy.cuda, module

    def of(self, call, *, grids=True):
        """Kernels with their blocks, and with ``grids`` numbers of blocks: each is what a device may not run."""
        del self.cuda.launched[:]
        if self.module is not None:
            self.module.emulated_launches()
        call()
        launches = [("standin", *one) for one in self.cuda.launched]
        if self.module is not None:
            launches += [("module", *one) for one in self.module.emulated_launches()]
        kernels = {launch[:-1]: None for launch in launches}
        return [*kernels, *(sorted({("grid", launch[-1]) for launch in launches}) if grids else ())]

    @contextmanager
    def refused(self, one):
        kind, *what = one
        try:
            if kind == "standin":
                self.cuda.refused.add(tuple(what))
            elif kind == "grid":
                self.cuda.most_blocks = what[0] - 1
            if self.module is not None and kind == "module":
                self.module.emulate_refusal(*what)
            elif self.module is not None and kind == "grid":
                self.module.emulate_refusal(most_blocks=what[0] - 1)
            yield
        finally:
            self.cuda.refused.clear()
            self.cuda.most_blocks = 2**31 - 1
            if self.module is not None:
                self.module.emulate_refusal()

    def fails_at_each(self, make, call, *, grids=True):
        """``call(make())`` with each of its launches illegal in turn leaves all as it was: what was refused."""
        whole = make()
        found = self.of(lambda: call(whole), grids=grids)
        expected = bits(whole)
        for one in found:
            cov = make()
            before = bits(cov), cov.n_samples_seen_, cov.n_samples_skipped_
            with self.refused(one), pytest.raises(DeviceError, match=r"\.(py|cu|cuh):\d+"):
                call(cov)
            assert (bits(cov), cov.n_samples_seen_, cov.n_samples_skipped_) == before, one
            call(cov)
            assert bits(cov) == expected, one
        return found
