// Index maps of the CUDA kernels, checked exhaustively on the host, and the emulator itself.
#include <array>
#include <cstdio>
#include <set>
#include <string>

#include "cuda/device/barrier.cuh"
#include "cuda/device/launch.cuh"
#include "cuda/device/ldmatrix.cuh"
#include "cuda/device/mma.cuh"
#include "cuda/device/warp.cuh"
#include "cuda/dmma.cuh"
#include "cuda/ffma.cuh"
#include "cuda/matrix_product.cuh"
#include "cuda/schedule.hpp"

using namespace gradhess::cuda;
using namespace gradhess::cuda::device;

namespace {

int checks = 0;
int failures = 0;

void check(bool condition, const std::string& what) {
    ++checks;
    if (condition) return;
    ++failures;
    std::printf("failed: %s\n", what.c_str());
}

// Each entry of a rows x columns matrix is held exactly once by the registers of a warp.
template <class Map>
void check_fragment(const char* name, int rows, int columns, int registers, Map map) {
    std::set<std::pair<int, int>> seen;
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < registers; ++i) {
            const Entry at = map(lane, i);
            check(at.row >= 0 && at.row < rows && at.column >= 0 && at.column < columns, name);
            seen.insert({at.row, at.column});
        }
    check(static_cast<int>(seen.size()) == rows * columns, name);
}

void check_fragments() {
    check_fragment("A 16x16, 16 bits", 16, 16, 8, a_entry_16x16);
    check_fragment("B 16x8, 16 bits", 16, 8, 4, b_entry_16x8);
    check_fragment("C 16x8", 16, 8, 4, c_entry_16x8);
    check_fragment("A 8x4", 8, 4, 1, [](int lane, int) { return a_entry_8x4(lane); });
    check_fragment("B 4x8", 4, 8, 1, [](int lane, int) { return b_entry_4x8(lane); });
    check_fragment("C 8x8", 8, 8, 2, c_entry_8x8);
    check_fragment("A 16x16, doubles", 16, 16, 8, a_entry_16x16_f64);
    check_fragment("B 16x8, doubles", 16, 8, 4, b_entry_16x8_f64);
    // The m16n8k16 of doubles splits into m8n8k4 whose fragments are the same registers.
    for (int lane = 0; lane < 32; ++lane)
        for (int k = 0; k < 4; ++k) {
            const Entry upper = a_entry_16x16_f64(lane, 2 * k);
            const Entry lower = a_entry_16x16_f64(lane, 2 * k + 1);
            const Entry right = b_entry_16x8_f64(lane, k);
            check(upper.row == a_entry_8x4(lane).row && upper.column == a_entry_8x4(lane).column + 4 * k, "split A");
            check(lower.row == upper.row + 8 && lower.column == upper.column, "split A, lower half");
            check(right.row == b_entry_4x8(lane).row + 4 * k && right.column == b_entry_4x8(lane).column, "split B");
        }
}

// The most different words that one of 32 banks serves to `lanes` lanes, for addresses in bytes and `width` of a lane.
template <class Address>
int bank_conflicts(int lanes, int width, Address address) {
    int worst = 0;
    const int phase_lanes = 128 / width < lanes ? 128 / width : lanes;  // a wave has 128 bytes
    for (int first = 0; first < lanes; first += phase_lanes) {
        std::array<std::set<int>, 32> banks;
        for (int lane = first; lane < first + phase_lanes; ++lane)
            for (int byte = 0; byte < width; byte += 4) {
                const int word = (address(lane) + byte) / 4;
                banks[static_cast<std::size_t>(word % 32)].insert(word);
            }
        for (const auto& bank : banks) worst = std::max(worst, static_cast<int>(bank.size()));
    }
    return worst;
}

