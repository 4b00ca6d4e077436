// gradhess._cuda: the functions of csrc/cuda/api.hpp for Python. Pointers come as integers, as in
// __cuda_array_interface__; what they point to is checked in gradhess/_backends/cuda.py.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/api.hpp"
#include "cuda/triangle.hpp"

namespace py = pybind11;
namespace cuda = gradhess::cuda;

namespace {

struct CudaError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

void require(const char* what, const cuda::Status& status) {
    if (status.ok()) return;
    throw CudaError(std::string(what) + ": CUDA error " + std::to_string(status.code) + " (" + status.reason + ")");
}

template <class T>
T* pointer(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

cuda::DType dtype_of(const std::string& name) {
    if (name == "float64") return cuda::DType::f64;
    if (name == "float32") return cuda::DType::f32;
    throw py::value_error("dtype is '" + name + "'; it must be float64 or float32");
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

void weighted_gram(std::uintptr_t data, const std::string& dtype, cuda::Index samples, cuda::Index features,
                   cuda::Index row_stride, std::uintptr_t weights, std::uintptr_t gram, std::uintptr_t stream) {
    if (samples < 0 || features < 1 || row_stride < features) {
        throw py::value_error("samples must be >= 0, features >= 1 and row_stride >= features");
    }
    const cuda::Rows rows{pointer<const void>(data), dtype_of(dtype), samples, features, row_stride};
    cuda::Status status;
    {
        py::gil_scoped_release release;  // a launch can wait for a full queue
        status =
            cuda::weighted_gram(rows, pointer<const double>(weights), pointer<double>(gram), pointer<void>(stream));
    }
    require("weighted_gram", status);
}

py::tuple tile_position(cuda::Index number) {
    const auto [row, column] = cuda::tile_position(number);
    return py::make_tuple(row, column);
}

}  // namespace

PYBIND11_MODULE(_cuda, module, py::mod_gil_not_used()) {
    const py::object backend_error = py::module_::import("gradhess.errors").attr("BackendError");
    py::register_exception<CudaError>(module, "CudaError", backend_error.ptr());
    module.attr("RUNTIME_VERSION") = cuda::runtime_version();
    module.attr("ARCHITECTURES") = GRADHESS_CUDA_ARCHITECTURES;

    module.def("device_count", &device_count);
    module.def("device_name", &device_name, py::arg("device"));
    module.def("weighted_gram", &weighted_gram, py::kw_only(), py::arg("data"), py::arg("dtype"), py::arg("samples"),
               py::arg("features"), py::arg("row_stride"), py::arg("weights"), py::arg("gram"), py::arg("stream"));
    module.def("tile_position", &tile_position, py::arg("number"));
}
