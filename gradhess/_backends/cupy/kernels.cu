// The kernels of the CuPy backend, compiled by NVRTC on first use, once with T = float and once with T = double.
//
// Layout:   row-major rows with any strides in, C-contiguous rows out. One thread owns one column of a segment of rows,
//           or one result; sums over segments are folded by a second launch. So every sum has one owner and one order,
//           whatever the grid: no atomics on floating-point numbers, no shared memory, and no barrier but the warp's.
// Cost:     one read of X for the predictor, one read and one write for the scaled rows: bound by memory.
// Source:   the two-level sums of gradhess/_backends/cupy/layout.py; losses of gradhess/_backends/loss_formulas.py;
//           Chan, Golub, LeVeque (COMPSTAT 1982), equation 2.1, in fold_block.
typedef long long i64;

// CuPy compiles with -ftz=true, which makes zeros of float32 numbers below 2^-126: of inputs, too. Rows that wait pass
// through these kernels, and those of compiled kernels do not, so arithmetic in float32 is written out.
inline __device__ double wide(double a) { return a; }
inline __device__ double product(double a, double b) { return a * b; }
inline __device__ double added(double a, double b) { return a + b; }
inline __device__ double difference(double a, double b) { return a - b; }
template <class Number>
inline __device__ Number narrowed(double a);
template <>
inline __device__ double narrowed<double>(double a) { return a; }
#ifdef __CUDACC__
inline __device__ double wide(float a) {
    double result;
    asm("cvt.f64.f32 %0, %1;" : "=d"(result) : "f"(a));
    return result;
}
inline __device__ float product(float a, float b) {
    float result;
    asm("mul.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
}
inline __device__ float added(float a, float b) {
    float result;
    asm("add.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
}
inline __device__ float difference(float a, float b) {
    float result;
    asm("sub.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
}
template <>
inline __device__ float narrowed<float>(double a) {
    float result;
    asm("cvt.rn.f32.f64 %0, %1;" : "=f"(result) : "d"(a));
    return result;
}
#else
inline double wide(float a) { return a; }
inline float product(float a, float b) { return a * b; }
inline float added(float a, float b) { return a + b; }
inline float difference(float a, float b) { return a - b; }
template <>
inline float narrowed<float>(double a) { return (float)a; }
#endif

// EACH_LANE is the lanes of a warp: on a GPU this thread's lane, in tests on the host a loop over all of them.
#ifndef EACH_LANE
#define SHARED __shared__
#define EACH_LANE(lane) for (int lane = threadIdx.x, once = 1; once; once = 0)
#define WARP_BARRIER() __syncwarp()
#endif

// The entry of a table that a thread of `table` (launch.py) computes; of rows of k outputs its column is q width + j.
struct Entry {
    i64 row, column, q, j;
};

static __device__ Entry entry_of(i64 column_blocks, i64 width) {
    const i64 column = ((i64)blockIdx.x % column_blocks) * blockDim.x + threadIdx.x;
    return {(i64)blockIdx.x / column_blocks, column, column / width, column % width};
}

// The partial sums of the lanes of a warp, added in order.
static __device__ double sum_of_lanes(const double (&part)[32]) {
    double total = 0.0;
    for (int lane = 0; lane < 32; ++lane) total += part[lane];
    return total;
}

// eta[i, q] = sum_j x[i, j] coef[q, j] + intercept[q]: a warp for each row, 32 partial sums added in order of lanes.
extern "C" __global__ void predictor(const T* x, i64 n, i64 d, i64 row_stride, i64 column_stride, const double* coef,
                                     const double* intercept, i64 k, double* eta) {
    SHARED double part[8][32];
    const int warp = threadIdx.y;
    const i64 i = (i64)blockIdx.x * 8 + warp;
    if (i >= n) return;
    for (i64 q = 0; q < k; ++q) {
        EACH_LANE(lane) {
            double sum = 0.0;
            for (i64 j = lane; j < d; j += 32) sum += wide(x[i * row_stride + j * column_stride]) * coef[q * d + j];
            part[warp][lane] = sum;
        }
        WARP_BARRIER();
        EACH_LANE(lane) {
            if (lane == 0) {
                const double total = sum_of_lanes(part[warp]);
                eta[i * k + q] = intercept ? total + intercept[q] : total;
            }
        }
        WARP_BARRIER();  // before the next output overwrites what lane 0 still reads
    }
}

// sums[i] = sum_j x[i, j]^2 of C-contiguous rows, in the order of the predictor.
extern "C" __global__ void row_squares(const T* x, i64 n, i64 d, double* sums) {
    SHARED double part[8][32];
    const int warp = threadIdx.y;
    const i64 i = (i64)blockIdx.x * 8 + warp;
    if (i >= n) return;
    EACH_LANE(lane) {
        double sum = 0.0;
        for (i64 j = lane; j < d; j += 32) {
            const double value = wide(x[i * d + j]);
            sum += value * value;
        }
        part[warp][lane] = sum;
    }
    WARP_BARRIER();
    EACH_LANE(lane) {
        if (lane == 0) sums[i] = sum_of_lanes(part[warp]);
    }
}

// Codes of losses: squared, logistic, poisson, huber, softmax. slope (n, k) is c l' (or c l'' if second), value c l.
extern "C" __global__ void slopes(int loss, int second, double parameter, const double* eta, const double* y,
                                  const double* c, i64 n, i64 k, double* slope, double* value) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const double label = y[i];
    // A label outside of the domain, or a negative weight, makes the row NaN, and so is found like one.
    bool inside = !(c && c[i] < 0.0);
    if (loss == 1) inside = inside && label * label == label;
    if (loss == 2) inside = inside && label >= 0.0;
    if (loss == 4) inside = inside && label >= 0.0 && label < (double)k && label == floor(label);
    const double weight = inside ? (c ? c[i] : 1.0) : nan("");
    if (loss == 4 && !inside) {
        for (i64 q = 0; q < k; ++q) slope[i * k + q] = weight;
        value[i] = weight;
        return;
    }
    if (loss == 4) {
        const double* row = eta + i * k;
        double* out = slope + i * k;
        const i64 own = (i64)label;
        double top = row[0];
        for (i64 q = 1; q < k; ++q) top = row[q] > top || row[q] != row[q] ? row[q] : top;
        double total = 0.0;
        for (i64 q = 0; q < k; ++q) total += out[q] = exp(row[q] - top);
        value[i] = weight * (log(total) + (top - row[own]));
        // P_label - 1 is minus the probability of all others, which loses no digits where P_label is near 1.
        double others = 0.0;
        for (i64 q = 0; q < k; ++q) {
            const double probability = out[q] / total;
            if (q != own) others += probability;
            out[q] = weight * probability;
        }
        out[own] = weight * -others;
        return;
    }
    const double e = eta[i];
    double v = 0.0, first = 0.0, curve = 0.0;
    if (loss == 0) {
        first = e - label;
        v = 0.5 * first * first;
        curve = 1.0 + 0.0 * e;
    } else if (loss == 1) {
        const double sign = 1.0 - 2.0 * label;
        const double margin = sign * e;
        const double tail = exp(-fabs(margin));
        v = margin > 0.0 ? margin + log1p(tail) : log1p(tail);
        if (margin != margin) v = margin;
        first = sign * exp(margin < 0.0 ? margin : 0.0) / (1.0 + tail);
        if (margin != margin) first = margin;
        curve = tail / ((1.0 + tail) * (1.0 + tail));
    } else if (loss == 2) {
        const double rate = exp(e);
        v = rate - label * e;
        first = rate - label;
        curve = rate;
    } else {
        const double error = e - label;
        const double size = fabs(error);
        const double inner = size > parameter ? parameter : size;
        v = inner * (size - 0.5 * inner);
        first = error > parameter ? parameter : (error < -parameter ? -parameter : error);
        curve = size <= parameter ? 1.0 : 0.0;
        if (error != error) v = first = error;
    }
    slope[i] = weight * (second ? curve : first);
    value[i] = weight * v;
}

// z[i, q w + j] = (slope[i, q] x~[i, j] - shift), each product and difference rounded to T once; scaled = weight z.
// Sums of a segment of rows about the shift go to partial (segments, p), squares likewise. Null outputs are skipped.
// Rows of a closed gate, and rows that `skip` marks, count as zero (with `hold` a closed gate keeps z as it is). Rows
// that are not finite lower *bad and mark `mask`.
extern "C" __global__ void scale_rows(const T* x, i64 n, i64 d, i64 row_stride, i64 column_stride, int unit,
                                      const double* slope, i64 k, const double* shift, const double* weight,
                                      const i64* gate, const signed char* skip, T* z, T* scaled, double* partial,
                                      double* squares, i64* bad, signed char* mask, int hold, i64 first, i64 segment,
                                      i64 column_blocks) {
    const i64 width = d + unit;
    const i64 p = width * k;
    const i64 column = ((i64)blockIdx.x % column_blocks) * blockDim.x + threadIdx.x;
    const i64 part = ((i64)blockIdx.x / column_blocks) * blockDim.y + threadIdx.y;
    if (column >= p || part * segment >= n) return;
    const i64 q = column / width;
    const i64 j = column % width;
    const bool closed = gate && gate[0] >= 0;
    const i64 stop = (part + 1) * segment < n ? (part + 1) * segment : n;
    const T centre = shift ? narrowed<T>(shift[column]) : (T)0;
    double sum = 0.0, square = 0.0;
    for (i64 i = part * segment; i < stop; ++i) {
        T row = (T)0;
        double w = 0.0;
        if (!closed && !(skip && skip[i])) {
            const T value = j < d ? x[i * row_stride + j * column_stride] : (T)1;
            row = slope ? product(narrowed<T>(slope[i * k + q]), value) : value;
            w = weight ? weight[i] : 1.0;
            if (!isfinite(wide(row)) || !isfinite(w) || !isfinite(wide(product(narrowed<T>(w), row)))) {
                if (bad) atomicMin(bad, first + i);
                if (mask) mask[i] = 1;
            }
            row = difference(row, centre);
        }
        if (z && !(hold && closed)) z[i * p + column] = row;
        if (scaled) scaled[i * p + column] = product(narrowed<T>(w), row);
        sum += w * wide(row);
        square += w * wide(row) * wide(row);
    }
    if (partial) partial[part * p + column] = sum;
    if (squares) squares[part * p + column] = square;
}

// partial[part] = sum of w, w^2 and loss over a segment of rows.
extern "C" __global__ void row_totals(const double* weight, const double* loss, const i64* gate,
                                      const signed char* skip, i64 n, i64 segment, double* partial) {
    const i64 part = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (part * segment >= n) return;
    const bool closed = gate && gate[0] >= 0;
    const i64 stop = (part + 1) * segment < n ? (part + 1) * segment : n;
    double sum = 0.0, square = 0.0, value = 0.0;
    for (i64 i = part * segment; i < stop; ++i) {
        if (closed || (skip && skip[i])) continue;
        const double w = weight ? weight[i] : 1.0;
        sum += w;
        square += w * w;
        if (loss) value += loss[i];
    }
    partial[part * 3] = sum;
    partial[part * 3 + 1] = square;
    partial[part * 3 + 2] = value;
}

extern "C" __global__ void fold(const double* partial, i64 count, i64 p, double* out) {
    const i64 j = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= p) return;
    double sum = 0.0;
    for (i64 part = 0; part < count; ++part) sum += partial[part * p + j];
    out[j] = sum;
}

// The weighted mean, rounded to T; zero where there is no weight, or a row is not finite.
extern "C" __global__ void mean_shift(const double* sums, const double* totals, i64 p, double* shift) {
    const i64 j = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= p) return;
    const double mean = totals[0] != 0.0 ? wide(narrowed<T>(sums[j] / totals[0])) : 0.0;
    shift[j] = isfinite(mean) ? mean : 0.0;
}

