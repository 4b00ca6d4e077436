"""Instructions that Numba has no function for."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_READ, _L2_CACHE, _DATA = 0, 2, 1


def _prefetch(typing_context: Any, array: Any, row: Any, column: Any) -> Any:
    """Ask for the cache line of ``array[row, column]``, which may lie outside of the array."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        matrix = context.make_array(kind)(context, builder, arguments[0])
        # Numba's own functions have no types.
        entry = cgutils.get_item_pointer(context, builder, kind, matrix, arguments[1:])  # type: ignore[no-untyped-call]
        address = builder.bitcast(entry, ir.IntType(8).as_pointer())
        hint = builder.module.declare_intrinsic(
            "llvm.prefetch",
            [address.type],
            ir.FunctionType(ir.VoidType(), [address.type, *[ir.IntType(32)] * 3]),
        )
        builder.call(hint, [address, *(ir.IntType(32)(value) for value in (_READ, _L2_CACHE, _DATA))])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp), emit


def _bits_of(typing_context: Any, value: Any) -> Any:
    """The int64 with the bits of a float64."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), emit


def _from_bits(typing_context: Any, bits: Any) -> Any:
    """The float64 with the bits of an int64."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), emit


prefetch: Any = intrinsic(_prefetch)
bits_of: Any = intrinsic(_bits_of)
from_bits: Any = intrinsic(_from_bits)
