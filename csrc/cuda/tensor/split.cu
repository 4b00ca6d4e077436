// Launches of split.cuh.
#include "split.cuh"

#include "../device/launch.cuh"
#include "api.hpp"

namespace gradhess::cuda::tensor {
namespace {

constexpr Index kMostBlocks = Index{1} << 20;  // more loop

template <class T>
SourceRows<T> source_of(const SplitRows& rows) {
    return {
        static_cast<const T*>(rows.data), rows.rows, rows.columns, rows.row_stride, rows.factors, rows.factor_stride};
}

template <class T, class Number, int COUNT>
Status split_into(const SplitJob<T>& job, Stream stream) {
    const Index items = job.source.rows * (job.planes.pitch / kPlaneAlign);
    if (items == 0) return {};
    const Index blocks = (items + kSplitThreads - 1) / kSplitThreads;
    device::LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks));
    shape.threads = kSplitThreads;
    shape.stream = stream;
    return device::launch(shape, split_kernel<T, Number, COUNT>, job);
}

template <class T>
Status split_typed(const SplitRows& rows, const Planes& planes, bool half, std::int32_t* overflow, Stream stream) {
    SplitJob<T> job{};
    job.source = source_of<T>(rows);
    job.blocks = rows.blocks;
    job.block_pitch = rows.blocks > 1 ? rows.block_pitch : planes.pitch;
    job.planes = planes;
    job.overflow = overflow;
    switch (planes.count) {
        case 1:
            return half ? split_into<T, device::Half, 1>(job, stream) : split_into<T, device::BFloat16, 1>(job, stream);
        case 2:
            return half ? split_into<T, device::Half, 2>(job, stream) : split_into<T, device::BFloat16, 2>(job, stream);
        default:
            return half ? split_into<T, device::Half, 3>(job, stream) : split_into<T, device::BFloat16, 3>(job, stream);
    }
}

Index peak_segments(Index rows) { return (rows + kPeakRows - 1) / kPeakRows; }

template <class T>
Status exponents_typed(const SplitRows& rows, std::int32_t* exponents, int largest, void* workspace, Stream stream) {
    PeakJob<T> job{};
    job.source = source_of<T>(rows);
    job.peaks = static_cast<float*>(workspace);
    job.segments = peak_segments(rows.rows);
    job.exponents = exponents;
    job.largest = largest;
    const Index groups = (rows.columns + kSplitThreads - 1) / kSplitThreads;
    device::LaunchShape shape;
    shape.threads = kSplitThreads;
    shape.stream = stream;
    if (job.segments > 0) {
        shape.grid = dim3(static_cast<unsigned>(job.segments * groups));
        const Status status = device::launch(shape, peaks_kernel<T>, job);
        if (!status.ok()) return status;
    }
    shape.grid = dim3(static_cast<unsigned>(groups));
    return device::launch(shape, exponents_kernel<T>, job);
}

}  // namespace

Index column_exponents_workspace(Index rows, Index columns) {
    return static_cast<Index>(sizeof(float)) * peak_segments(rows) * columns;
}

Status column_exponents(const SplitRows& rows, std::int32_t* exponents, int largest, void* workspace, Stream stream) {
    if (rows.columns == 0) return {};
    return rows.is_double ? exponents_typed<double>(rows, exponents, largest, workspace, stream)
                          : exponents_typed<float>(rows, exponents, largest, workspace, stream);
}

Status split_rows(const SplitRows& rows, const Planes& planes, bool half, std::int32_t* overflow, Stream stream) {
    return rows.is_double ? split_typed<double>(rows, planes, half, overflow, stream)
                          : split_typed<float>(rows, planes, half, overflow, stream);
}

}  // namespace gradhess::cuda::tensor