// A block, or another state, joins the location; what corrects the scatter goes to `own` (sums / W), `delta`, `factor`.
extern "C" __global__ void fold_block(i64 p, int centred, const double* sums, const double* totals, const double* shift,
                                      const double* scalars, double* location, double* own, double* delta,
                                      double* factor) {
    const i64 j = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= p) return;
    const double weight = totals[0];
    const double before = scalars[0];
    const bool moves = centred && weight != 0.0;
    if (j == 0) factor[0] = moves ? before * (weight / (before + weight)) : 0.0;
    own[j] = moves ? sums[j] / weight : 0.0;
    delta[j] = 0.0;
    if (!centred) {
        location[j] += sums[j];
    } else if (moves) {
        delta[j] = (shift[j] - location[j]) + sums[j] / weight;  // in this order: the two are close to each other
        location[j] += delta[j] * (weight / (before + weight));
    }
}

// scatter += factor delta delta^T - own sums^T, lower triangle; diagonal: of (p,) with the squares of the block.
extern "C" __global__ void correct(T* scatter, i64 p, const double* own, const double* sums, const double* delta,
                                   const double* factor, i64 column_blocks) {
    const i64 i = (i64)blockIdx.x / column_blocks;
    const i64 j = ((i64)blockIdx.x % column_blocks) * blockDim.x + threadIdx.x;
    if (i >= p || j > i) return;
    T* at = scatter + i * p + j;
    *at = added(*at, narrowed<T>(factor[0] * delta[i] * delta[j] - own[i] * sums[j]));
}

