// gradhess._cuda: the functions of csrc/cuda/api.hpp for Python. Pointers come as integers, as in
// __cuda_array_interface__; what they point to is checked in gradhess/_backends/cuda.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <utility>

#include "cuda/api.hpp"
#include "cuda/schedule.hpp"
#include "cuda_call.hpp"
#include "cuda_tensor.hpp"

#if defined(GRADHESS_CUDA_EMULATOR)
#include "cuda_emulator/emulator.hpp"
#endif

namespace py = pybind11;
namespace cuda = gradhess::cuda;
using cuda::Index;
using namespace gradhess::bindings;

namespace {

template <class T>
T* pointer_in(const py::dict& from, const char* name) {
    return from.contains(name) ? pointer<T>(from[name].cast<std::uintptr_t>()) : nullptr;
}

template <class T>
T value_in(const py::dict& from, const char* name, T otherwise) {
    return from.contains(name) ? from[name].cast<T>() : otherwise;
}

// The position of `name` in a list of names, for enumerations that count from `first`.
template <class Enumeration, std::size_t N>
Enumeration named(const std::string& name, const char* what, const char* const (&names)[N], int first = 0) {
    for (std::size_t i = 0; i < N; ++i)
        if (name == names[i]) return static_cast<Enumeration>(static_cast<int>(i) + first);
    throw py::value_error(std::string(what) + " is '" + name + "', which the kernels do not know");
}

cuda::DType dtype_of(const std::string& name) {
    return named<cuda::DType>(name, "dtype", {"float64", "float32", "float16", "bfloat16"});
}

cuda::Block block_of(const py::dict& from) {
    cuda::Block block;
    block.data = pointer_in<const void>(from, "data");
    block.dtype = dtype_of(from["dtype"].cast<std::string>());
    block.samples = from["samples"].cast<Index>();
    block.features = from["features"].cast<Index>();
    block.row_stride = from["row_stride"].cast<Index>();
    block.column_stride = from["column_stride"].cast<Index>();
    block.kind =
        named<cuda::RowKind>(value_in<std::string>(from, "kind", "dense"), "kind", {"dense", "gradient", "hessian"});
    block.unit_column = value_in(from, "unit_column", false);
    block.loss = named<cuda::Loss>(value_in<std::string>(from, "loss", "none"), "loss",
                                   {"none", "squared", "logistic", "poisson", "huber", "custom"}, -1);
    block.parameter = value_in(from, "parameter", 0.0);
    block.y = pointer_in<const void>(from, "y");
    block.y_is_float = value_in(from, "y_is_float", false);
    block.coef = pointer_in<const double>(from, "coef");
    block.intercept = pointer_in<const double>(from, "intercept");
    block.loss_weight = pointer_in<const double>(from, "loss_weight");
    block.slopes = pointer_in<const double>(from, "slopes");
    block.values = pointer_in<const double>(from, "values");
    block.outputs = value_in(from, "outputs", Index{1});
    block.weights = pointer_in<const double>(from, "weights");
    block.shift = pointer_in<const void>(from, "shift");
    block.gate = pointer_in<const Index>(from, "gate");
    block.first_row = value_in(from, "first_row", Index{0});
    if (block.samples < 0 || block.features < 1 || block.outputs < 1)
        throw py::value_error("samples must be >= 0, features and outputs >= 1");
    if (block.outputs > 1 && !block.slopes) throw py::value_error("several outputs must come with slopes");
    const bool predicted = block.predicted();
    if (predicted && !(block.y && block.coef)) throw py::value_error("a loss needs y and coef");
    if (block.kind != cuda::RowKind::dense && !predicted && !block.slopes)
        throw py::value_error("gradient and hessian rows need a loss or slopes");
    return block;
}

cuda::Panel panel_of(const py::dict& from, Index parameters) {
    cuda::Panel panel;
    panel.rows = pointer_in<void>(from, "rows");
    panel.pitch = from["pitch"].cast<Index>();
    panel.planes = pointer_in<std::uint16_t>(from, "planes");
    panel.plane_count = value_in(from, "plane_count", 0);
    panel.half = value_in(from, "half", false);
    panel.plane_stride = value_in(from, "plane_stride", Index{0});
    panel.exponents = pointer_in<const std::int32_t>(from, "exponents");
    panel.overflow = pointer_in<std::int32_t>(from, "overflow");
    panel.row_weight = pointer_in<double>(from, "row_weight");
    panel.sums = pointer_in<double>(from, "sums");
    panel.squares = pointer_in<double>(from, "squares");
    panel.totals = pointer_in<double>(from, "totals");
    panel.bad = pointer_in<Index>(from, "bad");
    if (panel.pitch < parameters || panel.pitch % 8 != 0)
        throw py::value_error("pitch must be a multiple of 8 that holds the parameters");
    const auto aligned = [](const void* address) { return reinterpret_cast<std::uintptr_t>(address) % 16 == 0; };
    if (!aligned(panel.rows) || !aligned(panel.planes))
        throw py::value_error("rows and planes of a panel must be aligned to 16 bytes");
    if (!panel.sums || !panel.totals || !panel.bad) throw py::value_error("a panel needs sums, totals and bad");
    return panel;
}

// Calls back with a kernel to compile and launch; errors of Python go through.
cuda::RunTimeLaunch launch_of(const py::object& function) {
    if (function.is_none()) return {};
    return [&function](const cuda::KernelCall& call) {
        const py::gil_scoped_acquire gil;
        const py::bytes job(static_cast<const char*>(call.job_data), call.job_bytes);
        function(call.function, call.job, call.bounds, call.grid, call.threads, call.shared_bytes, job);
        return cuda::Status{};
    };
}

void row_pass(const py::dict& block_fields, const py::dict& panel_fields, std::uintptr_t workspace,
              std::uintptr_t stream, bool validate, const py::object& launch) {
    const cuda::Block block = block_of(block_fields);
    const cuda::Panel panel = panel_of(panel_fields, block.parameters());
    run("row_pass", [&] {
        return cuda::row_pass(block, panel, pointer<void>(workspace), stream_at(stream, validate), launch_of(launch));
    });
}

void row_slopes(const py::dict& block_fields, std::uintptr_t slopes, std::uintptr_t values, std::uintptr_t stream,
                bool validate, const py::object& launch) {
    const cuda::Block block = block_of(block_fields);
    if (!block.predicted()) throw py::value_error("slopes are of rows with a loss");
    run("row_slopes", [&] {
        return cuda::row_slopes(block, pointer<double>(slopes), pointer<double>(values), stream_at(stream, validate),
                                launch_of(launch));
    });
}

Index rank_update_workspace(const std::string& dtype, Index samples, Index columns) {
    return cuda::rank_update_workspace(dtype_of(dtype), samples, columns);
}

void rank_update(std::uintptr_t rows, const std::string& dtype, Index samples, Index columns, Index pitch,
                 std::uintptr_t row_weight, std::uintptr_t scatter, bool scatter_is_float, std::uintptr_t workspace,
                 std::uintptr_t stream, bool validate, int blocks) {
    cuda::RankUpdate update;
    update.rows = pointer<const void>(rows);
    update.dtype = dtype_of(dtype);
    update.samples = samples;
    update.columns = columns;
    update.pitch = pitch;
    update.row_weight = pointer<const double>(row_weight);
    update.scatter = pointer<void>(scatter);
    update.scatter_is_float = scatter_is_float;
    update.blocks = blocks;
    if (update.dtype != cuda::DType::f64 && update.dtype != cuda::DType::f32)
        throw py::value_error("dtype must be float64 or float32");
    if (samples < 0 || columns < 1 || pitch < columns || pitch % 4 != 0 || rows % 16 != 0)
        throw py::value_error("rows must be aligned to 16 bytes, with a pitch that is a multiple of 4");
    run("rank_update",
        [&] { return cuda::rank_update(update, pointer<void>(workspace), stream_at(stream, validate)); });
}

// (address, pitch, whether terms lie apart)
using FactorArguments = std::tuple<std::uintptr_t, Index, bool>;

cuda::Factor factor_of(const FactorArguments& from, Index entries, Index terms) {
    const auto [data, pitch, terms_apart] = from;
    if (data % sizeof(double) != 0) throw py::value_error("factors must be aligned to 8 bytes");
    if ((terms_apart ? terms : entries) > 1 && pitch < (terms_apart ? entries : terms))
        throw py::value_error("the pitch of a factor must hold its rows");
    return {pointer<const double>(data), entries, pitch, terms_apart};
}

void matrix_product(const FactorArguments& left, const FactorArguments& right, Index rows, Index columns, Index terms,
                    std::uintptr_t out, Index row_stride, Index column_stride, bool add, std::uintptr_t workspace,
                    std::uintptr_t stream, bool validate, int blocks) {
    if (rows < 0 || columns < 0 || terms < 0) throw py::value_error("rows, columns and terms must be >= 0");
    cuda::MatrixProduct product;
    product.left = factor_of(left, rows, terms);
    product.right = factor_of(right, columns, terms);
    product.terms = terms;
    product.out = pointer<double>(out);
    product.row_stride = row_stride;
    product.column_stride = column_stride;
    product.add = add;
    product.blocks = blocks;
    run("matrix_product",
        [&] { return cuda::matrix_product(product, pointer<void>(workspace), stream_at(stream, validate)); });
}

void narrow_update(const py::dict& block_fields, const py::dict& panel_fields, std::uintptr_t scatter,
                   bool scatter_is_float, std::uintptr_t workspace, std::uintptr_t stream, bool validate,
                   const py::object& launch) {
    const cuda::Block block = block_of(block_fields);
    cuda::Panel panel = panel_of(panel_fields, block.parameters());
    panel.row_weight = nullptr;
    if (block.parameters() > cuda::kMostNarrow || block.outputs > 1)
        throw py::value_error("narrow rows have at most 128 parameters and one output");
    run("narrow_update", [&] {
        return cuda::narrow_update(block, panel, pointer<void>(scatter), scatter_is_float, pointer<void>(workspace),
                                   stream_at(stream, validate), launch_of(launch));
    });
}

py::tuple device_count() {
    int count = 0;
    const cuda::Status status = cuda::count_devices(count);
    return py::make_tuple(count, status.code, status.reason);
}

std::string device_name(int device) {
    std::string name;
    require("device_name", cuda::device_name(device, name));
    return name;
}

void self_test(std::uintptr_t result, std::uintptr_t stream, bool validate) {
    run("self_test", [&] { return cuda::self_test(pointer<int>(result), stream_at(stream, validate)); });
}

py::tuple tile_position(Index number, Index tile_rows) {
    const auto [row, column] = cuda::super_block_tile(number, tile_rows);
    return py::make_tuple(row, column);
}

}  // namespace

