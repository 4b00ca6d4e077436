// A Python module of the tensor-core kernels, run by the emulator: the bindings as they are, the kernels compiled as
// C++, host arrays for device memory. tests/emulated_tensor.py builds it.
#include <pybind11/pybind11.h>

#include "../../csrc/bindings/cuda_tensor.cpp"
#include "../../csrc/cuda/tensor/finish.cu"
#include "../../csrc/cuda/tensor/split.cu"
#include "../../csrc/cuda/tensor/tensor_map.cu"
#include "../../csrc/cuda/tensor/update.cu"
#include "../../csrc/cuda/tensor/update_mma.cu"
#include "../../csrc/cuda/tensor/update_wgmma.cu"
#include "tensor_maps.hpp"

PYBIND11_MODULE(_emulated_tensor, module) {
    gradhess::bindings::register_tensor(module);
    module.def("seed", [](std::uint64_t seed) { cuda_emulator::emulator().settings.seed = seed; });
    register_maps(module);
}