extern "C" __global__ void correct_diagonal(T* scatter, i64 p, const double* squares, const double* own,
                                            const double* sums, const double* delta, const double* factor) {
    const i64 j = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= p) return;
    scatter[j] = added(scatter[j], narrowed<T>(squares[j] - own[j] * sums[j] + factor[0] * delta[j] * delta[j]));
}

// out[i, j] = out[j, i] = scale lower[i, j]; NaN if `status` says that rows were left out. In place if out is lower.
extern "C" __global__ void symmetrize(const T* lower, i64 p, double scale, const double* divisor, const i64* status,
                                      T* out, i64 column_blocks) {
    const i64 i = (i64)blockIdx.x / column_blocks;
    const i64 j = ((i64)blockIdx.x % column_blocks) * blockDim.x + threadIdx.x;
    if (i >= p || j > i) return;
    T value = narrowed<T>(wide(lower[i * p + j]) * scale);
    if (divisor) value = narrowed<T>(wide(value) / divisor[0]);
    if (status && status[0] >= 0) value = (T)nan("");
    out[i * p + j] = value;
    out[j * p + i] = value;
}

extern "C" __global__ void poison(double* values, i64 count, const i64* status) {
    const i64 j = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (j < count && status[0] >= 0) values[j] = nan("");
}

