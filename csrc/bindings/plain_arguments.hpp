// Whether arguments are what they nearly always are, said in one call: for small data, checks one by one in Python take
// longer than the sums. A "no" says nothing but that Python has to look closer, and to find the words.
#pragma once

#include <pybind11/numpy.h>

#include <cmath>

#include "../cpu/chains.hpp"

namespace gradhess::bindings {

namespace py = pybind11;
using cpu::Index;

// Labels of a loss; the codes of gradhess/_backends/plain.py.
enum class Labels : int { real, zero_or_one, not_negative };

// An array of NumPy's own class with so many axes, aligned, and of one of two types in the byte order of the machine.
inline bool is_plain(const py::handle& value, int axes, const py::dtype& one, const py::dtype& other) {
    const auto& api = py::detail::npy_api::get();
    if (reinterpret_cast<PyObject*>(Py_TYPE(value.ptr())) != reinterpret_cast<PyObject*>(api.PyArray_Type_))
        return false;
    const auto* array = py::detail::array_proxy(value.ptr());
    const bool of_type = array->descr == one.ptr() || array->descr == other.ptr();
    return array->nd == axes && of_type && (array->flags & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
}

inline bool is_contiguous(const py::handle& array) {
    return (py::detail::array_proxy(array.ptr())->flags & py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_) != 0;
}

// Whether a condition holds for all of them: a sum over vectors, without a way out in the middle.
template <class T, class Condition>
bool holds_for_all(const T* values, Index count, Condition holds) {
    return cpu::sum_of(values, count, [=](T value) { return holds(value) ? T(0) : T(1); }) == T(0);
}

template <class T>
bool are_labels(const T* y, Index count, Labels labels) {
    switch (labels) {
        case Labels::zero_or_one: return holds_for_all(y, count, [](T value) { return value * value == value; });
        case Labels::not_negative: return holds_for_all(y, count, [](T value) { return value >= T(0); });
        default: return true;
    }
}

// X (n, d) with d at least one, y (n,) and coef (d,): arrays of NumPy that need no conversion, labels in their domain,
// coefficients that are finite. Labels that are NaN, or infinite, may be either.
inline bool are_plain_glm(const py::handle& X, const py::handle& y, const py::handle& coef, int labels) {
    static const py::dtype* const f64 = new py::dtype(py::dtype::of<double>());
    static const py::dtype* const f32 = new py::dtype(py::dtype::of<float>());
    if (!is_plain(X, 2, *f64, *f32) || !is_plain(y, 1, *f64, *f32) || !is_plain(coef, 1, *f64, *f64)) return false;
    const auto shape = [](const py::handle& array, int axis) {
        return static_cast<Index>(py::detail::array_proxy(array.ptr())->dimensions[axis]);
    };
    const Index n = shape(X, 0);
    const Index d = shape(X, 1);
    if (d == 0 || shape(y, 0) != n || shape(coef, 0) != d || !is_contiguous(y) || !is_contiguous(coef)) return false;
    const auto* from = py::detail::array_proxy(y.ptr());
    const auto kind = static_cast<Labels>(labels);
    return cpu::all_finite(reinterpret_cast<const double*>(py::detail::array_proxy(coef.ptr())->data), d) &&
           (from->descr == f64->ptr() ? are_labels(reinterpret_cast<const double*>(from->data), n, kind)
                                      : are_labels(reinterpret_cast<const float*>(from->data), n, kind));
}

// Whether weights (n,) are zero or of a size within bounds; contiguous float64.
inline bool are_zero_or_within(const py::array& weights, double least, double most) {
    const auto* from = static_cast<const double*>(weights.data());
    return holds_for_all(from, weights.size(), [=](double weight) {
        const double size = std::fabs(weight);
        return (size == 0.0) | ((size >= least) & (size <= most));
    });
}

}  // namespace gradhess::bindings
