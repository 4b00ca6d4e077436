"""Instructions that Numba has no function for."""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_FEATURES: Final = dict(get_host_cpu_features())
VECTOR_BYTES: Final = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx") else 16
"""Of this machine, which compiled code is kept for."""
PANEL_ROWS: Final = 12 if VECTOR_BYTES == 64 else 6
"""Of two vectors: as many sums as registers hold, beside what is multiplied."""

SQUARE_BYTES: Final = 32
"""A row of what is transposed at a time. 64 bytes took twice as long in float64."""

_READ, _L2_CACHE, _DATA = 0, 2, 1


_cgutils: Any = cgutils
"""Numba's own functions, which have no types."""


def _item(context: Any, builder: Any, kind: Any, array: Any, indices: Any) -> Any:
    """The address of an entry of an array of type ``kind``."""
    view = context.make_array(kind)(context, builder, array)
    return _cgutils.get_item_pointer(context, builder, kind, view, indices)


def _prefetch(typing_context: Any, array: Any, row: Any, column: Any) -> Any:
    """Ask for the cache line of ``array[row, column]``, which may lie outside of the array."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        entry = _item(context, builder, signature.args[0], arguments[0], arguments[1:])
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


def _multiply_panels(typing_context: Any, a: Any, b: Any, terms: Any, out: Any) -> Any:
    """out = a[:terms]^T b[:terms], ``PANEL_ROWS`` by two vectors of numbers, which stay in registers meanwhile.

    The arrays are C-contiguous: a (terms or more, PANEL_ROWS), b (terms or more, two vectors), out likewise. Each
    number is one chain of multiply-adds in order, fused where the processor can, whatever the length of its vectors.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = context.get_value_type(b.dtype)
        size = b.dtype.bitwidth // 8
        lanes = VECTOR_BYTES // size
        vector = ir.VectorType(number, lanes)
        broadcast = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        word, none = ir.IntType(64), ir.Constant(vector, ir.Undefined)
        left, right, product = (
            context.make_array(signature.args[at])(context, builder, arguments[at]).data for at in (0, 1, 3)
        )

        def vector_at(base: Any, index: Any) -> Any:
            return builder.bitcast(builder.gep(base, [index]), vector.as_pointer())

        zero = ir.Constant(vector, [0.0] * lanes)
        sums = [[_cgutils.alloca_once_value(builder, zero) for _ in range(2)] for _ in range(PANEL_ROWS)]
        with _cgutils.for_range(builder, arguments[2]) as loop:
            first = builder.mul(loop.index, word(2 * lanes))
            v = [
                builder.load(vector_at(right, builder.add(first, word(h * lanes))), align=size)
                for h in range(2)
            ]
            row = builder.mul(loop.index, word(PANEL_ROWS))
            for r in range(PANEL_ROWS):
                entry = builder.load(builder.gep(left, [builder.add(row, word(r))]))
                u = builder.insert_element(none, entry, ir.IntType(32)(0))
                u = builder.shuffle_vector(u, none, broadcast)
                for h in range(2):
                    term = builder.fmul(u, v[h], flags=["contract"])
                    total = builder.fadd(builder.load(sums[r][h]), term, flags=["contract"])
                    builder.store(total, sums[r][h])
        for r in range(PANEL_ROWS):
            for h in range(2):
                place = vector_at(product, word((2 * r + h) * lanes))
                builder.store(builder.load(sums[r][h]), place, align=size)
        return context.get_dummy_value()

    return types.void(a, b, types.intp, out), emit


def _transpose_square(typing_context: Any, x: Any, row: Any, column: Any, xt: Any, at: Any) -> Any:
    """xt[column + c, at + r] = x[row + r, column + c] in a square of ``SQUARE_BYTES`` a row; both C-contiguous."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        size = x.dtype.bitwidth // 8
        side = SQUARE_BYTES // size
        vector = ir.VectorType(context.get_value_type(x.dtype), side)
        source, row, column, target, at = arguments

        def vector_at(which: int, array: Any, indices: list[Any]) -> Any:
            entry = _item(context, builder, signature.args[which], array, indices)
            return builder.bitcast(entry, vector.as_pointer())

        number = row.type
        lines = [
            builder.load(vector_at(0, source, [builder.add(row, number(r)), column]), align=size)
            for r in range(side)
        ]
        half = side // 2
        zips = [
            ir.Constant(
                ir.VectorType(ir.IntType(32), side), [h * half + i // 2 + i % 2 * side for i in range(side)]
            )
            for h in (0, 1)
        ]
        for _ in range(side.bit_length() - 1):  # to zip vectors r and r + half, over and over, transposes
            lines = [
                builder.shuffle_vector(lines[i], lines[i + half], zip) for i in range(half) for zip in zips
            ]
        for c, line in enumerate(lines):
            builder.store(line, vector_at(3, target, [builder.add(column, number(c)), at]), align=size)
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp, xt, types.intp), emit


prefetch: Any = intrinsic(_prefetch)
bits_of: Any = intrinsic(_bits_of)
from_bits: Any = intrinsic(_from_bits)
multiply_panels: Any = intrinsic(_multiply_panels)
transpose_square: Any = intrinsic(_transpose_square)
