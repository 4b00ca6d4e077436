// Tensor maps: what the tensor memory accelerator (TMA, sm_90) has to know about planes to copy boxes of them.
#pragma once

#include <cstdint>

#include "../planes.hpp"
#include "../status.hpp"

#if !defined(GRADHESS_CUDA_EMULATOR)
#include <cuda.h>  // types only: nothing links libcuda
#endif

namespace gradhess::cuda::tensor {

#if defined(GRADHESS_CUDA_EMULATOR)

struct alignas(64) TensorMap {
    const std::uint16_t* data;
    std::int64_t columns;
    std::int64_t rows;
    std::int64_t planes;
    std::int64_t pitch;
    std::int64_t plane_stride;
};

#else

using TensorMap = CUtensorMap;

#endif

constexpr int kBoxRows = 64;  // kBoxColumns columns each; see maps.hpp

// A map of (planes, rows, pitch) in boxes of 1 x 64 x 64, swizzled by 128 bytes; zeros beyond the planes.
Status encode_planes(TensorMap& map, const std::uint16_t* data, std::int64_t pitch, std::int64_t rows, int planes,
                     std::int64_t plane_stride);

}  // namespace gradhess::cuda::tensor
