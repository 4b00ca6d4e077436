// Every tuning constant of the CPU kernels, but for the shapes that registers dictate, which stand beside the loops
// that have them. Moments do not depend on any of them: the order of summation is fixed by Layout in job.hpp. See
// bench/README.md for how they were measured.
#pragma once

#include <chrono>

#include "job.hpp"

namespace gradhess::cpu::tuning {

// Bytes of X (as float64) that a group of rows may take, so that the second touch of a row (packing, after the
// prediction) finds it in the L1 cache. Of float32 at least twice as many rows.
inline constexpr Index kGroupBytes = 16 * 1024;
inline constexpr Index kGroupRowsMin = 8;
inline constexpr Index kGroupRowsMax = 256;

// Macro tile of the scatter matrix, in columns of float64 (twice as many of float32): one block of packed columns stays
// in the L2 cache (512 rows x 120 columns x 8 bytes) while strips of rows pass over it; twice as many are 2 to 4%
// slower on a processor with 2 MiB of it, and the same up to 512 parameters. A multiple of every tile width (24, 12,
// 4), so that no sliver is left, and of kTileRows.
inline constexpr Index kTileColumns = 120;
inline constexpr Index kTileRows = 24;
static_assert(kTileColumns % kTileRows == 0);

// Outer rows: entries on a side of a tile, whose sums (float64) leave most of an L2 cache of 1 MiB to the rows (256 is
// as fast, and takes more memory); and tiles for each thread, where blocks are large enough to be cut, so that threads
// finish together.
inline constexpr Index kOuterTileMax = 128;
inline constexpr Index kOuterTileMin = 48;
inline constexpr Index kOuterTilesPerThread = 4;

// Sums of Kronecker products (kronecker_sums.cpp), measured with bench/bench_curvature.py on 2 cores of a Zen 4. Pairs
// of a block: 240 columns of 512 rows, 960 KiB, are an L2 cache of 1 MiB (of 256 rows, half of it: 5% slower). Weights
// (of all factors) of a run: at the least, where there are not enough runs for all threads, for as often is a product
// of activations used that was formed once; and at the most. Blocks for each thread, where there are enough weights, so
// that threads finish together. Slabs that are done together (4: 3% slower), and numbers in a buffer of packed weights:
// two of 10 MiB are less than what an Arena keeps from call to call. Rows whose matrices stay in cache while the
// weights of several runs are formed. What it costs to form a product, in multiply-adds.
inline constexpr Index kPairColumns = 240;
inline constexpr Index kWeightsMin = 256;
inline constexpr Index kWeightsTogether = 640;
inline constexpr Index kPairBlocksPerThread = 6;
inline constexpr Index kSlabsTogether = 2;
inline constexpr Index kWeightsBuffer = 1280 * 1024;
inline constexpr Index kProductCost = 8;
inline constexpr Index kWeightRows = 16;

// Sums of groups of rows (grouped.cpp), measured with bench/bench_grouped.py: draws whose rows and factors are looked
// up together; how many draws ahead a row is asked for, about as many lines as a core can wait for at a time, for rows
// of a few hundred bytes; and jobs for each thread.
inline constexpr Index kDrawChunk = 256;
inline constexpr Index kDrawsAhead = 24;
inline constexpr Index kGroupJobsPerThread = 16;

// Pairwise dependence (pairs.cpp): inputs that meet a block of labels while it is in cache.
inline constexpr Index kInputsTogether = 16;

// Comparisons of vectors of labels below which one thread does them all: about 15 us of work on a Zen 4, which a team
// does in 10 where its threads are awake, and in more than 15 where they have to be woken.
inline constexpr Index kTeamMinComparisons = 8'000;

// Work, in multiply-adds, below which starting a team of threads costs more than it saves.
inline constexpr Index kTeamMinWork = 400'000;

// The same for a slab of a stream that small chunks have filled (extend.cpp): its rows are in the cache of the thread
// that calls, and the others have fallen asleep since the one before. On 2 cores of a Zen 4 (bench/tiny.py, and chunks
// of 30 to 200 rows) one thread takes as long as two at 128 columns, two thirds of it at 192, and 1.2 times at 256.
inline constexpr Index kTeamMinWaitingWork = 6'000'000;

// What it costs to work on blocks together, compared with blocks of its own for every thread: for a full scatter
// matrix, how much more for few columns, and for diagonals and sums; and to start, in multiply-adds of one thread.
// Measured on 2 cores of an Emerald Rapids with 256 to 6000 rows (64 columns: 2.5 to 3 times, 16: 5.4;
// bench/README.md).
inline constexpr double kTeamCost = 1.1;
inline constexpr double kTeamCostColumns = 80.0;
inline constexpr double kTeamCostVectors = 3.0;
inline constexpr Index kTeamStart = 1'000'000;

// The same where every thread has slabs of its own: it starts in some 20 us. And the largest scatter matrix that is
// kept for a slab, so that those of a thread, its block and its rows stay below 4 MiB.
inline constexpr double kOwnSlabCost = 1.1;
inline constexpr Index kOwnSlabsStart = 600'000;
inline constexpr Index kOwnSlabsStartVectors = 150'000;
inline constexpr Index kOwnSlabBytes = 1024 * 1024;

// Threads of a team that were dismissed so long ago may be asleep (libgomp lets them spin for some ms by default, but
// not where OMP_WAIT_POLICY is passive). Finding out costs a few us.
inline constexpr std::chrono::microseconds kAwake{100};

// How far ahead of the rows being read the next ones are asked for.
inline constexpr Index kPrefetchBytes = 16384;

// Where columns are the contiguous direction: bytes of a group of rows, of which each column is read in one piece.
inline constexpr Index kTurnedBytes = 512 * 1024;

// And rows of about 16 columns that are turned at a time, to be multiplied from the L1 cache.
inline constexpr Index kRotatedRows = 64;

// Rows of the multiply loop for which one line is asked for where packed rows and sums are beyond a core's own cache. A
// core waits for some 16 lines at a time: if these are all on their way from memory, the operands' lines, which are
// near, wait too (on an Emerald Rapids every 2 and every 8 rows are 1 to 2% slower). A multiple of two.
inline constexpr Index kFarTurnRows = 4;

// Buffers of a thread in which finished blocks wait to be added to the total: threads meet once for as many blocks as
// fit, and rarely enough that one that was put aside for a moment does not hold the others up.
inline constexpr Index kBlockBufferBytes = 512 * 1024;
inline constexpr Index kBlockBuffersWanted = 4;  // even where they are larger, up to
inline constexpr Index kBlockBufferBytesMax = 2048 * 1024;
inline constexpr Index kBlockBuffersMax = 64;

// Up to here the diagonals of a block's slabs are kept apart, so that threads can have blocks of their own.
inline constexpr Index kSlabScattersBytes = 1024 * 1024;

// Rows per job of the row-wise operations (norms, products with vectors, the scan for values that are not finite). The
// sums of products with the transposed gradients are cut here: their last bits depend on it.
inline constexpr Index kRowJob = 4096;
inline constexpr Index kRowJobBytes = 2048 * 1024;  // fewer where they take more bytes (as float64)
inline constexpr Index kRowJobsWanted = 16;         // and where rows are few

// Bytes of X (as float64) for which a thread is started there; an output of several counts as so many features.
inline constexpr Index kRowThreadBytes = 1024 * 1024;
inline constexpr Index kRowOutputCost = 16;

// Rows of so many bytes are summed by eights, others by groups (a Zen 4: 1.2 times as fast in float64 from there on).
inline constexpr Index kWideRowBytes = 4096;

// Entries that a thread checks at a time; starting a thread costs as much as so many.
inline constexpr Index kCheckedValues = 65536;

// Totals of so many bytes may lie in memory that the system has not given yet (smaller arrays are cut from memory that
// the process has used before).
inline constexpr Index kMappedBytes = 256 * 1024;

// Rows of a finished matrix that are mirrored in one go, as bytes of a column: a power of two.
inline constexpr Index kMirrorBytes = 1024;

// A thread keeps its workspace between calls up to this size, so a stream allocates nothing once it runs.
inline constexpr std::size_t kKeptWorkspaceBytes = 32u << 20;

}  // namespace gradhess::cpu::tuning
