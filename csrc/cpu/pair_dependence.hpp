// eps(x, x') = sum_{y, y'} |P(h(x) = y, h(x') = y') - q^-2| for one input x and a block of 64 inputs x'.
//
// Layout: labels are bytes, the 64 labels of a target beside each other. The targets are grouped by their label at x,
// so a group's counts of each label at x' are a row of the joint histogram: one compare and one subtraction count 64
// inputs at once. The last label follows from the size of the group.
//
// With k = floor(n / q^2) and r = n - k q^2 for n targets, sum |c - n / q^2| over cells is 2 sum over c > k of
// ((c - k) - r / q^2), because the deviations sum to zero: integers, of which the bytes of a group hold the parts.
//
// Cost: targets * (q - 1) * 2 instructions for the counts, and 5 q^2 for the rest, for 64 (AVX2: 32) pairs. At large q
// the labels of one pair after the other are counted instead, in time proportional to the targets whatever q is.
#pragma once

#include "pair_job.hpp"
#include "simd.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

typedef std::uint8_t Bytes __attribute__((vector_size(GRADHESS_VECTOR_BYTES)));
typedef std::int64_t Words __attribute__((vector_size(GRADHESS_VECTOR_BYTES)));

inline constexpr int kLabelsAtOnce = 6;  // accumulators and labels of a pass stay in 16 registers

GRADHESS_INLINE Bytes every_byte(Index value) { return static_cast<std::uint8_t>(value) - Bytes{}; }

// One more where the label is seen: in AVX-512 an addition under a mask, elsewhere a subtraction of the mask.
GRADHESS_INLINE Bytes plus_matches(Bytes count, Bytes seen, Bytes label) {
    if constexpr (GRADHESS_VECTOR_BYTES == 64) return seen == label ? count + every_byte(1) : count;
    return count - reinterpret_cast<Bytes>(seen == label);
}

// What a histogram of 64 pairs comes to, cell by cell.
struct PairTotals {
    std::uint32_t above[kPairLanes] = {};  // sum of c - k over cells with c > k
    std::uint32_t cells[kPairLanes] = {};  // number of those
};

struct ByteTotals {
    Bytes above{}, cells{}, floor;

    GRADHESS_INLINE void fold(Bytes count) {
        const Bytes excess = (count > floor ? count : floor) - floor;
        above += excess;
        cells -= reinterpret_cast<Bytes>(count > floor);
    }
};

// Counts of the labels `first` to `first + N - 1` among at most kByteCounts targets.
template <int N>
GRADHESS_INLINE void count_labels(const std::uint8_t* block, const std::uint32_t* order, Index size, int first,
                                  Bytes* counts) {
    Bytes label[N], count[N];
    for (int b = 0; b < N; ++b) label[b] = every_byte(first + b), count[b] = Bytes{};
    for (Index i = 0; i < size; ++i) {
        const auto seen = load<Bytes>(block + static_cast<Index>(order[i]) * kPairLanes);
        for (int b = 0; b < N; ++b) count[b] = plus_matches(count[b], seen, label[b]);
    }
    for (int b = 0; b < N; ++b) counts[b] = count[b];
}

GRADHESS_INLINE void count_some_labels(int n, const std::uint8_t* block, const std::uint32_t* order, Index size,
                                       int first, Bytes* counts) {
    switch (n) {
        case 1: return count_labels<1>(block, order, size, first, counts);
        case 2: return count_labels<2>(block, order, size, first, counts);
        case 3: return count_labels<3>(block, order, size, first, counts);
        case 4: return count_labels<4>(block, order, size, first, counts);
        case 5: return count_labels<5>(block, order, size, first, counts);
        default: return count_labels<kLabelsAtOnce>(block, order, size, first, counts);
    }
}

// A group whose counts fit bytes, all of it: the sums over its q cells do too.
inline void add_small_group(const std::uint8_t* block, const std::uint32_t* order, Index size, int q, Index floor,
                            PairTotals& totals) {
    for (Index lane = 0; lane < kPairLanes; lane += GRADHESS_VECTOR_BYTES) {
        ByteTotals sums{.floor = every_byte(floor)};
        Bytes rest = every_byte(size), counts[kLabelsAtOnce];
        for (int first = 0; first < q - 1; first += kLabelsAtOnce) {
            const int n = first + kLabelsAtOnce < q - 1 ? kLabelsAtOnce : q - 1 - first;
            count_some_labels(n, block + lane, order, size, first, counts);
            for (int b = 0; b < n; ++b) {
                sums.fold(counts[b]);
                rest -= counts[b];
            }
        }
        sums.fold(rest);
        for (int i = 0; i < GRADHESS_VECTOR_BYTES; ++i) {
            totals.above[lane + i] += sums.above[i];
            totals.cells[lane + i] += sums.cells[i];
        }
    }
}

