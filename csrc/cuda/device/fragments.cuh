// Which entry of a matrix each register of each lane holds in the operands of warp-wide matrix products: the tables of
// the PTX ISA ("Matrix Fragments for mma"), as functions. Tested exhaustively on the host.
#pragma once

#include "platform.cuh"

namespace gradhess::cuda::device {

struct Entry {
    int row;
    int column;
};

// mma.m16n8k16 of 16-bit operands. `i` counts 16-bit elements: register i / 2, its lower half first.
GRADHESS_HOST_DEVICE_INLINE constexpr Entry a_entry_16x16(int lane, int i) {
    return {lane / 4 + (i / 2 % 2) * 8, lane % 4 * 2 + i % 2 + i / 4 * 8};
}
GRADHESS_HOST_DEVICE_INLINE constexpr Entry b_entry_16x8(int lane, int i) {  // row is k
    return {lane % 4 * 2 + i % 2 + i / 2 * 8, lane / 4};
}
GRADHESS_HOST_DEVICE_INLINE constexpr Entry c_entry_16x8(int lane, int i) {
    return {lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2};
}

// mma.m8n8k4 of doubles: one of A, one of B, two of C.
GRADHESS_HOST_DEVICE_INLINE constexpr Entry a_entry_8x4(int lane) { return {lane / 4, lane % 4}; }
GRADHESS_HOST_DEVICE_INLINE constexpr Entry b_entry_4x8(int lane) { return {lane % 4, lane / 4}; }
GRADHESS_HOST_DEVICE_INLINE constexpr Entry c_entry_8x8(int lane, int i) { return {lane / 4, lane % 4 * 2 + i}; }

// mma.m16n8k16 of doubles: eight of A, four of B, four of C (as c_entry_16x8).
GRADHESS_HOST_DEVICE_INLINE constexpr Entry a_entry_16x16_f64(int lane, int i) {
    return {lane / 4 + i % 2 * 8, lane % 4 + i / 2 * 4};
}
GRADHESS_HOST_DEVICE_INLINE constexpr Entry b_entry_16x8_f64(int lane, int i) { return {lane % 4 + i * 4, lane / 4}; }

}  // namespace gradhess::cuda::device
