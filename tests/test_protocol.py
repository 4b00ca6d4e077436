"""The plain data that backends are given: slices of rows, copies of states."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from gradhess._arrays import first_false
from gradhess._backends.protocol import LossSpec, MomentState, Rows


def test_a_slice_keeps_every_field():
    """``Rows.slice`` names the fields one by one; a field added later must not be lost there."""
    n = 10
    rows = Rows(
        X=np.arange(2.0 * n).reshape(n, 2),
        kind="gradient",
        unit_column=True,
        loss=LossSpec("huber", 0.5),
        y=np.arange(1.0 * n),
        coef=np.ones((1, 2)),
        intercept=np.ones(1),
        loss_weight=np.arange(2.0, n + 2),
    )
    assert all(getattr(rows, field.name) is not field.default for field in fields(Rows))
    part = rows.slice(3, 7)
    for field in fields(Rows):
        whole, found = getattr(rows, field.name), getattr(part, field.name)
        if field.name in ("X", "y", "loss_weight"):
            np.testing.assert_array_equal(found, whole[3:7])
            assert np.shares_memory(found, whole)
        else:
            assert found is whole, field.name


@pytest.mark.parametrize("structure", ["full", "diagonal", "sum"])
def test_a_copy_keeps_every_field_and_shares_nothing(structure):
    state = MomentState.empty(3, structure, centred=True, dtype=np.float32)
    for number, array in enumerate(state.arrays().values()):
        array[...] = number + 1
    copied = state.copy()
    assert (copied.structure, copied.centred) == (state.structure, state.centred)
    assert copied.arrays().keys() == state.arrays().keys()
    for name, array in state.arrays().items():
        np.testing.assert_array_equal(copied.arrays()[name], array)
        assert copied.arrays()[name].dtype == array.dtype
        assert not np.shares_memory(copied.arrays()[name], array)
        array[...] = 0
    state.assign(copied)
    for name, array in state.arrays().items():
        np.testing.assert_array_equal(copied.arrays()[name], array)


@pytest.mark.parametrize(
    ("mask", "place"),
    [([], -1), ([True, True], -1), ([False, True], 0), ([[True, True], [True, False]], 3)],
)
def test_the_first_entry_that_is_false(mask, place):
    assert first_false(np.array(mask, np.bool_)) == place
