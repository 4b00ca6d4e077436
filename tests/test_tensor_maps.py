"""Where the tensor-core kernels find things: every map of csrc/cuda/tensor, entry by entry."""

from __future__ import annotations

import itertools

import emulated_tensor as emulated
import numpy as np
import pytest
import tensor_core_model as model
from emulated_cuda import why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

BANKS = 32
LANES = range(32)


@pytest.fixture(scope="module")
def maps():
    return emulated.load_maps()


def banks(bytes_of_lanes, width):
    """The banks that lanes touch, each `width` bytes from its address."""
    return [(byte // 4 + word) % BANKS for byte in bytes_of_lanes for word in range(width // 4)]


# ---- mma.sync ---------------------------------------------------------------------------------------------------


def test_a_tile_has_every_chunk_once(maps):
    places = {maps.tile_byte(row, chunk) for row in range(64) for chunk in range(16)}
    assert places == {16 * i for i in range(64 * 16)}
    for row, chunk in itertools.product(range(64), range(16)):
        assert maps.tile_byte(row, chunk) // 256 == row  # a row stays in its 256 bytes


def test_ldmatrix_reads_without_bank_conflicts(maps):
    for address, first, row in itertools.product(
        (maps.left_address, maps.right_address), range(0, 128, 16), range(0, 64, 16)
    ):
        for matrix in range(4):
            at = [address(8 * matrix + i) for i in range(8)]
            used = banks([maps.tile_byte(row + r, (first + c) // 8) for r, c in at], 16)
            assert sorted(used) == list(range(BANKS))


def test_copies_write_without_bank_conflicts(maps):
    """A quarter of a warp at a time writes 16 bytes each: 8 neighbouring chunks of a row."""
    for row, first in itertools.product(range(64), (0, 8)):
        used = banks([maps.tile_byte(row, first + i) for i in range(8)], 16)
        assert sorted(used) == list(range(BANKS))


def loaded(maps, address, lane, register):
    """(row, column) of the two entries that ldmatrix.x4.trans puts into a register of a lane."""
    return [
        # Entry (i, j) of the transposed matrix is entry j of row i in memory.
        (address(8 * register + (lane % 4) * 2 + half)[0], address(8 * register)[1] + lane // 4)
        for half in range(2)
    ]


def test_ldmatrix_gives_the_left_fragment_of_mma(maps):
    for lane, register in itertools.product(LANES, range(4)):
        for half, (row, column) in enumerate(loaded(maps, maps.left_address, lane, register)):
            assert maps.a_entry(lane, 2 * register + half) == (
                column,
                row,
            )  # A is (entries of C, rows of the sum)


def test_ldmatrix_gives_two_right_fragments_of_mma(maps):
    for lane, register in itertools.product(LANES, range(4)):
        for half, (row, column) in enumerate(loaded(maps, maps.right_address, lane, register)):
            k, n = maps.b_entry(lane, 2 * (register % 2) + half)
            assert (k, n + 8 * (register // 2)) == (row, column)


@pytest.mark.parametrize(("name", "shape", "count"), [("a_entry", (16, 16), 8), ("b_entry", (16, 8), 4)])
def test_fragments_of_operands_hold_every_entry_once(maps, name, shape, count):
    entries = [getattr(maps, name)(lane, i) for lane in LANES for i in range(count)]
    assert sorted(entries) == sorted(itertools.product(*map(range, shape)))


def test_accumulators_hold_every_entry_once(maps):
    assert sorted(maps.c_entry(lane, i) for lane in LANES for i in range(4)) == sorted(
        itertools.product(range(16), range(8))
    )
    cells = [maps.wgmma_cell(thread, i) for thread in range(128) for i in range(64)]
    assert sorted(cells) == sorted(itertools.product(range(64), range(128)))
    for warp in range(4):  # a warp has 16 rows, laid out as a row of m16n8 accumulators
        for lane, i in itertools.product(LANES, range(64)):
            row, column = maps.c_entry(lane, i % 4)
            assert maps.wgmma_cell(32 * warp + lane, i) == (16 * warp + row, 8 * (i // 4) + column)


# ---- TMA and wgmma ----------------------------------------------------------------------------------------------


def test_the_swizzle_of_a_box(maps):
    """The table of the CUDA driver API for 128 bytes: chunk c of row r lies at chunk c xor (r mod 8)."""
    seen = set()
    for row, column in itertools.product(range(64), range(64)):
        chunk = (column // 8) ^ (row % 8)
        assert maps.box_byte(row, column) == 128 * row + 16 * chunk + 2 * (column % 8)
        seen.add(maps.box_byte(row, column))
    assert seen == set(range(0, 64 * 128, 2))


def test_descriptor_fields(maps):
    for start in range(0, 227 << 10, 1024):
        descriptor = maps.matrix_descriptor(start, 8192)
        assert maps.descriptor_fields(descriptor) == (start, 8192, 1024, 0, 1)
        used = 0x3FFF | 0x3FFF << 16 | 0x3FFF << 32 | 3 << 62
        assert descriptor & ~used == 0


@pytest.mark.parametrize("stage", [0, 98304])
def test_descriptors_find_what_tma_wrote(maps, stage):
    """Operands of 16 rows and 128 columns: two boxes of 64 rows, at any multiple of 16 rows in them."""
    for first_row, plane in itertools.product(range(0, 64, 16), range(3)):
        start = stage + plane * 2 * 8192
        descriptor = maps.matrix_descriptor(start + first_row * 128, 8192)
        for column, row in itertools.product(range(128), range(16)):
            written = start + column // 64 * 8192 + maps.box_byte(first_row + row, column % 64)
            assert maps.operand_byte(descriptor, column, row) == written


# ---- work -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("columns", "blocks"), [(1, 1), (128, 1), (129, 1), (1000, 1), (70, 3), (300, 2)])
def test_tiles_cover_each_entry_once(maps, columns, blocks):
    pitch = -(-columns // 8) * 8
    covered = np.zeros((blocks * columns, blocks * columns), int)
    for row, column, height, width, diagonal, left, right, begin, end in maps.work_items(
        0, 10, columns, blocks, pitch, False
    ):
        tile = np.ones((height, width), int)
        covered[row : row + height, column : column + width] += np.tril(tile) if diagonal else tile
        assert left == row // columns * pitch + row % columns
        assert right == column // columns * pitch + column % columns
        assert (begin, end) == (0, 10)
    one = np.tril(np.ones((columns, columns), int))
    assert (covered == np.kron(np.tril(np.ones((blocks, blocks), int)), one)).all()


@pytest.mark.parametrize("first", [0, 128, model.FLUSH_ROWS - 128, 5 * model.FLUSH_ROWS])
@pytest.mark.parametrize("rows", [1, 128, 129, model.FLUSH_ROWS, 3 * model.FLUSH_ROWS + 1])
def test_segments_end_at_global_rows(maps, first, rows):
    items = maps.work_items(first, rows, 1, 1, 8, True)
    ranges = [(item[7], item[8]) for item in items]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == rows
    for (_, end), (begin, _) in itertools.pairwise(ranges):
        assert end == begin
        assert (first + begin) % model.FLUSH_ROWS == 0
    for begin, end in ranges:
        assert (first + begin) // model.FLUSH_ROWS == (first + end - 1) // model.FLUSH_ROWS
