// Encodes tensor maps through the driver's entry point, asked for at run time: the module links no libcuda and imports
// where there is no driver.
#include "tensor_map.hpp"

#include "../device/launch.cuh"
#include "maps.hpp"

namespace gradhess::cuda::tensor {

constexpr int kNotSupported = 801;  // cudaErrorNotSupported

#if defined(GRADHESS_CUDA_EMULATOR)

Status encode_planes(TensorMap& map, const std::uint16_t* data, std::int64_t pitch, std::int64_t rows, int planes,
                     std::int64_t plane_stride) {
    if (!cuda_emulator::emulator().settings.tensor_maps) {
        return {kNotSupported, "tensor maps are switched off", __FILE__, __LINE__};
    }
    map = {data, pitch, rows, planes, pitch, plane_stride};
    return {};
}

#else

namespace {

constexpr int kInvalidValue = static_cast<int>(cudaErrorInvalidValue);

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                            const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                            CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

Encode find_encode() {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
#else
    const cudaError_t error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
    if (error != cudaSuccess) cudaGetLastError();
    const bool usable = error == cudaSuccess && found == cudaDriverEntryPointSuccess;
    return usable ? reinterpret_cast<Encode>(function) : nullptr;
}

}  // namespace

Status encode_planes(TensorMap& map, const std::uint16_t* data, std::int64_t pitch, std::int64_t rows, int planes,
                     std::int64_t plane_stride) {
    static const Encode encode = find_encode();
    if (!encode) {
        return {kNotSupported, "the driver has no cuTensorMapEncodeTiled; CUDA 12 or newer is needed", __FILE__,
                __LINE__};
    }
    constexpr std::int64_t bytes = sizeof(std::uint16_t);
    const cuuint64_t size[3] = {static_cast<cuuint64_t>(pitch), static_cast<cuuint64_t>(rows),
                                static_cast<cuuint64_t>(planes)};
    // One plane has no stride of its own; the encoder wants one all the same.
    const std::int64_t between_planes = planes > 1 ? plane_stride : rows * pitch;
    const cuuint64_t stride[2] = {static_cast<cuuint64_t>(pitch * bytes),
                                  static_cast<cuuint64_t>(between_planes * bytes)};
    const cuuint32_t box[3] = {kBoxColumns, kBoxRows, 1};
    const cuuint32_t step[3] = {1, 1, 1};
    // The copy does not look at the numbers: float16 planes are copied as bfloat16.
    const CUresult result = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<std::uint16_t*>(data), size,
                                   stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result == CUDA_SUCCESS) return {};
    return {kInvalidValue, "cuTensorMapEncodeTiled: CUresult " + std::to_string(static_cast<int>(result)), __FILE__,
            __LINE__};
}

#endif

}  // namespace gradhess::cuda::tensor
