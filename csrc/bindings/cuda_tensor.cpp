// The functions of csrc/cuda/tensor/api.hpp for Python, named tensor_*. Pointers come as integers; what they point to
// is checked by the caller, what would make a kernel read or write elsewhere is checked here.
#include "cuda_tensor.hpp"

#include <cstdint>
#include <string>

#include "cuda/tensor/api.hpp"
#include "cuda_call.hpp"

namespace py = pybind11;

namespace gradhess::bindings {
namespace {

namespace cuda = gradhess::cuda;
namespace tensor = gradhess::cuda::tensor;
using cuda::Planes;
using tensor::Index;

constexpr const char* kSchemeNames[cuda::kSchemes] = {"bf16",   "fp16",       "bf16x3",    "bf16x6",
                                                      "fp16x3", "bf16_left2", "bf16_left3"};

void require(bool condition, const char* message) {
    if (!condition) throw py::value_error(message);
}

int scheme_number(const std::string& name) {
    for (int i = 0; i < cuda::kSchemes; ++i)
        if (name == kSchemeNames[i]) return i;
    throw py::value_error("scheme is '" + name + "'; TENSOR_SCHEMES lists what there is");
}

void check_planes(const Planes& planes) {
    require(planes.rows >= 0 && planes.columns >= 1, "planes must have rows >= 0 and columns >= 1");
    require(planes.rows <= INT32_MAX && planes.pitch <= INT32_MAX, "planes must have fewer than 2^31 rows and columns");
    require(planes.count >= 1 && planes.count <= 3, "planes must be 1, 2 or 3");
    require(planes.pitch >= planes.columns && planes.pitch % cuda::kPlaneAlign == 0,
            "pitch of planes must be a multiple of 8 and at least columns");
    require(planes.count == 1 ||
                (planes.plane_stride >= planes.rows * planes.pitch && planes.plane_stride % cuda::kPlaneAlign == 0),
            "plane_stride must be a multiple of 8 and at least rows * pitch");
    require(reinterpret_cast<std::uintptr_t>(planes.data) % 16 == 0, "planes must be aligned to 16 bytes");
}

void check_blocks(Index columns, Index blocks, Index block_pitch) {
    require(blocks == 1 || (block_pitch >= columns && block_pitch % cuda::kPlaneAlign == 0),
            "block_pitch must be a multiple of 8 and at least columns");
}

Planes planes_of(std::uintptr_t data, int count, Index rows, Index columns, Index pitch, Index plane_stride,
                 std::uintptr_t exponents) {
    const Planes planes{pointer<std::uint16_t>(data),          count, rows, columns, pitch, plane_stride,
                        pointer<const std::int32_t>(exponents)};
    check_planes(planes);
    return planes;
}

tensor::SplitRows rows_of(std::uintptr_t data, const std::string& dtype, Index rows, Index columns, Index row_stride,
                          std::uintptr_t factors, Index factor_stride) {
    require(dtype == "float32" || dtype == "float64", "dtype must be float32 or float64");
    require(rows >= 0 && columns >= 1 && row_stride >= columns, "rows >= 0, columns >= 1, row_stride >= columns");
    return {pointer<const void>(data),      dtype == "float64", rows, columns, row_stride,
            pointer<const double>(factors), factor_stride};
}

void split_rows(std::uintptr_t data, const std::string& dtype, Index rows, Index columns, Index row_stride,
                std::uintptr_t factors, Index factor_stride, Index blocks, Index block_pitch, std::uintptr_t planes,
                int count, bool half, Index pitch, Index plane_stride, std::uintptr_t exponents,
                std::uintptr_t overflow, std::uintptr_t stream, bool validate) {
    auto from = rows_of(data, dtype, rows, columns, row_stride, factors, factor_stride);
    require(blocks >= 1 && factor_stride >= blocks, "blocks must be at least 1 and at most factor_stride");
    check_blocks(columns, blocks, block_pitch);
    from.blocks = blocks;
    from.block_pitch = block_pitch;
    const auto to =
        planes_of(planes, count, rows, (blocks - 1) * block_pitch + columns, pitch, plane_stride, exponents);
    run("tensor_split_rows", [&] {
        return tensor::split_rows(from, to, half, pointer<std::int32_t>(overflow), stream_at(stream, validate));
    });
}

void column_exponents(std::uintptr_t data, const std::string& dtype, Index rows, Index columns, Index row_stride,
                      std::uintptr_t factors, Index factor_stride, std::uintptr_t exponents, int largest,
                      std::uintptr_t workspace, std::uintptr_t stream, bool validate) {
    require(largest >= -14 && largest <= 15, "largest must be from -14 to 15, the range of float16");
    const auto from = rows_of(data, dtype, rows, columns, row_stride, factors, factor_stride);
    run("tensor_column_exponents", [&] {
        return tensor::column_exponents(from, pointer<std::int32_t>(exponents), largest, pointer<void>(workspace),
                                        stream_at(stream, validate));
    });
}

tensor::Kernel kernel_of(const std::string& name) {
    if (name == "automatic") return tensor::Kernel::automatic;
    if (name == "mma") return tensor::Kernel::mma;
    if (name == "wgmma") return tensor::Kernel::wgmma;
    throw py::value_error("kernel is '" + name + "'; it must be automatic, mma or wgmma");
}

void update(const std::string& scheme, const py::tuple& left, const py::tuple& right, Index rows, Index first_row,
            Index columns, Index blocks, Index block_pitch, std::uintptr_t gram, bool gram_is_float, Index gram_pitch,
            std::uintptr_t workspace, std::uintptr_t stream, bool validate, const std::string& kernel, int grid) {
    const int number = scheme_number(scheme);
    const cuda::SchemeTable& table = cuda::kSchemeTable[number];
    require(columns >= 1 && blocks >= 1, "columns and blocks must be at least 1");
    check_blocks(columns, blocks, block_pitch);
    require(gram_pitch >= blocks * columns, "gram_pitch must be at least blocks * columns");
    require(first_row >= 0 && first_row % tensor::kUpdateRowAlign == 0, "first_row must be a multiple of 128");
    const Index width = (blocks - 1) * block_pitch + columns;
    const auto operand = [&](const py::tuple& of, int count) {
        require(of.size() == 4, "an operand is (data, pitch, plane_stride, exponents)");
        return planes_of(of[0].cast<std::uintptr_t>(), count, rows, width, of[1].cast<Index>(), of[2].cast<Index>(),
                         of[3].cast<std::uintptr_t>());
    };
    tensor::Update call;
    call.scheme = static_cast<cuda::Scheme>(number);
    call.left = operand(left, table.left_planes);
    call.right = operand(right, table.right_planes);
    call.first_row = first_row;
    call.columns = columns;
    call.blocks = blocks;
    call.block_pitch = block_pitch;
    call.gram = pointer<void>(gram);
    call.gram_is_float = gram_is_float;
    call.gram_pitch = gram_pitch;
    call.kernel = kernel_of(kernel);
    call.grid = grid;
    run("tensor_update", [&] { return tensor::update(call, pointer<void>(workspace), stream_at(stream, validate)); });
}

void mirror(std::uintptr_t gram, bool gram_is_float, Index gram_pitch, Index columns, Index blocks,
            std::uintptr_t stream, bool validate) {
    require(columns >= 1 && blocks >= 1 && gram_pitch >= blocks * columns,
            "columns and blocks must be at least 1, gram_pitch at least blocks * columns");
    run("tensor_mirror", [&] {
        return tensor::mirror(pointer<void>(gram), gram_is_float, gram_pitch, columns, blocks,
                              stream_at(stream, validate));
    });
}

}  // namespace

void register_tensor(py::module_& module) {
    py::dict schemes;  // name: (left planes, right planes, half)
    for (int i = 0; i < cuda::kSchemes; ++i) {
        const cuda::SchemeTable& table = cuda::kSchemeTable[i];
        schemes[kSchemeNames[i]] = py::make_tuple(table.left_planes, table.right_planes, table.half);
    }
    module.attr("TENSOR_SCHEMES") = schemes;
    module.attr("TENSOR_FLUSH_ROWS") = cuda::kFlushRows;

    // What the current device runs: "wgmma", "mma", or "" where it runs neither.
    module.def("tensor_kernel", [] {
        const tensor::Kernel kernel = tensor::best_kernel();
        return std::string(kernel == tensor::Kernel::wgmma ? "wgmma" : kernel == tensor::Kernel::mma ? "mma" : "");
    });

    using py::arg;
    const py::kw_only named;
    module.def("tensor_split_rows", &split_rows, named, arg("data"), arg("dtype"), arg("rows"), arg("columns"),
               arg("row_stride"), arg("factors"), arg("factor_stride") = 1, arg("blocks") = 1, arg("block_pitch") = 0,
               arg("planes"), arg("count"), arg("half"), arg("pitch"), arg("plane_stride"), arg("exponents"),
               arg("overflow"), arg("stream"), arg("validate") = false);
    module.def("tensor_column_exponents_workspace", &tensor::column_exponents_workspace, arg("rows"), arg("columns"));
    module.def("tensor_column_exponents", &column_exponents, named, arg("data"), arg("dtype"), arg("rows"),
               arg("columns"), arg("row_stride"), arg("factors"), arg("factor_stride") = 1, arg("exponents"),
               arg("largest"), arg("workspace"), arg("stream"), arg("validate") = false);
    module.def("tensor_update_workspace", &tensor::update_workspace, named, arg("first_row"), arg("rows"),
               arg("columns"), arg("blocks") = 1);
    module.def("tensor_update", &update, named, arg("scheme"), arg("left"), arg("right"), arg("rows"), arg("first_row"),
               arg("columns"), arg("blocks") = 1, arg("block_pitch") = 0, arg("gram"), arg("gram_is_float") = false,
               arg("gram_pitch"), arg("workspace"), arg("stream"), arg("validate") = false, arg("kernel") = "automatic",
               arg("grid") = 0);
    module.def("tensor_mirror", &mirror, named, arg("gram"), arg("gram_is_float") = false, arg("gram_pitch"),
               arg("columns"), arg("blocks") = 1, arg("stream"), arg("validate") = false);
}

}  // namespace gradhess::bindings
