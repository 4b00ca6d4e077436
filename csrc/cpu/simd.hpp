// Native vectors of the instruction set that a kernel file is compiled for, through the vector extensions of GCC and
// Clang. A kernel file defines GRADHESS_ISA (the namespace, so that no two files share a symbol) and
// GRADHESS_VECTOR_BYTES before it includes kernels.inl.
#pragma once

#if GRADHESS_VECTOR_BYTES > 16
#include <immintrin.h>
#endif

#include "job.hpp"

#define GRADHESS_INLINE inline __attribute__((always_inline))

#if defined(__aarch64__)
#define GRADHESS_VECTOR_REGISTER(v) "+w"(v)
#else
#define GRADHESS_VECTOR_REGISTER(v) "+v"(v)
#endif

namespace gradhess::cpu::GRADHESS_ISA {

template <class T>
struct Simd;

template <>
struct Simd<double> {
    typedef double Vector __attribute__((vector_size(GRADHESS_VECTOR_BYTES)));
    typedef double HalfVector __attribute__((vector_size(GRADHESS_VECTOR_BYTES / 2)));
    static constexpr int lanes = GRADHESS_VECTOR_BYTES / 8;
};

template <>
struct Simd<float> {
    typedef float Vector __attribute__((vector_size(GRADHESS_VECTOR_BYTES)));
    // As many floats as a vector of doubles has lanes.
    typedef float HalfVector __attribute__((vector_size(GRADHESS_VECTOR_BYTES / 2)));
    static constexpr int lanes = GRADHESS_VECTOR_BYTES / 4;
};

template <class T>
using Vector = typename Simd<T>::Vector;
template <class T>
using HalfVector = typename Simd<T>::HalfVector;
using Doubles = Vector<double>;
inline constexpr int kDoubleLanes = Simd<double>::lanes;

template <class V, class T>
GRADHESS_INLINE V load(const T* from) {
    V v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
}

template <class V, class T>
GRADHESS_INLINE void store(T* to, V v) {
    __builtin_memcpy(to, &v, sizeof v);
}

GRADHESS_INLINE Doubles load_doubles(const double* from) { return load<Doubles>(from); }

// GCC 12 builds such a conversion out of four parts; the instruction that does it is named here.
GRADHESS_INLINE Doubles to_doubles(Simd<float>::HalfVector v) {
#if GRADHESS_VECTOR_BYTES == 64
    return _mm512_maskz_cvtps_pd(0xff, v);  // without a mask GCC 12 warns of its own header
#elif GRADHESS_VECTOR_BYTES == 32
    return _mm256_cvtps_pd(v);
#else
    return __builtin_convertvector(v, Doubles);
#endif
}

GRADHESS_INLINE Doubles load_doubles(const float* from) { return to_doubles(load<Simd<float>::HalfVector>(from)); }

#if GRADHESS_VECTOR_BYTES > 16
// As many values of 16 bits (IEEE half precision) as a vector has floats.
GRADHESS_INLINE Vector<float> load_halves(const char* from) {
#if GRADHESS_VECTOR_BYTES == 64
    return _mm512_maskz_cvtph_ps(0xffff, load<__m256i>(from));
#else
    return _mm256_cvtph_ps(load<__m128i>(from));
#endif
}
#endif

// The same of the upper halves of floats (bfloat16).
GRADHESS_INLINE Vector<float> load_upper_halves(const char* from) {
    typedef std::uint16_t Halves __attribute__((vector_size(GRADHESS_VECTOR_BYTES / 2)));
    typedef std::uint32_t Bits __attribute__((vector_size(GRADHESS_VECTOR_BYTES)));
    return reinterpret_cast<Vector<float>>(__builtin_convertvector(load<Halves>(from), Bits) << 16);
}

// The first `count` entries of what begins at `from`, fewer than a vector has, and zeros: nothing beyond them is read.
GRADHESS_INLINE Vector<double> load_first(const double* from, Index count) {
#if GRADHESS_VECTOR_BYTES == 64
    return _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << count) - 1), from);
#elif GRADHESS_VECTOR_BYTES == 32
    const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
    return _mm256_maskload_pd(from, _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), lane));
#else
    return Vector<double>{count > 0 ? from[0] : 0.0, 0.0};
#endif
}

GRADHESS_INLINE Vector<float> load_first(const float* from, Index count) {
#if GRADHESS_VECTOR_BYTES == 64
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
#elif GRADHESS_VECTOR_BYTES == 32
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_ps(from, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lane));
#else
    if (count < 2) return Vector<float>{count > 0 ? from[0] : 0.0f};
    double two;  // at once
    __builtin_memcpy(&two, from, sizeof two);
    auto v = reinterpret_cast<Vector<float>>(Vector<double>{two});
    if (count > 2) v[2] = from[2];
    return v;
