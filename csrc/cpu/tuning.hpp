// Every tuning constant of the CPU kernels. Results do not depend on any of them: the order of summation is fixed by
// Layout in job.hpp. See bench/README.md for how they were measured.
#pragma once

#include "job.hpp"

namespace gradhess::cpu::tuning {

// Bytes of X (as float64) that a group of rows may take, so that the second touch of a row (packing, after the
// prediction) finds it in the L1 cache.
inline constexpr Index kGroupBytes = 16 * 1024;
inline constexpr Index kGroupRowsMin = 16;
inline constexpr Index kGroupRowsMax = 256;

// Macro tile of the scatter matrix, in columns of float64 (twice as many of float32): one block of packed columns stays
// in the L2 cache (256 rows x 240 columns x 8 bytes) while strips of rows pass over it. A multiple of every tile width
// (24, 12, 4), so that no sliver is left, and of kTileRows.
inline constexpr Index kTileColumns = 240;
inline constexpr Index kTileRows = 24;
static_assert(kTileColumns % kTileRows == 0);

// Outer rows: entries on a side of a tile, whose sums (float64) and panels of a slab of as many columns fit half an L2
// cache of 1 MiB (256 is as fast); and tiles for each thread, where blocks are large enough to be cut, so that threads
// finish together.
inline constexpr Index kOuterTileMax = 128;
inline constexpr Index kOuterTileMin = 48;
inline constexpr Index kOuterTilesPerThread = 4;

// Work, in multiply-adds, below which starting a team of threads costs more than it saves.
inline constexpr Index kTeamMinWork = 400'000;

// How far ahead of the rows being read the next ones are asked for.
inline constexpr Index kPrefetchBytes = 16384;

// The same where columns are the contiguous direction: a group of rows that is asked for while the one before is read.
inline constexpr Index kAskedColumnsBytes = 512 * 1024;

// Buffers of a thread in which finished blocks wait to be added to the total: threads meet once for as many blocks as
// fit, and rarely enough that one that was put aside for a moment does not hold the others up.
inline constexpr Index kBlockBufferBytes = 512 * 1024;
inline constexpr Index kBlockBuffersWanted = 4;  // even where they are larger, up to
inline constexpr Index kBlockBufferBytesMax = 2048 * 1024;
inline constexpr Index kBlockBuffersMax = 64;

// Rows per job of the row-wise operations (norms, products with vectors, the scan for values that are not finite).
inline constexpr Index kRowJob = 4096;
inline constexpr Index kRowJobBytes = 2048 * 1024;  // fewer where they take more bytes (as float64)

// A thread keeps its workspace between calls up to this size, so a stream allocates nothing once it runs.
inline constexpr std::size_t kKeptWorkspaceBytes = 32u << 20;

}  // namespace gradhess::cpu::tuning
