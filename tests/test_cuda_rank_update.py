"""The symmetric rank update of the CUDA kernels, run by the emulator, against NumPy, and the maps that it walks by."""

from __future__ import annotations

import re
import subprocess

import numpy as np
import pytest
from emulated_cuda import ROOT, Guarded, compiler, cuda, newest, why_not

__all__ = ["cuda", "newest"]

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def rank_update(cuda, rows, weights, scatter, *, pitch=None, seed=0, blocks=0):
    """Adds to ``scatter`` (an array), with everything between guard bytes; entries beyond the columns are NaN."""
    n, d = rows.shape
    pitch = pitch or -(-d // 8) * 8
    panel = Guarded((n, pitch), rows.dtype)
    panel.array[:, :d] = rows
    target = Guarded(scatter.shape, scatter.dtype)
    target.array[...] = scatter
    work = Guarded((cuda.rank_update_workspace(rows.dtype.name, n, d),), np.uint8)
    row_weight = None if weights is None else Guarded(weights.shape, np.float64)
    if row_weight is not None:
        row_weight.array[...] = weights
    cuda.emulate_schedule(seed)
    cuda.rank_update(
        rows=panel.address,
        dtype=rows.dtype.name,
        samples=n,
        columns=d,
        pitch=pitch,
        row_weight=0 if row_weight is None else row_weight.address,
        scatter=target.address,
        scatter_is_float=scatter.dtype == np.float32,
        workspace=work.address,
        stream=0,
        blocks=blocks,
    )
    assert panel.intact()
    assert target.intact()
    assert work.intact()
    return target.array


def problem(n, d, dtype, weighted):
    rng = np.random.default_rng(n + 1000 * d)
    return rng.standard_normal((n, d)).astype(dtype), rng.standard_normal(n) if weighted else None


def check(got, start, rows, weights):
    wide = rows.astype(np.float64)
    w = np.ones(len(rows)) if weights is None else weights
    lower = np.tri(rows.shape[1], dtype=bool)
    expected = start + wide.T @ (w[:, None] * wide)
    magnitude = np.abs(start) + np.abs(wide).T @ (np.abs(w)[:, None] * np.abs(wide))
    n, u = len(rows), np.finfo(rows.dtype).eps / 2
    terms = n if rows.dtype == np.float64 else min(n, 256) + min(-(-n // 256), 8) + 2
    bound = (terms + 2) * u + (n + 2) * np.finfo(np.float64).eps / 2 + np.finfo(start.dtype).eps / 2
    assert (np.abs(got - expected) <= bound * magnitude)[lower].all()
    np.testing.assert_array_equal(got[~lower], start[~lower])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (63, 17), (300, 65), (300, 129), (63, 200), (17, 300)])
def test_sizes(cuda, n, d, weighted, dtype):
    rows, weights = problem(n, d, dtype, weighted)
    start = np.random.default_rng(1).standard_normal((d, d))
    check(rank_update(cuda, rows, weights, start), start, rows, weights)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_float32_scatter(newest, dtype):
    rows, weights = problem(130, 140, dtype, True)
    start = np.zeros((140, 140), np.float32)
    check(rank_update(newest, rows, weights, start), start, rows, weights)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_rows_that_are_split(newest, dtype):
    rows, weights = problem(2600, 17, dtype, True)
    assert newest.rank_update_workspace(dtype, 2600, 17) > 0
    start = np.zeros((17, 17))
    check(rank_update(newest, rows, weights, start), start, rows, weights)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("n", "d"), [(90, 300), (1100, 20)])
def test_same_bits_for_any_device_and_order(newest, n, d, dtype):
    rows, weights = problem(n, d, dtype, True)
    start = np.ones((d, d))
    first = rank_update(newest, rows, weights, start)
    for seed, blocks in ((0, 1), (0, 2), (5, 0), (6, 3)):
        np.testing.assert_array_equal(
            rank_update(newest, rows, weights, start, seed=seed, blocks=blocks), first
        )


def test_padding_does_not_matter(newest):
    rows, weights = problem(50, 30, "float64", True)
    start = np.zeros((30, 30))
    wide = rank_update(newest, rows, weights, start, pitch=160)
    np.testing.assert_array_equal(wide, rank_update(newest, rows, weights, start))


def test_the_self_test(cuda):
    result = np.zeros(1, np.int32)
    cuda.self_test(result=result.ctypes.data, stream=0)
    assert result[0] == cuda.SELF_TEST == sum(range(32))


@pytest.mark.parametrize(
    "wrong", [{"dtype": "float16"}, {"rows": 8}, {"pitch": 6}, {"columns": 9}, {"samples": -1}]
)
def test_the_module_refuses_what_its_kernels_cannot_read(newest, wrong):
    right = {
        "rows": 0,
        "dtype": "float64",
        "samples": 1,
        "columns": 8,
        "pitch": 8,
        "row_weight": 0,
        "scatter": 0,
    }
    right |= {"scatter_is_float": False, "workspace": 0, "stream": 0}
    with pytest.raises(ValueError, match="must be"):
        newest.rank_update(**(right | wrong))


@pytest.mark.parametrize("tile_rows", [*range(1, 40), 100, 261])
def test_every_tile_once_and_super_blocks_in_order(newest, tile_rows):
    count = tile_rows * (tile_rows + 1) // 2
    tiles = [newest.tile_position(number, tile_rows) for number in range(count)]
    assert sorted(tiles) == [(row, column) for row in range(tile_rows) for column in range(row + 1)]
    super_blocks = [(row // 12, column // 12) for row, column in tiles]
    assert super_blocks == sorted(super_blocks)


def test_maps_on_the_host(tmp_path):
    """Fragment maps, bank conflicts and splits: tests/cpp/check_cuda_maps.cpp says what is checked."""
    program = tmp_path / "check"
    # fmt: off
    command = [
        compiler(), "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas",
        "-DGRADHESS_CUDA_EMULATOR", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests'}",
        str(ROOT / "tests" / "cpp" / "check_cuda_maps.cpp"), "-o", str(program),
    ]
    # fmt: on
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^\d+ checks, 0 failures$", done.stdout, re.MULTILINE)