inline void add_large_group(const std::uint8_t* block, const std::uint32_t* order, Index size, int q,
                            std::uint32_t floor, PairTotals& totals) {
    const auto fold = [&](const std::uint32_t* count) {
        for (Index lane = 0; lane < kPairLanes; ++lane) {
            totals.above[lane] += count[lane] > floor ? count[lane] - floor : 0;
            totals.cells[lane] += count[lane] > floor;
        }
    };
    std::uint32_t rest[kPairLanes];
    for (Index lane = 0; lane < kPairLanes; ++lane) rest[lane] = static_cast<std::uint32_t>(size);
    for (int first = 0; first < q - 1; first += kLabelsAtOnce) {
        const int n = first + kLabelsAtOnce < q - 1 ? kLabelsAtOnce : q - 1 - first;
        std::uint32_t wide[kLabelsAtOnce][kPairLanes] = {};
        for (Index done = 0; done < size; done += kByteCounts) {
            const Index part = size - done < kByteCounts ? size - done : kByteCounts;
            for (Index lane = 0; lane < kPairLanes; lane += GRADHESS_VECTOR_BYTES) {
                Bytes counts[kLabelsAtOnce];
                count_some_labels(n, block + lane, order + done, part, first, counts);
                for (int b = 0; b < n; ++b)
                    for (int i = 0; i < GRADHESS_VECTOR_BYTES; ++i) wide[b][lane + i] += counts[b][i];
            }
        }
        for (int b = 0; b < n; ++b) {
            fold(wide[b]);
            for (Index lane = 0; lane < kPairLanes; ++lane) rest[lane] -= wide[b][lane];
        }
    }
    fold(rest);
}

// Whether counting pairs one by one is faster than comparing with every label. The limits are instructions for each
// target and pair; an instruction under a mask costs two. Measured on a Zen 4 by bench/bench_pairwise.py.
inline bool counts_one_by_one(const PairJob& job) {
    const double q = job.q, targets = static_cast<double>(job.targets);
    if (job.target_weights) return q * (targets + q) > (GRADHESS_VECTOR_BYTES >= 32 ? 40 : 6) * targets;
    const double cost = GRADHESS_VECTOR_BYTES == 64 ? 2 : 64 / GRADHESS_VECTOR_BYTES;
    return cost * q * (2 * targets + 5 * q) > 16 * kPairLanes * targets;
}

// A group of any size, one pair after the other: `counts` holds q zeros, and does so again afterwards.
inline void add_group_one_by_one(const std::uint8_t* block, const std::uint32_t* order, Index size, std::uint32_t floor,
                                 std::uint32_t* counts, PairTotals& totals) {
    if (size == 1) {  // more than the floor, which is therefore zero
        for (Index lane = 0; lane < kPairLanes; ++lane) ++totals.above[lane], ++totals.cells[lane];
        return;
    }
    for (Index lane = 0; lane < kPairLanes; ++lane) {
        std::uint32_t above = 0, cells = 0;
        for (Index i = 0; i < size; ++i) {
            const std::uint32_t count = ++counts[block[static_cast<Index>(order[i]) * kPairLanes + lane]];
            above += count > floor;
            cells += count == floor + 1;
        }
        for (Index i = 0; i < size; ++i) counts[block[static_cast<Index>(order[i]) * kPairLanes + lane]] = 0;
        totals.above[lane] += above;
        totals.cells[lane] += cells;
    }
}

