// Stages over packed panels: the provisional shift, the weighted column sums, and the diagonal.
// Each panel is the work of one thread, rows in order, so nothing depends on how panels are shared out.
#pragma once

#include "prepare.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

// sum[column] = sum over rows of weight * value in float64, in four interleaved chains (row % 4): the order is fixed
// and the additions of one chain do not wait for each other.
template <class T>
GRADHESS_INLINE void sum_in_double(const Slab<T>& slab, const T* panel_data, double* sum) {
    constexpr int panel = kPanel<T>;
    constexpr int parts = panel / kDoubleLanes;
    Doubles chain[4][parts] = {};
    const auto add = [&](Index r, int c) {
        const T* row = panel_data + r * panel;
        for (int v = 0; v < parts; ++v) {
            const Doubles value = load_doubles(row + v * kDoubleLanes);
            chain[c][v] += slab.weighted ? value * broadcast(slab.weight[r]) : value;
        }
    };
    Index r = 0;
    for (; r + 4 <= slab.rows; r += 4)
        for (int c = 0; c < 4; ++c) add(r + c, c);
    for (; r < slab.rows; ++r) add(r, static_cast<int>(r % 4));
    for (int v = 0; v < parts; ++v)
        store(sum + v * kDoubleLanes, (chain[0][v] + chain[2][v]) + (chain[1][v] + chain[3][v]));
}

// The same from the tree sums of a panel, which were formed in T: for float32 an eighth of the
// conversions; what a short tree rounds is below what rounding each entry to T has cost already.
template <class T>
GRADHESS_INLINE void sum_trees(const Slab<T>& slab, Index p, double* sum) {
    constexpr int panel = kPanel<T>;
    constexpr int lanes = Simd<T>::lanes;
    const Index step = slab.n_panels * panel;
    for (int v = 0; v < panel; v += lanes) {
        Doubles total[lanes / kDoubleLanes] = {};
        for (Index t = 0; t * kTreeRows < slab.rows; ++t)
            add_doubles(total, load<Vector<T>>(slab.trees + t * step + p * panel + v));
        for (int k = 0; k < lanes / kDoubleLanes; ++k) store(sum + v + k * kDoubleLanes, total[k]);
    }
}

template <class T>
GRADHESS_INLINE void subtract_shift(const Slab<T>& slab, T* panel_data, const double* shift) {
    using V = Vector<T>;
    constexpr int panel = kPanel<T>;
    constexpr int lanes = Simd<T>::lanes;
    alignas(64) T narrow[panel];
    for (int c = 0; c < panel; ++c) narrow[c] = static_cast<T>(shift[c]);
    for (Index r = 0; r < slab.rows; ++r)
        for (int v = 0; v < panel; v += lanes) {
            T* at = panel_data + r * panel + v;
            store(at, load<V>(at) - load<V>(narrow + v));
        }
}

// Column sums of panels [begin, end) into sum (padded to whole panels): from slab.trees where they are given. Otherwise
// `shift` is subtracted first where there is one; and where `divisor` is not zero, it is found before that: the weighted
// column sum over `divisor`, rounded to T.
template <class T>
void centre_and_sum(Slab<T>& slab, Index begin, Index end, double divisor, double* shift, double* sum) {
    constexpr int panel = kPanel<T>;
    for (Index p = begin; p < end; ++p) {
        double* panel_sum = sum + p * panel;
        if (slab.trees) {
            sum_trees(slab, p, panel_sum);
            continue;
        }
        T* data = slab.panels + p * slab.panel_stride;
        if (shift) {
            double* at = shift + p * panel;
            if (divisor != 0.0) {
                sum_in_double(slab, data, panel_sum);
                for (int c = 0; c < panel; ++c) at[c] = static_cast<T>(panel_sum[c] / divisor);
            }
            subtract_shift(slab, data, at);
        }
        sum_in_double(slab, data, panel_sum);
    }
}

// Column sums that cannot overflow in T, of panels that are centred already.
template <class T>
void sum_wide(const Slab<T>& slab, Index begin, Index end, double* sum) {
    for (Index p = begin; p < end; ++p)
        sum_in_double(slab, slab.panels + p * slab.panel_stride, sum + p * kPanel<T>);
}

// diagonal[column] += sum over rows of weight * value^2, for panels [begin, end), in four interleaved chains.
template <class T, class Scatter>
void add_squares(const Slab<T>& slab, Index begin, Index end, Index parameters, Scatter* diagonal) {
    constexpr int panel = kPanel<T>;
    constexpr int parts = panel / kDoubleLanes;
    for (Index p = begin; p < end; ++p) {
        const T* data = slab.panels + p * slab.panel_stride;
        Doubles chain[4][parts] = {};
        for (Index r = 0; r < slab.rows; ++r) {
            for (int v = 0; v < parts; ++v) {
                const Doubles value = load_doubles(data + r * panel + v * kDoubleLanes);
                const Doubles weighted = slab.weighted ? value * broadcast(slab.weight[r]) : value;
                chain[r & 3][v] += weighted * value;
            }
        }
        alignas(64) double total[panel];
        for (int v = 0; v < parts; ++v)
            store(total + v * kDoubleLanes, (chain[0][v] + chain[2][v]) + (chain[1][v] + chain[3][v]));
        for (int c = 0; c < panel && p * panel + c < parameters; ++c)
            diagonal[p * panel + c] += static_cast<Scatter>(total[c]);
    }
}

}  // namespace gradhess::cpu::GRADHESS_ISA
