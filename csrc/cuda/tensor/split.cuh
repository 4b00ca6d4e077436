// Rows of float32 or float64 into 16-bit planes (format: ../planes.hpp), and the powers of two that columns are
// multiplied by on the way.
//
// Layout:   one thread for each 8 neighbouring columns of a row: 16 bytes of every plane at once.
// Cost:     one read of the rows, one write of the planes: 4 + 6 bytes for each float32 entry in three planes.
// Not yet run on hardware.
#pragma once

#include <cstring>
#include <type_traits>

#include "../device/number_types.cuh"
#include "../device/platform.cuh"
#include "../planes.hpp"

namespace gradhess::cuda::tensor {

using Index = std::int64_t;

constexpr int kSplitThreads = 256;
constexpr int kPeakRows = 256;  // rows of which one thread block finds the largest entry of each column

// Rows as the kernels read them: row i begins at data + i row_stride, and block p of the planes is the rows times
// factors[i factor_stride + p].
template <class T>
struct SourceRows {
    const T* data;
    Index rows;
    Index columns;
    Index row_stride;
    const double* factors;  // (rows, factor_stride), or null
    Index factor_stride;

    // An entry as it is split: rounded once to float32.
    GRADHESS_DEVICE float entry(Index row, Index column, Index block) const {
        const T value = data[row * row_stride + column];
        if (!factors) return static_cast<float>(value);
        return static_cast<float>(factors[row * factor_stride + block] * static_cast<double>(value));
    }
};

template <class T>
struct SplitJob {
    SourceRows<T> source;
    Index blocks;
    Index block_pitch;
    Planes planes;
    std::int32_t* overflow;  // set to 1 where a number is beyond the range of the type, or is not finite; or null
};

// Writes `value` as COUNT numbers, the largest first. Differences are exact: a plane has the leading bits of what it is
// subtracted from. False where the value is infinite, NaN, or beyond the range of the type.
template <class Number, int COUNT>
GRADHESS_DEVICE bool split(float value, std::uint16_t (&planes)[COUNT]) {
    constexpr bool half = std::is_same_v<Number, device::Half>;
    constexpr float largest = half ? 65504.0f : 3.3895313892515355e38f;
    const bool fits = value <= largest && value >= -largest;
#pragma unroll
    for (int plane = 0; plane < COUNT; ++plane) {
        const Number rounded = device::round_to<Number>(value);
        planes[plane] = rounded.bits;
        value -= device::to_float(rounded);
    }
    return fits;
}

// 2^exponent for -126 <= exponent <= 127, which exponents of columns are kept to.
GRADHESS_DEVICE float float_power_of_two(int exponent) {
    const int bits = (exponent + 127) << 23;
#if defined(__CUDA_ARCH__)
    return __int_as_float(bits);
#else
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

struct alignas(16) Chunk {
    std::uint16_t entries[kPlaneAlign];
};

template <class T, class Number, int COUNT>
__global__ void __launch_bounds__(kSplitThreads) split_kernel(SplitJob<T> job) {
    const Index chunks = job.planes.pitch / kPlaneAlign;
    const Index items = job.source.rows * chunks;
    const Index step = static_cast<Index>(gridDim.x) * kSplitThreads;
    for (Index item = static_cast<Index>(blockIdx.x) * kSplitThreads + device::thread_number(); item < items;
         item += step) {
        const Index row = item / chunks;
        const Index first = item % chunks * kPlaneAlign;
        const Index block = first / job.block_pitch;
        const Index first_column = first % job.block_pitch;
        Chunk planes[COUNT];
        bool fits = true;
#pragma unroll
        for (int i = 0; i < kPlaneAlign; ++i) {
            const Index column = first_column + i;
            float value = 0.0f;  // from the last column of a block to the next, and to the pitch
            if (block < job.blocks && column < job.source.columns) {
                value = job.source.entry(row, column, block);
                if (job.planes.exponents) value *= float_power_of_two(job.planes.exponents[first + i]);
            }
            std::uint16_t parts[COUNT];
            fits = split<Number>(value, parts) && fits;
#pragma unroll
            for (int plane = 0; plane < COUNT; ++plane) planes[plane].entries[i] = parts[plane];
        }
#pragma unroll
        for (int plane = 0; plane < COUNT; ++plane) {
            std::uint16_t* to = job.planes.data + plane * job.planes.plane_stride + row * job.planes.pitch + first;
            *reinterpret_cast<Chunk*>(to) = planes[plane];
        }
        if (!fits && job.overflow) *job.overflow = 1;  // all that write write the same
    }
}

template <class T>
struct PeakJob {
    SourceRows<T> source;
    float* peaks;  // (segments of kPeakRows rows, columns)
    Index segments;
    std::int32_t* exponents;  // (columns,)
    int largest;
};

// Largest |entry| of each column over kPeakRows rows; a block takes kSplitThreads columns.
template <class T>
__global__ void __launch_bounds__(kSplitThreads) peaks_kernel(PeakJob<T> job) {
    const Index columns = job.source.columns;
    const Index groups = (columns + kSplitThreads - 1) / kSplitThreads;
    const Index segment = static_cast<Index>(blockIdx.x) / groups;
    const Index column = static_cast<Index>(blockIdx.x) % groups * kSplitThreads + device::thread_number();
    if (column >= columns) return;
    const Index begin = segment * kPeakRows;
    const Index end = begin + kPeakRows < job.source.rows ? begin + kPeakRows : job.source.rows;
    float peak = 0.0f;
    for (Index row = begin; row < end; ++row) {
        const float value = job.source.entry(row, column, 0);
        const float size = value < 0.0f ? -value : value;
        if (size > peak) peak = size;  // false for NaN, which the split finds
    }
    job.peaks[segment * columns + column] = peak;
}

// e_j such that max |y_j| 2^(e_j) is in [2^largest, 2^(largest + 1)); 0 for columns of zeros and of infinities.
template <class T>
__global__ void __launch_bounds__(kSplitThreads) exponents_kernel(PeakJob<T> job) {
    const Index column = static_cast<Index>(blockIdx.x) * kSplitThreads + device::thread_number();
    if (column >= job.source.columns) return;
    float peak = 0.0f;
    for (Index segment = 0; segment < job.segments; ++segment) {
        const float value = job.peaks[segment * job.source.columns + column];
        if (value > peak) peak = value;
    }
    int exponent = 0;
    if (peak > 0.0f && peak <= 3.4028234663852886e38f) {
        const double scaled = static_cast<double>(peak);  // float64 has no subnormal float32
#if defined(__CUDA_ARCH__)
        const auto bits = static_cast<unsigned long long>(__double_as_longlong(scaled));
#else
        unsigned long long bits;
        std::memcpy(&bits, &scaled, sizeof bits);
#endif
        exponent = job.largest - (static_cast<int>(bits >> 52 & 0x7ff) - 1023);
        if (exponent > 120) exponent = 120;
        if (exponent < -120) exponent = -120;
    }
    job.exponents[column] = exponent;
}

}  // namespace gradhess::cuda::tensor
