// Python's way into the CPU kernels: arrays become pointers, outcomes become exceptions. No mathematics here.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <bit>
#include <optional>
#include <string>
#include <vector>

#include "../cpu/accumulate.hpp"
#include "../cpu/arena.hpp"
#include "../cpu/batch.hpp"
#include "../cpu/dispatch.hpp"
#include "../cpu/extend.hpp"
#include "../cpu/grouped.hpp"
#include "../cpu/pairs.hpp"
#include "../cpu/rowwise.hpp"
#include "../cpu/totals.hpp"
#include "kronecker_sums.hpp"
#include "outer_gram.hpp"
#include "plain_arguments.hpp"

namespace py = pybind11;
namespace cpu = gradhess::cpu;
using cpu::Index;
using OptionalArray = std::optional<py::array>;

namespace {

const double* doubles(const OptionalArray& array) {
    return array ? static_cast<const double*>(array->data()) : nullptr;
}

template <class T = void>
T* writable(std::optional<py::array>& array) {
    return array ? static_cast<T*>(array->mutable_data()) : nullptr;
}

cpu::DType dtype_of(const py::array& array) {
    const py::dtype dtype = array.dtype();
    const auto size = dtype.itemsize();
    switch (dtype.kind()) {
        case 'f': return size == 8 ? cpu::DType::f64 : (size == 4 ? cpu::DType::f32 : cpu::DType::f16);
        case 'i':
            return size == 8 ? cpu::DType::i64
                             : (size == 4 ? cpu::DType::i32 : (size == 2 ? cpu::DType::i16 : cpu::DType::i8));
        case 'u':
            return size == 8 ? cpu::DType::u64
                             : (size == 4 ? cpu::DType::u32 : (size == 2 ? cpu::DType::u16 : cpu::DType::u8));
        case 'b': return cpu::DType::boolean;
        case 'V': return cpu::DType::bf16;  // ml_dtypes.bfloat16, the one such dtype that gets past gradhess._arrays
        default: throw py::type_error("X must be of a real dtype");
    }
}

// The arrays that a job points into stay alive as long as the job.
struct RowsHandle {
    cpu::Rows rows;
    py::array X;
    OptionalArray y, coef, intercept, loss_weight;
};

RowsHandle make_rows(py::array X, int kind, bool unit_column, int loss, double parameter, OptionalArray y,
                     OptionalArray coef, OptionalArray intercept, OptionalArray loss_weight,
                     std::tuple<std::uintptr_t, std::uintptr_t, std::uintptr_t> custom) {
    cpu::Rows rows;
    rows.data = X.data();
    rows.dtype = dtype_of(X);
    rows.swapped = X.dtype().byteorder() == (std::endian::native == std::endian::little ? '>' : '<');
    rows.samples = X.shape(0);
    rows.features = X.shape(1);
    rows.row_stride = X.strides(0);
    rows.column_stride = X.strides(1);
    rows.kind = static_cast<cpu::RowKind>(kind);
    rows.unit_column = unit_column;
    rows.loss = static_cast<cpu::Loss>(loss);
    rows.parameter = parameter;
    rows.y = y ? y->data() : nullptr;
    if (y) rows.y_dtype = dtype_of(*y);
    rows.coef = doubles(coef);
    rows.intercept = doubles(intercept);
    rows.loss_weight = doubles(loss_weight);
    rows.outputs = coef ? coef->shape(0) : 1;
    const auto function = [](std::uintptr_t address) { return reinterpret_cast<cpu::LossFunction>(address); };
    rows.custom = {function(std::get<0>(custom)), function(std::get<1>(custom)), function(std::get<2>(custom))};
    return {rows, std::move(X), std::move(y), std::move(coef), std::move(intercept), std::move(loss_weight)};
}

struct MomentsHandle {
    cpu::Moments moments;
    py::tuple arrays;
};

MomentsHandle make_moments(int structure, bool centred, OptionalArray scatter, py::array location,
                           OptionalArray block_scatter, py::array block_shift, py::array block_sum, py::array scalars,
                           py::array counts) {
    cpu::Moments moments;
    moments.structure = static_cast<cpu::Structure>(structure);
    moments.centred = centred;
    moments.scatter_f32 = scatter && scatter->itemsize() == 4;
    moments.parameters = location.shape(0);
    moments.scatter = writable(scatter);
    moments.block_scatter = writable(block_scatter);
    moments.location = static_cast<double*>(location.mutable_data());
    moments.block_shift = static_cast<double*>(block_shift.mutable_data());
    moments.block_sum = static_cast<double*>(block_sum.mutable_data());
    moments.scalars = static_cast<double*>(scalars.mutable_data());
    moments.counts = static_cast<Index*>(counts.mutable_data());
    return {moments, py::make_tuple(scatter, location, block_scatter, block_shift, block_sum, scalars, counts)};
}

const cpu::Isa& isa_at(std::size_t index) { return *cpu::supported_isas()[index]; }

// Runs on the calling thread while it holds no GIL: takes it, and asks Python whether a signal came in. The handler
// runs here, in the middle of a kernel, and may be a function that computes with gradhess itself.
bool signal_came(void*) {
    py::gil_scoped_acquire gil;
    const cpu::ArenaAside aside;
    return PyErr_CheckSignals() != 0;
}

// Index of the first row that is not finite, or -1. Raises what a signal handler raised.
Index accumulate(const RowsHandle& handle, const OptionalArray& weights, MomentsHandle& state, Index slab_rows,
                 Index block_rows, int threads, std::size_t isa) {
    if (state.moments.parameters != handle.rows.parameters())
        throw py::value_error("the state must be as wide as the rows");
    const cpu::Options options{{slab_rows, block_rows}, threads, {signal_came, nullptr}};
    cpu::Result result;
    {
        // Other Python threads go on; the arrays are kept alive by the caller's references.
        py::gil_scoped_release release;
        result = cpu::accumulate(handle.rows, doubles(weights), state.moments, options, isa_at(isa));
    }
    if (result.outcome == cpu::Outcome::interrupted) throw py::error_already_set();
    return result.row;
}

// `waiting` (2, slab_rows, p) and `waiting_weights` (2, slab_rows): of these the half that holds `n_waiting` rows comes
// first. Otherwise as `accumulate`.
Index extend(const RowsHandle& handle, const OptionalArray& weights, MomentsHandle& state, py::array waiting,
             OptionalArray waiting_weights, Index n_waiting, int half, Index block_rows, int threads, std::size_t isa) {
    const Index p = handle.rows.parameters();
    if (state.moments.parameters != p || waiting.shape(2) != p)
        throw py::value_error("the state must be as wide as the rows");
    if (waiting.itemsize() != (cpu::computes_in_float(handle.rows.dtype) ? 4 : 8))
        throw py::value_error("rows that wait must be of the compute type");
    if (weights && !waiting_weights) throw py::value_error("rows that wait need weights, too");
    const Index slab_rows = waiting.shape(1);
    cpu::Waiting room;
    for (int h = 0; h < 2; ++h) {
        const Index place = h == half ? 0 : 1;
        room.rows[place] = static_cast<char*>(waiting.mutable_data()) + h * waiting.strides(0);
        if (waiting_weights) room.weights[place] = writable<double>(waiting_weights) + h * slab_rows;
    }
    room.count = n_waiting;
    const cpu::Options options{{slab_rows, block_rows}, threads, {signal_came, nullptr}};
    cpu::Result result;
    {
        py::gil_scoped_release release;
        result = cpu::extend(handle.rows, doubles(weights), state.moments, room, options, isa_at(isa));
    }
    if (result.outcome == cpu::Outcome::interrupted) throw py::error_already_set();
    return result.row;
}

// (scatter or None, location, loss) of a batch, finished (sum_batch); or the index of the first row that is not finite.
py::object batch_moments(const RowsHandle& handle, const OptionalArray& weights, int structure, bool centred,
                         bool scatter_f32, std::optional<double> scale, Index slab_rows, Index block_rows, int threads,
                         std::size_t isa) {
    cpu::Moments moments;
    moments.structure = static_cast<cpu::Structure>(structure);
    moments.centred = centred;
    moments.scatter_f32 = scatter_f32;
    const Index p = moments.parameters = handle.rows.parameters();
    py::array_t<double> location(p);
    py::object scatter = py::none();
    if (moments.structure != cpu::Structure::sum) {
        std::vector<Index> shape(moments.structure == cpu::Structure::full ? 2 : 1, p);
        py::array array(scatter_f32 ? py::dtype::of<float>() : py::dtype::of<double>(), std::move(shape));
        moments.scatter = array.mutable_data();
        scatter = std::move(array);
    }
    moments.location = location.mutable_data();
    std::fill_n(moments.location, p, 0.0);
    double scalars[6] = {};
    Index counts[2] = {};
    moments.scalars = scalars;
    moments.counts = counts;
    cpu::Options options{{slab_rows, block_rows}, threads, {signal_came, nullptr}};
    options.scale = scale ? &*scale : nullptr;
    cpu::Result result;
    {
        py::gil_scoped_release release;
        result = cpu::sum_batch(handle.rows, doubles(weights), moments, options, isa_at(isa));
    }
    if (result.outcome == cpu::Outcome::interrupted) throw py::error_already_set();
    if (result.outcome == cpu::Outcome::nonfinite) return py::int_(result.row);
    return py::make_tuple(std::move(scatter), std::move(location), scalars[cpu::kLoss]);
}

void symmetrize(const py::array& lower, double scale, py::array out, int threads, std::size_t isa) {
    const bool narrow = lower.itemsize() == 4;
    const void* from = lower.data();
    void* to = out.mutable_data();
    const Index n = lower.shape(0);
    py::gil_scoped_release release;
    if (narrow) {
        cpu::symmetrize(static_cast<const float*>(from), n, n, scale, static_cast<float*>(to), threads, isa_at(isa));
    } else {
        cpu::symmetrize(static_cast<const double*>(from), n, n, scale, static_cast<double*>(to), threads, isa_at(isa));
    }
}

py::array_t<double> norms(const RowsHandle& handle, int threads, std::size_t isa) {
    py::array_t<double> out(handle.rows.samples);
    double* data = out.mutable_data();
    py::gil_scoped_release release;
    cpu::norms(handle.rows, data, threads, isa_at(isa));
    return out;
}

py::array_t<double> errors(const RowsHandle& handle, int threads, std::size_t isa) {
    py::array_t<double> out({handle.rows.samples, handle.rows.row_outputs()});
    double* data = out.mutable_data();
    py::gil_scoped_release release;
    cpu::errors(handle.rows, data, threads, isa_at(isa));
    return out;
}

py::array_t<double> multiply(const RowsHandle& handle, const py::array& vectors, const OptionalArray& units,
                             int threads, std::size_t isa) {
    const Index m = vectors.shape(0);
    py::array_t<double> out({handle.rows.samples, m});
    double* data = out.mutable_data();
    const auto* from = static_cast<const double*>(vectors.data());
    py::gil_scoped_release release;
    cpu::multiply(handle.rows, from, doubles(units), m, data, threads, isa_at(isa));
    return out;
}

// (m, outputs, width): G^T u, or G^T G V where u is None.
py::array_t<double> multiply_transposed(const RowsHandle& handle, const OptionalArray& u, const OptionalArray& vectors,
                                        const OptionalArray& units, int threads, std::size_t isa) {
    const Index m = u ? u->shape(1) : vectors->shape(0);
    py::array_t<double> out({m, handle.rows.row_outputs(), handle.rows.width()});
    double* data = out.mutable_data();
    py::gil_scoped_release release;
    cpu::multiply_transposed(handle.rows, doubles(u), doubles(vectors), doubles(units), m, data, threads, isa_at(isa));
    return out;
}

py::array_t<double> pair_dependence(const py::array& labels, int q, const py::array& input_weights,
                                    const OptionalArray& target_weights, Index rows, int threads, std::size_t isa) {
    cpu::PairJob job;
    job.targets = labels.shape(0);
    job.inputs = labels.shape(1);
    job.rows = rows;
    job.q = q;
    job.input_weights = static_cast<const double*>(input_weights.data());
    job.target_weights = doubles(target_weights);
    const auto* from = static_cast<const std::uint8_t*>(labels.data());
    py::array_t<double> sums(job.rows);
    double* to = sums.mutable_data();
    bool done = false;
    {
        py::gil_scoped_release release;
        done = cpu::pair_dependence(from, job, to, threads, {signal_came, nullptr}, isa_at(isa));
    }
    if (!done) throw py::error_already_set();
    return sums;
}

// Index of the first group that names a row that is not there, or -1.
Index group_sums(const RowsHandle& handle, const py::array& offsets, const OptionalArray& indices,
                 const OptionalArray& slopes, const OptionalArray& factors, const OptionalArray& shifts,
                 const OptionalArray& scale, py::array out, int threads, std::size_t isa) {
    cpu::Groups groups;
    groups.offsets = static_cast<const Index*>(offsets.data());
    groups.indices = indices ? static_cast<const Index*>(indices->data()) : nullptr;
    groups.slopes = doubles(slopes);
    groups.factors = doubles(factors);
    groups.shifts = doubles(shifts);
    groups.scale = doubles(scale);
    groups.count = offsets.shape(0) - 1;
    groups.outputs = slopes ? slopes->shape(1) : 1;
    if (out.shape(0) != groups.count || out.shape(1) != handle.rows.width() * groups.outputs)
        throw py::value_error("out must have a row for each group");
    void* data = out.mutable_data();
    py::gil_scoped_release release;
    return cpu::group_sums(handle.rows, groups, data, threads, isa_at(isa));
}

py::tuple isa_names() {
    py::list names;
    for (const cpu::Isa* isa : cpu::supported_isas()) names.append(isa->name);
    return py::tuple(names);
}

}  // namespace

