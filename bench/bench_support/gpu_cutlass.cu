// CUTLASS's symmetric product for bench/gpu.py: the lower triangle of C = Y^T Y, of bfloat16 rows and a float32 C.
// CUTLASS has RankK for mma.sync (sm_80) only; a device of sm_90 runs the same kernel. Compiled by gpu_cutlass.py.
#include <cutlass/gemm/device/rank_k.h>

#include <cstdint>

namespace {

// Tiles of threadblock and warp are square, as the kernel wants them for a triangle; both choices are tried.
template <int TILE, int WARP, int DEPTH, int STAGES>
int rank_k(const void* Y, void* C, std::int64_t n, std::int64_t p, void* stream) {
    using cutlass::gemm::GemmShape;
    using Epilogue = cutlass::epilogue::thread::LinearCombination<float, 1, float, float>;  // one, for a triangle
    // Rows of Y in memory are columns of A = Y^T.
    using Product =
        cutlass::gemm::device::RankK<cutlass::bfloat16_t, cutlass::layout::ColumnMajor, float,
                                     cutlass::layout::RowMajor, cutlass::FillMode::kLower, float,
                                     cutlass::arch::OpClassTensorOp, cutlass::arch::Sm80, GemmShape<TILE, TILE, DEPTH>,
                                     GemmShape<WARP, WARP, DEPTH>, GemmShape<16, 8, 16>, Epilogue,
                                     cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<8>, STAGES, 8>;
    const int columns = static_cast<int>(p);
    const typename Product::Arguments arguments(cutlass::gemm::GemmUniversalMode::kGemm,
                                                {columns, columns, static_cast<int>(n)}, 1, {1.0f, 0.0f}, Y, C, C, 0, 0,
                                                0, p, p, p);
    cutlass::Status status = Product::can_implement(arguments);
    Product product;
    if (status == cutlass::Status::kSuccess) status = product.initialize(arguments);
    if (status == cutlass::Status::kSuccess) status = product.run(static_cast<cudaStream_t>(stream));
    return static_cast<int>(status);
}

}  // namespace

// Y is (n, p) and C (p, p), row-major; p is a multiple of 8. The cutlass::Status: 0 is success.
extern "C" __attribute__((visibility("default"))) int cutlass_rank_k(int choice, const void* Y, void* C, std::int64_t n,
                                                                     std::int64_t p, void* stream) {
    return choice == 0 ? rank_k<128, 64, 32, 5>(Y, C, n, p, stream) : rank_k<128, 64, 64, 3>(Y, C, n, p, stream);
}
