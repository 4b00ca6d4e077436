// Python's way into the Gram matrix of outer rows.
#pragma once

#include <pybind11/numpy.h>

#include <optional>

#include "../cpu/dispatch.hpp"
#include "../cpu/outer_gram.hpp"

namespace gradhess::bindings {

namespace py = pybind11;

inline void outer_gram(const py::array& rows, bool unit_column, const py::array& errors,
                       const std::optional<py::array>& row_weight, bool curvature, py::array out, bool begin, bool end,
                       cpu::Index slab_rows, int threads, std::size_t isa) {
    cpu::OuterPiece piece;
    piece.rows = rows.data();
    piece.single = rows.itemsize() == 4;
    piece.samples = rows.shape(0);
    piece.features = rows.shape(1);
    piece.unit_column = unit_column;
    piece.errors = static_cast<const double*>(errors.data());
    piece.row_weight = row_weight ? static_cast<const double*>(row_weight->data()) : nullptr;
    piece.curvature = curvature;
    piece.outputs = errors.shape(1);
    piece.slab_rows = slab_rows;
    const cpu::Index p = piece.width() * piece.outputs;
    if (errors.shape(0) != piece.samples || out.ndim() != 2 || out.shape(0) != p || out.shape(1) != p)
        throw py::value_error("errors must have the rows of A, and out the square of the parameters");
    const cpu::OuterResult result{out.mutable_data(), out.itemsize() == 4, begin, end};
    py::gil_scoped_release release;
    cpu::outer_gram(piece, result, threads, *cpu::supported_isas()[isa]);
}

}  // namespace gradhess::bindings