PYBIND11_MODULE(_cpu, m, py::mod_gil_not_used()) {
    m.doc() = "CPU kernels of gradhess; called through gradhess._backends.cpu.";
    py::class_<RowsHandle>(m, "Rows");
    py::class_<MomentsHandle>(m, "Moments");
    m.def("rows", &make_rows);
    m.def("moments", &make_moments);
    m.def("accumulate", &accumulate);
    m.def("extend", &extend);
    m.def("batch_moments", &batch_moments);
    m.def("close_block", [](MomentsHandle& state) {
        py::gil_scoped_release release;
        cpu::close_block(state.moments);
    });
    m.def("merge", [](MomentsHandle& state, const MomentsHandle& other) {
        py::gil_scoped_release release;
        cpu::merge(state.moments, other.moments);
    });
    m.def("symmetrize", &symmetrize);
    m.def("materialize", [](const RowsHandle& handle, py::array out, std::size_t isa) {
        if (out.ndim() != 2 || out.shape(0) != handle.rows.samples || out.shape(1) != handle.rows.parameters())
            throw py::value_error("out must have the shape of the rows");
        void* data = out.mutable_data();
        py::gil_scoped_release release;
        cpu::materialize(handle.rows, data, isa_at(isa));
    });
    m.def("first_nonfinite", [](const RowsHandle& handle, const OptionalArray& weights, int threads, std::size_t isa) {
        py::gil_scoped_release release;
        return cpu::first_nonfinite(handle.rows, doubles(weights), threads, isa_at(isa));
    });
    m.def("all_finite", [](const py::array& array, int threads) {
        const auto* data = static_cast<const double*>(array.data());
        const Index count = array.size();
        py::gil_scoped_release release;
        return cpu::all_finite(data, count, threads);
    });
    m.def("errors", &errors);
    m.def("norms", &norms);
    m.def("multiply", &multiply);
    m.def("multiply_transposed", &multiply_transposed);
    m.def("group_sums", &group_sums);
    m.def("outer_gram", &gradhess::bindings::outer_gram);
    m.def("kronecker_sums", &gradhess::bindings::kronecker_sums);
    m.def("pair_dependence", &pair_dependence);
    m.def("are_plain_glm", &gradhess::bindings::are_plain_glm);
    m.def("are_zero_or_within", &gradhess::bindings::are_zero_or_within);
    m.def("isa_names", &isa_names);
    m.def("compiler", [] { return std::string(__VERSION__); });
    m.def("probe_fma_peak", [](bool single, int threads, double seconds, std::size_t isa) {
        py::gil_scoped_release release;
        return cpu::probe_fma_peak(single, threads, seconds, isa_at(isa));
    });
    m.def("probe_read_bandwidth", &cpu::probe_read_bandwidth, py::call_guard<py::gil_scoped_release>());
}
