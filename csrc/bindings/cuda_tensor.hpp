// The tensor-core kernels of csrc/cuda/tensor for Python.
#pragma once

#include <pybind11/pybind11.h>

namespace gradhess::bindings {

// `module` has CudaError already.
void register_tensor(pybind11::module_& module);

}  // namespace gradhess::bindings
