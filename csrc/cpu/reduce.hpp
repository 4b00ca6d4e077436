// Stages over packed panels: the provisional shift, the weighted column sums, and the diagonal.
// Each panel is the work of one thread, rows in order, so nothing depends on how panels are shared out.
#pragma once

#include "prepare.hpp"

namespace gradhess::cpu::GRADHESS_ISA {

// sum[column] = sum over rows of weight * value in float64, in four interleaved chains (row % 4): the order is fixed
// and the additions of one chain do not wait for each other.
template <class T>
GRADHESS_INLINE void panel_sum(const Slab<T>& slab, const T* panel_data, double* sum) {
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

// Column sums of panels [begin, end) into sum (padded to whole panels). Where `shift` is given, subtracts it first;
// where `divisor` is not zero, finds the shift first: the weighted column sum over `divisor`, rounded to T.
template <class T>
void centre_and_sum(Slab<T>& slab, Index begin, Index end, double divisor, double* shift, double* sum) {
    constexpr int panel = kPanel<T>;
    for (Index p = begin; p < end; ++p) {
        T* data = slab.panels + p * slab.panel_stride;
        if (shift) {
            double* at = shift + p * panel;
            if (divisor != 0.0) {
                panel_sum(slab, data, sum + p * panel);
                for (int c = 0; c < panel; ++c) at[c] = static_cast<T>(sum[p * panel + c] / divisor);
            }
            subtract_shift(slab, data, at);
        }
        panel_sum(slab, data, sum + p * panel);
    }
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
