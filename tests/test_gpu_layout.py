"""How many rows a block has on a GPU, at every width."""

from __future__ import annotations

from gradhess._backends.cupy import layout


def test_rows_of_a_block():
    for p in (1, 3, 64, 128, 512, 1024, 4096, 16384, 100_000):
        stream, batch = layout.block_rows(p), layout.batch_rows(p)
        assert layout.SHIFT_ROWS <= stream <= batch
        assert batch % stream == 0
        assert 8 * p * batch <= 1 << 30
        assert stream <= layout.BLOCK_ROWS or 8 * p * stream <= 1 << 27
    assert (layout.block_rows(64), layout.batch_rows(64)) == (1 << 18, 1 << 21)
    assert (layout.block_rows(1024), layout.batch_rows(1024)) == (1 << 14, 1 << 17)
