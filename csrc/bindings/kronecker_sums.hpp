// Python's way into the sums of Kronecker products.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <utility>
#include <vector>

#include "../cpu/dispatch.hpp"
#include "../cpu/kronecker_sums.hpp"

namespace gradhess::bindings {

namespace py = pybind11;

inline void kronecker_sums(const py::array& activations,
                           const std::vector<std::pair<std::optional<py::array>, py::array>>& factors, py::array out,
                           cpu::Index slab_rows, int threads, std::size_t isa) {
    cpu::KroneckerJob job;
    job.activations = static_cast<const double*>(activations.data());
    job.samples = activations.shape(0);
    job.features = activations.shape(1);
    job.slab_rows = slab_rows;
    for (const auto& [left, right] : factors) {
        job.outputs = right.shape(2);
        const py::array& first = left ? *left : right;
        if (right.shape(0) != job.samples || first.shape(0) != job.samples || first.shape(1) != right.shape(1) ||
            first.shape(2) != right.shape(2) || (!left && right.shape(1) != right.shape(2)))
            throw py::value_error("factors must have the rows of A, and agree in shape");
        job.factors.push_back({left ? static_cast<const double*>(left->data()) : nullptr,
                               static_cast<const double*>(right.data()), right.shape(1)});
    }
    if (out.ndim() != 3 || out.shape(0) != static_cast<cpu::Index>(factors.size()) || out.shape(1) != job.weights() ||
        out.shape(2) != job.pairs())
        throw py::value_error("out must have a place for each factor, entry and pair");
    job.out = static_cast<double*>(out.mutable_data());
    py::gil_scoped_release release;
    cpu::kronecker_sums(job, threads, *cpu::supported_isas()[isa]);
}

}  // namespace gradhess::bindings