#endif
}

// Stores the first `count` entries, fewer than a vector has: nothing after them is written.
GRADHESS_INLINE void store_first(double* to, Vector<double> v, Index count) {
#if GRADHESS_VECTOR_BYTES == 64
    _mm512_mask_storeu_pd(to, static_cast<__mmask8>((1u << count) - 1), v);
#elif GRADHESS_VECTOR_BYTES == 32
    const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
    _mm256_maskstore_pd(to, _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), lane), v);
#else
    for (Index j = 0; j < count; ++j) to[j] = v[j];
#endif
}

GRADHESS_INLINE void store_first(float* to, Vector<float> v, Index count) {
#if GRADHESS_VECTOR_BYTES == 64
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), v);
#elif GRADHESS_VECTOR_BYTES == 32
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_maskstore_ps(to, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lane), v);
#else
    for (Index j = 0; j < count; ++j) to[j] = v[j];
#endif
}

#if GRADHESS_VECTOR_BYTES > 16
// At most as many as half a vector has.
GRADHESS_INLINE HalfVector<double> load_first_half(const double* from, Index count) {
#if GRADHESS_VECTOR_BYTES == 64
    return _mm256_maskz_loadu_pd(static_cast<__mmask8>((1u << count) - 1), from);
#else
    return _mm_maskload_pd(from, _mm_cmpgt_epi64(_mm_set1_epi64x(count), _mm_set_epi64x(1, 0)));
#endif
}

GRADHESS_INLINE HalfVector<float> load_first_half(const float* from, Index count) {
#if GRADHESS_VECTOR_BYTES == 64
    return _mm256_maskz_loadu_ps(static_cast<__mmask8>((1u << count) - 1), from);
#else
    const __m128i lane = _mm_setr_epi32(0, 1, 2, 3);
    return _mm_maskload_ps(from, _mm_cmpgt_epi32(_mm_set1_epi32(static_cast<int>(count)), lane));
#endif
}
#endif

// The same as doubles, fewer than a vector of these has.
GRADHESS_INLINE Doubles load_first_doubles(const double* from, Index count) { return load_first(from, count); }

GRADHESS_INLINE Doubles load_first_doubles(const float* from, Index count) {
#if GRADHESS_VECTOR_BYTES == 64
    return _mm512_maskz_cvtps_pd(0xff, _mm256_maskz_loadu_ps(static_cast<__mmask8>((1u << count) - 1), from));
#elif GRADHESS_VECTOR_BYTES == 32
    const __m128i lane = _mm_setr_epi32(0, 1, 2, 3);
    return _mm256_cvtps_pd(_mm_maskload_ps(from, _mm_cmpgt_epi32(_mm_set1_epi32(static_cast<int>(count)), lane)));
#else
    Doubles v = {};
    for (Index j = 0; j < count; ++j) v[j] = static_cast<double>(from[j]);
    return v;
#endif
}

GRADHESS_INLINE Doubles square_root(Doubles v) {
#if GRADHESS_VECTOR_BYTES == 64
    return _mm512_maskz_sqrt_pd(0xff, v);
#elif GRADHESS_VECTOR_BYTES == 32
    return _mm256_sqrt_pd(v);
#else
    for (int k = 0; k < kDoubleLanes; ++k) v[k] = __builtin_sqrt(v[k]);
    return v;
#endif
}

// The two halves of a vector of floats, as doubles.
struct DoublesPair {
    Doubles low, high;
};

GRADHESS_INLINE DoublesPair widen(Vector<float> v) {
    Simd<float>::HalfVector half[2];
    __builtin_memcpy(half, &v, sizeof v);
    return {to_doubles(half[0]), to_doubles(half[1])};
}

// total += v, as doubles.
GRADHESS_INLINE void add_doubles(Doubles (&total)[1], Doubles v) { total[0] += v; }

GRADHESS_INLINE void add_doubles(Doubles (&total)[2], Vector<float> v) {
    const auto [low, high] = widen(v);
    total[0] += low;
    total[1] += high;
}

// A product that is rounded before it is added to something. These files are compiled with -ffp-contract=fast, for the
// multiply kernel; elsewhere a fused operation in one place and not in another would cost equal bits.
template <class V>
GRADHESS_INLINE V rounded(V product) {
    asm("" : GRADHESS_VECTOR_REGISTER(product));
    return product;
}

// a * b + c, rounded once where the processor can: for loops of which the compiler would fuse other operations in its
// vectors than in what is left over.
GRADHESS_INLINE double multiply_add(double a, double b, double c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return __builtin_fma(a, b, c);
#else
    return a * b + c;
#endif
}

template <class T>
GRADHESS_INLINE Vector<T> broadcast(T value) {
    return value - Vector<T>{};
}

}  // namespace gradhess::cpu::GRADHESS_ISA