void check_banks() {
    constexpr int doubles = rank::StageLayout<double>::kPitch;
    for (int i = 0; i < 8; ++i)
        check(bank_conflicts(32, 8,
                             [&](int lane) {
                                 const Entry at = a_entry_16x16_f64(lane, i);
                                 return 8 * (at.column * doubles + at.row);
                             }) == 1,
              "banks of the left operand, doubles");
    for (int i = 0; i < 4; ++i)
        check(bank_conflicts(32, 8,
                             [&](int lane) {
                                 const Entry at = b_entry_16x8_f64(lane, i);
                                 return 8 * (at.row * doubles + at.column);
                             }) == 1,
              "banks of the right operand, doubles");
    check(bank_conflicts(32, 16, [](int lane) { return 16 * (lane % 8); }) == 1, "banks of the right operand, floats");
    check(bank_conflicts(32, 16, [](int lane) { return 16 * (lane / 8); }) == 1, "banks of the left operand, floats");
    check(rank::StageLayout<double>::kPitch * 8 % 16 == 0 && rank::StageLayout<float>::kPitch * 4 % 16 == 0, "pitch");
    check(rank::kStages * rank::StageLayout<double>::kBytes <= 163 << 10, "stages fit on sm_80");
    check(rank::StageLayout<double>::kBytes % 16 == 0 && rank::StageLayout<float>::kBytes % 16 == 0, "stage alignment");
}

template <bool APART>
void check_product_panel(const char* name) {
    using Layout = products::PanelLayout<APART>;
    std::set<int> places;
    for (int k = 0; k < products::kStageRows; ++k)
        for (int entry = 0; entry < products::kTile; ++entry) places.insert(Layout::place(k, entry));
    check(static_cast<int>(places.size()) == products::kStageRows * products::kTile, name);
    check(*places.begin() == 0 && *places.rbegin() < Layout::kNumbers, name);
    for (int i = 0; i < 8; ++i)
        check(bank_conflicts(32, 8,
                             [&](int lane) {
                                 const Entry at = a_entry_16x16_f64(lane, i);
                                 return 8 * Layout::place(at.column, at.row);
                             }) == 1,
              name);
    for (int i = 0; i < 4; ++i)
        check(bank_conflicts(32, 8,
                             [&](int lane) {
                                 const Entry at = b_entry_16x8_f64(lane, i);
                                 return 8 * Layout::place(at.row, at.column);
                             }) == 1,
              name);
    check(2 * products::kStages * Layout::kNumbers * 8 <= 163 << 10, "stages of a product fit on sm_80");
}

void check_products() {
    check_product_panel<true>("panels whose terms lie apart");
    check_product_panel<false>("panels whose terms lie side by side");
    for (const Index rows : {1, 2, 11, 12, 13, 25})
        for (const Index columns : {1, 2, 13, 40}) {
            std::set<std::pair<Index, Index>> seen;
            for (Index number = 0; number < rows * columns; ++number) {
                const TilePosition tile = products::strip_tile(number, rows, columns);
                check(tile.row >= 0 && tile.row < rows && tile.column >= 0 && tile.column < columns, "strips");
                seen.insert({tile.row, tile.column});
            }
            check(static_cast<Index>(seen.size()) == rows * columns, "every tile of a product once");
        }
}

void check_splits() {
    for (const Index samples : {1, 255, 256, 1000, 16384, 65536})
        for (Index tiles = 1; tiles < 700; tiles += 7)
            for (const Index granule : {16, 256}) {
                const Split split = split_rows(samples, tiles, granule, 512);
                const bool covers = split.splits * split.split_rows >= samples;
                const bool none_empty = (split.splits - 1) * split.split_rows < samples;
                check(covers && none_empty && split.split_rows % granule == 0, "splits cover the rows once");
                check(split.splits == 1 || split.split_rows >= 512, "splits are not short");
            }
    check(split_rows(16384, 36, 16, 512).splits == 11, "d = 1024: three full waves on 132 multiprocessors");
    check(split_rows(16384, 528, 16, 512).splits == 1, "d = 4096: no splits");
}

// ---- the emulator ----