// out[lane] = eps(x, x'), of targets that all count the same.
inline void pair_dependence(const PairJob& job, const PairRow& row, const std::uint8_t* block, double* out) {
    const Index cells = static_cast<Index>(job.q) * job.q;
    const Index floor = job.targets / cells;
    const bool one_by_one = counts_one_by_one(job);
    std::uint32_t counts[kMostLabels] = {};
    PairTotals totals;
    for (int y = 0; y < job.q; ++y) {
        const std::uint32_t* order = row.order + row.starts[y];
        const Index size = row.starts[y + 1] - row.starts[y];
        if (size <= floor) continue;  // no cell of it is above the floor
        if (one_by_one) {
            add_group_one_by_one(block, order, size, static_cast<std::uint32_t>(floor), counts, totals);
        } else if (size <= kByteCounts && job.q <= kByteCounts) {
            add_small_group(block, order, size, job.q, floor, totals);
        } else {
            add_large_group(block, order, size, job.q, static_cast<std::uint32_t>(floor), totals);
        }
    }
    const double remainder = static_cast<double>(job.targets - floor * cells), squares = static_cast<double>(cells);
    const double scale = static_cast<double>(job.targets) * squares;
    for (Index lane = 0; lane < kPairLanes; ++lane)
        out[lane] = 2.0 * (squares * totals.above[lane] - remainder * totals.cells[lane]) / scale;
}

// The same for targets with weights, pair by pair: sums of doubles, in the order of the targets within a group.
inline void weighted_one_by_one(const PairJob& job, const PairRow& row, const std::int64_t* block, double* out) {
    const double uniform = 1.0 / (static_cast<double>(job.q) * job.q);
    double shares[kMostLabels] = {}, dependence[kPairLanes] = {};
    Index filled[kPairLanes] = {};  // cells that hold a weight
    for (int y = 0; y < job.q; ++y) {
        const std::uint32_t *begin = row.order + row.starts[y], *end = row.order + row.starts[y + 1];
        if (begin == end) continue;
        for (Index lane = 0; lane < kPairLanes; ++lane) {
            for (const std::uint32_t* at = begin; at < end; ++at)
                shares[block[static_cast<Index>(*at) * kPairLanes + lane]] += job.target_weights[*at];
            for (const std::uint32_t* at = begin; at < end; ++at) {
                double& share = shares[block[static_cast<Index>(*at) * kPairLanes + lane]];
                if (share == 0.0) continue;  // was added already, or has no weight
                dependence[lane] += share > uniform ? share - uniform : uniform - share;
                ++filled[lane];
                share = 0.0;
            }
        }
    }
    const Index cells = static_cast<Index>(job.q) * job.q;
    for (Index lane = 0; lane < kPairLanes; ++lane)
        out[lane] = dependence[lane] + static_cast<double>(cells - filled[lane]) * uniform;
}

// The same by comparison with every label. Several vectors of lanes at once, because each sum waits for the one before.
// Labels as wide as the sums, as their comparison is a mask.
inline void weighted_pair_dependence(const PairJob& job, const PairRow& row, const std::int64_t* block, double* out) {
    constexpr int vectors = 4, labels = 2;
    if (counts_one_by_one(job)) return weighted_one_by_one(job, row, block, out);
    const double uniform = 1.0 / (static_cast<double>(job.q) * job.q);
    for (Index lane = 0; lane < kPairLanes; lane += vectors * kDoubleLanes) {
        Doubles dependence[vectors] = {};
        for (int y = 0; y < job.q; ++y) {
            for (int first = 0; first < job.q; first += labels) {
                Doubles share[vectors][labels] = {};
                for (Index i = row.starts[y]; i < static_cast<Index>(row.starts[y + 1]); ++i) {
                    const Index target = row.order[i];
                    const auto weight = reinterpret_cast<Words>(broadcast(job.target_weights[target]));
                    const std::int64_t* seen = block + target * kPairLanes + lane;
                    for (int v = 0; v < vectors; ++v) {
                        const auto label = load<Words>(seen + v * kDoubleLanes);
                        for (int b = 0; b < labels; ++b)
                            share[v][b] += reinterpret_cast<Doubles>(weight & (label == first + b));
                    }
                }
                for (int v = 0; v < vectors; ++v)
                    for (int b = 0; b < labels && first + b < job.q; ++b) {
                        const Doubles deviation = share[v][b] - uniform;
                        dependence[v] += deviation < 0.0 ? -deviation : deviation;
                    }
            }
        }
        for (int v = 0; v < vectors; ++v) store(out + lane + v * kDoubleLanes, dependence[v]);
    }
}

}  // namespace gradhess::cpu::GRADHESS_ISA
