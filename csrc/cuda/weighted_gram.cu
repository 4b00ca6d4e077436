// gram += X^T diag(s) X for row-major X (samples x features) and s of any sign.
//
// Layout:   one thread block computes one 64 x 64 tile on or below the diagonal of the result and walks all rows, so
//           every sum has one owner and one order: no atomics, the same bits in every run. 16 x 16 threads, 4 x 4
//           results each. A tile below the diagonal is also written to its mirror image.
// Blocking: 16 rows at a time go to shared memory, once plain and once multiplied by s (2 x 16 x 64 values, 16 KiB of
//           float64). float32 rows are multiplied and added in float32 over a slab of 256 rows, and slabs in float64.
// Cost:     n d (d + 64) FLOP; X is read d / 64 times. A first kernel, without tensor cores: correct before fast.
// Source:   the blocked outer product of any GEMM; the two-level sum is that of gradhess/_backends/layout.py.
#include <cuda_runtime.h>

#include "api.hpp"
#include "triangle.hpp"

namespace gradhess::cuda {
namespace {

constexpr int kTile = 64;     // features in a tile
constexpr int kThreads = 16;  // threads along each side of a tile
constexpr int kPerThread = kTile / kThreads;
constexpr int kPanelRows = 16;  // rows in shared memory
constexpr int kSlabRows = 256;  // layout.SLAB_ROWS
constexpr int kLoads = kPanelRows * kTile / (kThreads * kThreads);

struct Job {
    Index samples;
    Index features;
    Index row_stride;
    const double* weights;
    double* gram;
};

template <class T>
__device__ void load_panel(const T* data, const Job& job, Index first_row, Index first_column, bool weighted,
                           T (&panel)[kPanelRows][kTile]) {
    const int thread = static_cast<int>(threadIdx.y) * kThreads + static_cast<int>(threadIdx.x);
    for (int load = 0; load < kLoads; ++load) {
        const int position = thread + load * kThreads * kThreads;
        const int panel_row = position / kTile;
        const int panel_column = position % kTile;
        const Index row = first_row + panel_row;
        const Index column = first_column + panel_column;
        T value = T(0);  // outside of X: adds nothing
        if (row < job.samples && column < job.features) {
            value = data[row * job.row_stride + column];
            if (weighted) value = static_cast<T>(job.weights[row] * static_cast<double>(value));
        }
        panel[panel_row][panel_column] = value;
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads* kThreads) weighted_gram_kernel(const T* data, Job job) {
    __shared__ T scaled[kPanelRows][kTile];
    __shared__ T plain[kPanelRows][kTile];

    const TilePosition tile = tile_position(static_cast<Index>(blockIdx.x));
    const Index tile_row = tile.row * kTile;
    const Index tile_column = tile.column * kTile;
    const int ty = static_cast<int>(threadIdx.y);
    const int tx = static_cast<int>(threadIdx.x);

    double total[kPerThread][kPerThread] = {};
    for (Index slab = 0; slab < job.samples; slab += kSlabRows) {
        T sum[kPerThread][kPerThread] = {};
        const Index slab_end = slab + kSlabRows < job.samples ? slab + kSlabRows : job.samples;
        for (Index first_row = slab; first_row < slab_end; first_row += kPanelRows) {
            load_panel(data, job, first_row, tile_row, job.weights != nullptr, scaled);
            load_panel(data, job, first_row, tile_column, false, plain);
            __syncthreads();
            for (int row = 0; row < kPanelRows; ++row) {
#pragma unroll
                for (int i = 0; i < kPerThread; ++i) {
#pragma unroll
                    for (int j = 0; j < kPerThread; ++j) {
                        sum[i][j] += scaled[row][ty + i * kThreads] * plain[row][tx + j * kThreads];
                    }
                }
            }
            __syncthreads();  // before the next panel overwrites what a slower warp still reads
        }
#pragma unroll
        for (int i = 0; i < kPerThread; ++i) {
#pragma unroll
            for (int j = 0; j < kPerThread; ++j) total[i][j] += static_cast<double>(sum[i][j]);
        }
    }

#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
#pragma unroll
        for (int j = 0; j < kPerThread; ++j) {
            const Index row = tile_row + ty + i * kThreads;
            const Index column = tile_column + tx + j * kThreads;
            // On the diagonal tile the upper half would be the same sums with s on the other factor, rounded
            // otherwise; mirroring the lower half keeps the result symmetric to the bit.
            if (row >= job.features || column > row) continue;
            job.gram[row * job.features + column] += total[i][j];
            if (column != row) job.gram[column * job.features + row] += total[i][j];
        }
    }
}

Status status_of(cudaError_t error) {
    if (error == cudaSuccess) return {};
    return {static_cast<int>(error), cudaGetErrorString(error), __FILE__, __LINE__};
}

template <class T>
void launch(const Rows& rows, const Job& job, cudaStream_t stream) {
    const Index tiles = triangle_tiles((rows.features + kTile - 1) / kTile);
    const dim3 threads(kThreads, kThreads);
    weighted_gram_kernel<T>
        <<<static_cast<unsigned>(tiles), threads, 0, stream>>>(static_cast<const T*>(rows.data), job);
}

}  // namespace

int runtime_version() { return CUDART_VERSION; }

Status count_devices(int& count) {
    count = 0;
    return status_of(cudaGetDeviceCount(&count));
}

Status device_name(int device, std::string& name) {
    cudaDeviceProp properties;
    const Status status = status_of(cudaGetDeviceProperties(&properties, device));
    if (status.ok()) name = properties.name;
    return status;
}

Status weighted_gram(const Rows& rows, const double* weights, double* gram, void* stream) {
    if (rows.samples == 0 || rows.features == 0) return {};
    const Job job{rows.samples, rows.features, rows.row_stride, weights, gram};
    cudaGetLastError();  // an error that somebody else left behind is not reported as ours
    switch (rows.dtype) {
        case DType::f64: launch<double>(rows, job, static_cast<cudaStream_t>(stream)); break;
        case DType::f32: launch<float>(rows, job, static_cast<cudaStream_t>(stream)); break;
    }
    return status_of(cudaGetLastError());
}

}  // namespace gradhess::cuda
