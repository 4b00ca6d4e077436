// Sizes of the buffers in slab.hpp, and carving them out of an arena.
#pragma once

#include <algorithm>
#include <cstdlib>

#include "arena.hpp"
#include "kernel_table.hpp"

namespace gradhess::cpu {

inline Index round_up(Index value, Index multiple) { return (value + multiple - 1) / multiple * multiple; }

// Rows whose features are read twice in a row, so that the second read finds them in cache, and `numbers_per_row` that
// are kept for each of them beside these.
// Where columns are the contiguous direction, of each column one piece is read: as long as its rows' bytes allow.
inline Index group_rows(const Rows& rows, Index numbers_per_row = 0) {
    if (std::abs(rows.column_stride) > std::abs(rows.row_stride)) {
        const Index bytes = rows.features * (computes_in_float(rows.dtype) ? 4 : 8);
        return std::clamp<Index>(tuning::kTurnedBytes / std::max<Index>(1, bytes) / 64 * 64, 64, tuning::kGroupRowsMax);
    }
    const Index wanted = tuning::kGroupBytes / std::max<Index>(1, 8 * (rows.features + numbers_per_row));
    const Index least = tuning::kGroupRowsMin * (computes_in_float(rows.dtype) ? 2 : 1);
    return std::clamp<Index>(wanted / least * least, least, tuning::kGroupRowsMax);
}

template <class T>
RowScratch<T> carve_rows(Carver& carver, const Rows& rows, Index slab_rows, Index panel) {
    RowScratch<T> scratch;
    scratch.group = group_rows(rows);
    scratch.gathered = carver.take<T>(scratch.group * rows.features);
    scratch.outer = carver.take<T>(rows.row_outputs() > 1 ? kTreeRows * round_up(rows.parameters(), panel) : 0);
    scratch.target = carver.take<double>(rows.y_dtype == DType::f64 ? 0 : scratch.group);
    scratch.eta = carver.take<double>(scratch.group * rows.outputs);
    scratch.slope = carver.take<double>(scratch.group * rows.outputs);
    scratch.factor = carver.take<T>(scratch.group * rows.outputs);
    scratch.value = carver.take<double>(scratch.group);
    scratch.shift = carver.take<T>(round_up(rows.parameters(), panel));
    scratch.strip = carver.take<T>(slab_rows * panel);
    return scratch;
}

// Room for a slab of narrow rows, transposed, and for the sums of rotations. Columns are a line longer than the slab,
// so that they do not all begin in the same sets of a cache.
template <class T>
void carve_columns(Carver& carver, RowScratch<T>& scratch, Index parameters, bool weighted, Index slab_rows) {
    constexpr Index line = 64 / sizeof(T);
    scratch.rotated = carver.take<T>(kRotatedSums);
    scratch.column_stride = round_up(slab_rows, line) + line;
    scratch.columns = carver.take<T>(parameters * scratch.column_stride);
    scratch.lane_weights = carver.take<T>(weighted ? scratch.column_stride : 0);
    scratch.weighted_columns = carver.take<T>(weighted ? parameters * scratch.column_stride : 0);
}

// Shapes the panels of a slab, and says how many numbers they take.
template <class T>
Index shape_panels(Slab<T>& slab, Index columns, Index rows, Index panel) {
    slab.n_panels = round_up(columns, panel) / panel;
    // A few lines more than the rows, so that panels do not start in the same cache sets, nor next to each other: eight
    // rows of several panels are written at a time (8% at 64 columns of float32 against one line more).
    slab.panel_stride = (rows + 4) * panel;
    return slab.panel_stride * slab.n_panels;
}

template <class T>
Slab<T> carve_panels(Carver& carver, Index parameters, Index slab_rows, Index panel) {
    Slab<T> slab;
    slab.panels = carver.take<T>(shape_panels(slab, parameters, slab_rows, panel));
    return slab;
}

template <class T>
Slab<T> carve_slab(Carver& carver, const Rows& rows, bool weighted, Index slab_rows, Index panel) {
    Slab<T> slab = carve_panels<T>(carver, rows.parameters(), slab_rows, panel);
    slab.weighted = weighted;
    slab.weight = carver.take<double>(weighted ? slab_rows : 0);
    slab.value = carver.take<double>(slab_rows);
    return slab;
}

}  // namespace gradhess::cpu