void barrier_that_half_reaches() {
    if (thread_number() < 32) __syncthreads();
}
void read_before_the_copy_is_waited_for(const float* from, float* out) {
    auto* shared = reinterpret_cast<float*>(dynamic_shared());
    copy_async<16>(shared + 4 * thread_number(), from + 4 * thread_number());
    commit_copies();
    out[thread_number()] = shared[4 * thread_number()];
}
void neighbours_without_a_barrier(int* out) {
    auto* shared = reinterpret_cast<int*>(dynamic_shared());
    shared[thread_number()] = thread_number();
    out[thread_number()] = shared[(thread_number() + 33) % 64];
}
void write_behind_the_end() { dynamic_shared()[64] = 1; }
void misaligned_copy(const float* from) { copy_async<16>(dynamic_shared(), from + 1); }
void different_operations() {
    if (lane_number() < 16) {
        from_lane(1, 0);
    } else {
        __syncwarp();
    }
}

bool fails_with(const Status& status, const char* text) {
    return !status.ok() && status.reason.find(text) != std::string::npos;
}

void check_emulator() {
    alignas(16) float from[256] = {};
    float out[64];
    int integers[64];
    LaunchShape shape;
    shape.threads = 64;
    shape.shared_bytes = 1024;
    check(fails_with(launch(shape, barrier_that_half_reaches), "wait for what cannot come"), "deadlock");
    check(launch(shape, read_before_the_copy_is_waited_for, static_cast<const float*>(from), static_cast<float*>(out))
                  .ok() &&
              out[5] != out[5],
          "a copy that was not waited for is late");
    cuda_emulator::emulator().settings.seed = 1;
    check(launch(shape, neighbours_without_a_barrier, static_cast<int*>(integers)).ok(), "runs");
    int wrong = 0;
    for (int i = 0; i < 64; ++i) wrong += integers[i] != (i + 33) % 64;
    check(wrong > 0, "a random schedule shows a missing barrier");
    cuda_emulator::emulator().settings.seed = 0;
    check(fails_with(launch(shape, misaligned_copy, static_cast<const float*>(from)), "not aligned"), "alignment");
    check(fails_with(launch(shape, different_operations), "different operations"), "divergence");
    shape.shared_bytes = 64;
    check(fails_with(launch(shape, write_behind_the_end), "outside of its shared memory"), "guard bytes");
    shape.shared_bytes = 1 << 20;
    check(fails_with(launch(shape, write_behind_the_end), "bytes of shared memory"), "limit of shared memory");
}

// Half and bfloat16 conversions there and back, for all 65,536 patterns, and ties to even.
void check_conversions() {
    int wrong = 0;
    for (int bits = 0; bits < 65536; ++bits) {
        const Half half{static_cast<std::uint16_t>(bits)};
        const BFloat16 brain{static_cast<std::uint16_t>(bits)};
        const float h = to_float(half);
        const float b = to_float(brain);
        if (h == h && round_to<Half>(h).bits != bits) ++wrong;
        if (b == b && round_to<BFloat16>(b).bits != bits) ++wrong;
    }
    check(wrong == 0, "conversions there and back");
    check(round_to<Half>(1.0f + 0x1p-11f).bits == 0x3c00 && round_to<Half>(1.0f + 0x3p-11f).bits == 0x3c02, "ties");
    check(round_to<Half>(65519.0f).bits == 0x7bff && round_to<Half>(65520.0f).bits == 0x7c00, "overflow");
    check(round_to<BFloat16>(1.0f + 0x1p-8f).bits == 0x3f80 && round_to<BFloat16>(1.0f + 0x3p-8f).bits == 0x3f82,
          "ties of bfloat16");
}

}  // namespace

int main() {
    check_fragments();
    check_banks();
    check_products();
    check_splits();
    check_emulator();
    check_conversions();
    std::printf("%d checks, %d failures\n", checks, failures);
    return failures != 0;
}
