"""The Gram matrix of the gradients of one layer: softmax regression on its activations, and those who can do it.

Given activations A (n, m) and errors ``delta = softmax(A W^T) - onehot`` (n, k): ``G^T G`` of the rows
``delta_i (x) a_i``, (k m)^2. ``torch`` has labels and W instead of errors, since it differentiates. Who runs this
module as a program measures the memory of one competitor, as ``memory.py`` does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bench_support.backends import on_backend
from bench_support.memory import RESET, STATUS, _status_bytes
from bench_support.problems import QUICK, Array

SHAPES = ((700, 32, 3),) if QUICK else ((10_000, 256, 10), (50_000, 64, 10))
DTYPES = ("float64", "float32")


@dataclass(frozen=True)
class LayerProblem:
    n: int
    m: int
    k: int
    dtype: str

    def __str__(self) -> str:
        return f"{self.n}x{self.m}x{self.k}-{self.dtype}"

    @cached_property
    def A(self) -> Array:
        return np.random.default_rng(0).standard_normal((self.n, self.m), dtype=np.dtype(self.dtype).type)

    @cached_property
    def y(self) -> Array:
        return np.random.default_rng(1).integers(0, self.k, self.n)

    @cached_property
    def W(self) -> Array:
        return (np.random.default_rng(2).standard_normal((self.k, self.m)) / np.sqrt(self.m)).astype(
            self.dtype
        )

    @property
    def result_bytes(self) -> int:
        return 8 * (self.k * self.m) ** 2

    @property
    def unique_flop(self) -> float:
        """Of the entries that differ: a quarter of the full product."""
        return float(self.n) * self.k * (self.k + 1) * self.m * (self.m + 1) / 2

    @cached_property
    def errors(self) -> Array:
        eta = self.A @ self.W.T
        powers = np.exp(eta - eta.max(axis=1, keepdims=True))
        delta = powers / powers.sum(axis=1, keepdims=True)
        delta[np.arange(self.n), self.y] -= 1
        return delta

    @cached_property
    def reference(self) -> tuple[Array, Array]:
        """Trace-like checks that need no second (k m)^2 matrix: ``G^T G v`` for two v, and what bounds its rounding."""
        v = np.random.default_rng(3).standard_normal((self.k * self.m, 2))
        A, delta = self.A.astype(np.float64), self.errors.astype(np.float64)
        product, size = np.zeros_like(v), np.zeros_like(v)
        for start in range(0, self.n, 1000):
            here = slice(start, start + 1000)
            G = (delta[here, :, None] * A[here, None, :]).reshape(-1, self.k * self.m)
            product += G.T @ (G @ v)
            size += np.abs(G).T @ (np.abs(G) @ np.abs(v))
        return product, size

    def check(self, gram: Array) -> None:
        """Symmetric, and right up to rounding in the type of the data, of a sum of n terms and of the errors."""
        v = np.random.default_rng(3).standard_normal((self.k * self.m, 2))
        expected, size = self.reference
        bound = (self.n + self.m + 16) * np.finfo(self.dtype).eps * size
        assert (np.abs(gram.astype(np.float64) @ v - expected) <= bound).all(), f"{self}: G^T G is wrong"


Job = Callable[[LayerProblem], Array]


def _gradhess(problem: LayerProblem) -> Array:
    import gradhess as gh

    return np.asarray(gh.layer_gradients(problem.A, problem.errors).gram())


def _numpy() -> Job:
    def job(problem: LayerProblem) -> Array:
        G = np.einsum("nk,nm->nkm", problem.errors, problem.A).reshape(problem.n, -1)
        return np.asarray(G.T @ G)

    return job


def _einsum() -> Job:
    def job(problem: LayerProblem) -> Array:
        D, A = problem.errors, problem.A
        gram = np.einsum("np,ni,nq,nj->piqj", D, A, D, A, optimize=["einsum_path", (0, 1), (0, 1), (0, 1)])
        return np.asarray(gram.reshape(problem.k * problem.m, -1))

    return job


def _torch() -> Job:
    import torch

    torch.set_num_threads(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )

    def loss(W: Any, a: Any, y: Any) -> Any:
        return torch.nn.functional.cross_entropy((W @ a)[None], y[None])

    def job(problem: LayerProblem) -> Array:
        W, A, y = (torch.from_numpy(array) for array in (problem.W, problem.A, problem.y))
        G = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(W, A, y).reshape(problem.n, -1)
        return np.asarray((G.T @ G).numpy())

    return job


COMPETITORS: dict[str, Callable[[], Job]] = {
    "gradhess-cpu": on_backend("cpu", _gradhess),
    "gradhess-numba": on_backend("numba", _gradhess),
    "numpy": _numpy,
    "numpy-einsum": _einsum,
    "torch": _torch,
}


def peak(name: str, problem: LayerProblem) -> int | None:
    """Bytes beyond the input at the highest, the result among them; None where it cannot be measured."""
    if not STATUS.exists() or not os.access(RESET, os.W_OK):
        return None
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    # No empty entry: it would name the working directory, where the sources lie beside the installed package.
    folders = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    shape = json.dumps([problem.n, problem.m, problem.k, problem.dtype])
    command = [sys.executable, "-P", "-m", "bench_support.layers", name, shape]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {name} failed:\n{done.stderr}")
    return int(done.stdout.splitlines()[-1])


def _measure(name: str, problem: LayerProblem) -> int:
    job = COMPETITORS[name]()
    job(LayerProblem(300, 32, 3, problem.dtype))  # libraries are loaded, and their threads exist
    _ = problem.A, problem.y, problem.W, problem.errors
    RESET.write_text("5")
    before = _status_bytes("VmRSS")
    job(problem)
    return max(_status_bytes("VmHWM") - before, 0)


if __name__ == "__main__":
    print(_measure(sys.argv[1], LayerProblem(*json.loads(sys.argv[2]))))