// out += scale * lower, both triangles, of symmetric (p, p); nothing if `status` says that a row was not finite.
extern "C" __global__ void add_symmetric(const double* lower, i64 p, const i64* status, T* out, i64 column_blocks) {
    const i64 i = (i64)blockIdx.x / column_blocks;
    const i64 j = ((i64)blockIdx.x % column_blocks) * blockDim.x + threadIdx.x;
    if (i >= p || j > i || status[0] >= 0) return;
    out[i * p + j] = narrowed<T>(wide(out[i * p + j]) + lower[i * p + j]);
    if (j != i) out[j * p + i] = narrowed<T>(wide(out[j * p + i]) + lower[i * p + j]);
}

// scatter (float64) += a panel of products in T: rows and columns from `offset` on, lower triangle.
extern "C" __global__ void add_panel(const T* panel, i64 offset, i64 rows, i64 columns, double* scatter, i64 p,
                                     i64 column_blocks) {
    const i64 i = (i64)blockIdx.x / column_blocks;
    const i64 j = ((i64)blockIdx.x % column_blocks) * blockDim.x + threadIdx.x;
    if (i >= rows || j >= columns || j > i) return;
    scatter[(offset + i) * p + offset + j] += wide(panel[i * columns + j]);
}

// scatter += the lower triangle of a panel of the same type.
extern "C" __global__ void add_panel_same(const T* panel, i64 offset, i64 rows, i64 columns, T* scatter, i64 p,
                                          i64 column_blocks) {
    const i64 i = (i64)blockIdx.x / column_blocks;
    const i64 j = ((i64)blockIdx.x % column_blocks) * blockDim.x + threadIdx.x;
    if (i >= rows || j >= columns || j > i) return;
    T* at = scatter + (offset + i) * p + offset + j;
    *at = added(*at, panel[i * columns + j]);
}

extern "C" __global__ void add_to(T* sum, const T* values, i64 count) {
    const i64 j = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (j < count) sum[j] = added(sum[j], values[j]);
}

// Puts a copy back where a row was not finite, or (gate) where the state is closed.
extern "C" __global__ void restore(T* values, const T* copy, i64 count, const i64* bad) {
    const i64 j = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (j < count && bad[0] != 0x7fffffffffffffffLL) values[j] = copy[j];
}