PYBIND11_MODULE(_cuda, module, py::mod_gil_not_used()) {
    const py::object device_error = py::module_::import("gradhess.errors").attr("DeviceError");
    py::register_local_exception<CudaError>(module, "CudaError", device_error.ptr());
    const py::object memory_error = py::module_::import("gradhess.errors").attr("DeviceMemoryError");
    py::register_local_exception<CudaMemoryError>(module, "CudaMemoryError", memory_error.ptr());
    module.attr("RUNTIME_VERSION") = cuda::runtime_version();
    module.attr("ARCHITECTURES") = GRADHESS_CUDA_ARCHITECTURES;
    module.attr("SELF_TEST") = cuda::kSelfTest;

    module.def("device_count", &device_count);
    module.def("device_name", &device_name, py::arg("device"));
    module.def("self_test", &self_test, py::kw_only(), py::arg("result"), py::arg("stream"),
               py::arg("validate") = false);
    module.def("row_pass_workspace", &cuda::row_pass_workspace, py::arg("samples"), py::arg("parameters"));
    module.def("row_pass", &row_pass, py::arg("block"), py::arg("panel"), py::kw_only(), py::arg("workspace"),
               py::arg("stream"), py::arg("validate") = false, py::arg("launch") = py::none());
    module.def("row_slopes", &row_slopes, py::arg("block"), py::kw_only(), py::arg("slopes"), py::arg("values"),
               py::arg("stream"), py::arg("validate") = false, py::arg("launch") = py::none());
    module.def("rank_update_workspace", &rank_update_workspace, py::arg("dtype"), py::arg("samples"),
               py::arg("columns"));
    module.def("rank_update", &rank_update, py::kw_only(), py::arg("rows"), py::arg("dtype"), py::arg("samples"),
               py::arg("columns"), py::arg("pitch"), py::arg("row_weight"), py::arg("scatter"),
               py::arg("scatter_is_float"), py::arg("workspace"), py::arg("stream"), py::arg("validate") = false,
               py::arg("blocks") = 0);
    module.def("matrix_product_workspace", &cuda::matrix_product_workspace, py::arg("rows"), py::arg("columns"),
               py::arg("terms"));
    module.def("matrix_product", &matrix_product, py::kw_only(), py::arg("left"), py::arg("right"), py::arg("rows"),
               py::arg("columns"), py::arg("terms"), py::arg("out"), py::arg("row_stride"), py::arg("column_stride"),
               py::arg("add"), py::arg("workspace"), py::arg("stream"), py::arg("validate") = false,
               py::arg("blocks") = 0);
    module.def("narrow_workspace", &cuda::narrow_workspace, py::arg("samples"), py::arg("parameters"));
    module.def("narrow_update", &narrow_update, py::arg("block"), py::arg("panel"), py::kw_only(), py::arg("scatter"),
               py::arg("scatter_is_float"), py::arg("workspace"), py::arg("stream"), py::arg("validate") = false,
               py::arg("launch") = py::none());
    module.def("tile_position", &tile_position, py::arg("number"), py::arg("tile_rows"));
    register_tensor(module);
#if defined(GRADHESS_CUDA_EMULATOR)
    module.def("emulate_architecture", [](int number) { cuda_emulator::emulator().settings.architecture = number; });
    module.def("emulate_schedule", [](std::uint64_t seed) { cuda_emulator::emulator().settings.seed = seed; });
    module.def("emulate_tensor_maps", [](bool work) { cuda_emulator::emulator().settings.tensor_maps = work; });
    // Launches since the last call: (kernel, threads, bytes of shared memory, blocks).
    module.def("emulated_launches", [] {
        py::list found;
        for (const auto& one : std::exchange(cuda_emulator::emulator().launches, {}))
            found.append(py::make_tuple(reinterpret_cast<std::uintptr_t>(one.kernel), one.block.x, one.shared_bytes,
                                        one.grid.x));
        return found;
    });
    module.def(
        "emulate_refusal",
        [](std::uintptr_t kernel, unsigned threads, std::size_t shared_bytes, unsigned most_blocks) {
            auto& settings = cuda_emulator::emulator().settings;
            settings.refused_kernel = pointer<const void>(kernel);
            settings.refused_threads = threads;
            settings.refused_shared_bytes = shared_bytes;
            settings.most_blocks = most_blocks;
        },
        py::arg("kernel") = 0, py::arg("threads") = 0, py::arg("shared_bytes") = 0,
        py::arg("most_blocks") = (1u << 31) - 1);
#endif
}