// status = (call, row, rows before, rows waiting before) of the first call with a row that is not finite.
extern "C" __global__ void close_gate(i64* status, const i64* bad, i64 call, i64 seen, i64 waiting) {
    if (threadIdx.x != 0 || status[0] >= 0 || bad[0] == 0x7fffffffffffffffLL) return;
    status[1] = bad[0];
    status[2] = seen;
    status[3] = waiting;
    status[0] = call;
}

// target[i] is the weight of a waiting row: 1 where the caller gave none, 0 where it is skipped; nothing if closed.
extern "C" __global__ void wait_weights(const double* weight, const signed char* skip, i64 n, const i64* gate,
                                        double* target) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n && !(gate[0] >= 0)) target[i] = skip && skip[i] ? 0.0 : (weight ? weight[i] : 1.0);
}

// Rows of a linear layer, sum_t delta_t (x) a~_t: a thread for each entry, steps in order, in float64.
extern "C" __global__ void outer_rows(const T* A, const T* D, const bool* mask, i64 n, i64 steps, i64 m, int unit,
                                      i64 k, T* out, i64 column_blocks) {
    const i64 p = (m + unit) * k;
    const Entry at = entry_of(column_blocks, m + unit);
    if (at.column >= p || at.row >= n) return;
    double sum = 0.0;
    for (i64 t = 0; t < steps; ++t) {
        const i64 step = at.row * steps + t;
        if (mask && !mask[step]) continue;
        sum += wide(D[step * k + at.q]) * (at.j < m ? wide(A[step * m + at.j]) : 1.0);
    }
    out[at.row * p + at.column] = narrowed<T>(sum);
}

// Rows of an embedding: value t is added to the entry that ids[t] names. `out` is zero before.
extern "C" __global__ void selected_rows(const T* values, const i64* ids, i64 n, i64 steps, i64 features, i64 entries,
                                         T* out, i64 column_blocks) {
    const i64 j = ((i64)blockIdx.x % column_blocks) * blockDim.x + threadIdx.x;
    const i64 i = (i64)blockIdx.x / column_blocks;
    if (j >= features || i >= n) return;
    for (i64 t = 0; t < steps; ++t) {
        T* at = out + (i * entries + ids[i * steps + t]) * features + j;
        *at = added(*at, values[(i * steps + t) * features + j]);
    }
}

// Sums of groups: a thread for each entry, draws in order, in float64, rounded once.
extern "C" __global__ void group_sums(const T* x, i64 rows, i64 d, i64 row_stride, i64 column_stride, int unit,
                                      const i64* offsets, const i64* indices, const double* slope,
                                      const double* factors, const double* shifts, const double* scale, i64 k,
                                      i64 groups, i64* bad, T* out, i64 column_blocks) {
    const i64 p = (d + unit) * k;
    const Entry at = entry_of(column_blocks, d + unit);
    const i64 g = at.row;
    if (at.column >= p || g >= groups) return;
    double sum = 0.0;
    for (i64 t = offsets[g]; t < offsets[g + 1]; ++t) {
        const i64 i = indices ? indices[t] : t;
        if (i < 0 || i >= rows) {
            atomicMin(bad, g);
            continue;
        }
        double f = slope ? slope[i * k + at.q] : 1.0;
        if (factors) f *= factors[t];
        if (shifts) f += shifts[t];
        sum += f * (at.j < d ? wide(x[i * row_stride + at.j * column_stride]) : 1.0);
    }
    out[g * p + at.column] = narrowed<T>(scale ? scale[g] * sum : sum);
}

// products[i, pair] = sum_t left[i, t, q] right[i, t, r] for the pairs (q, r): a thread for each entry, terms in order.
// Without `left`, right[i, q, r].
extern "C" __global__ void pair_products(const double* left, const double* right, i64 n, i64 terms, i64 k,
                                         const i64* rows, const i64* columns, i64 pairs, double* products,
                                         i64 column_blocks) {
    const i64 pair = ((i64)blockIdx.x % column_blocks) * blockDim.x + threadIdx.x;
    const i64 i = (i64)blockIdx.x / column_blocks;
    if (pair >= pairs || i >= n) return;
    const i64 q = rows[pair];
    const i64 r = columns[pair];
    const double* from = right + i * terms * k + r;
    double sum = left ? 0.0 : from[q * k];
    for (i64 t = 0; left && t < terms; ++t) sum += left[(i * terms + t) * k + q] * from[t * k];
    products[i * pairs + pair] = sum;
}
