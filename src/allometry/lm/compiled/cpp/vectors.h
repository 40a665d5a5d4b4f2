// Vectors of sixteen floats, those of GCC and Clang whatever the machine has, and what the kernels do with them.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

constexpr int64_t WIDE = 16;  // floats in a vector

typedef float vec __attribute__((vector_size(64)));
typedef float loose __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(64)));
typedef uint32_t words __attribute__((vector_size(64)));
typedef uint16_t halves __attribute__((vector_size(32), aligned(2), may_alias));

// The vector of the machine. Compilers do well by operations on ours that are one of its own for each part, such as
// sums; for others, such as a choice, ours is taken apart.
#if defined(__AVX512F__)
constexpr int NATIVE = 16;
#elif defined(__AVX__)
constexpr int NATIVE = 8;
#else
constexpr int NATIVE = 4;
#endif
typedef float native __attribute__((vector_size(4 * NATIVE)));
typedef float loose_native __attribute__((vector_size(4 * NATIVE), aligned(4), may_alias));
typedef double native_doubles __attribute__((vector_size(4 * NATIVE)));
typedef int32_t native_ints __attribute__((vector_size(4 * NATIVE)));
typedef uint32_t native_words __attribute__((vector_size(4 * NATIVE)));

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, ints{__VA_ARGS__})
#endif

struct bf16 {
    uint16_t bits;
};

inline vec all(float x) { return x - vec{}; }  // which is x, also for -0: nothing is left to compute

inline vec load(const float* p) { return *reinterpret_cast<const loose*>(p); }
inline void store(float* p, vec v) { *reinterpret_cast<loose*>(p) = v; }

inline vec load(const bf16* p) {
    return (vec)(__builtin_convertvector(*reinterpret_cast<const halves*>(p), words) << 16);
}
inline void store(bf16* p, vec v) {  // to the nearest, ties to even
    words w = (words)v;
    w += 0x7fff + ((w >> 16) & 1);
    *reinterpret_cast<halves*>(p) = __builtin_convertvector(w >> 16, halves);
}

// The last n < WIDE entries of a row; the rest of the vector is `fill`.
#ifdef __AVX512BW__
inline vec load(const float* p, int64_t n, float fill = 0) {
    return (vec)_mm512_mask_loadu_ps((__m512)all(fill), (__mmask16)((1 << n) - 1), p);
}
inline void store(float* p, vec v, int64_t n) { _mm512_mask_storeu_ps(p, (__mmask16)((1 << n) - 1), (__m512)v); }
inline vec load(const bf16* p, int64_t n, float fill = 0) {
    const __mmask16 mask = (1 << n) - 1;
    const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p)), 16);
    return (vec)_mm512_mask_mov_ps((__m512)all(fill), mask, _mm512_castsi512_ps(wide));
}
inline void store(bf16* p, vec v, int64_t n) {
    bf16 part[WIDE];
    store(part, v);
    _mm256_mask_storeu_epi16(p, (__mmask16)((1 << n) - 1), _mm256_loadu_si256(reinterpret_cast<__m256i*>(part)));
}
#else
template <typename T>
inline vec load(const T* p, int64_t n, float fill = 0) {
    T part[WIDE];
    std::memcpy(part, p, n * sizeof(T));
    std::memset(part + n, 0, (WIDE - n) * sizeof(T));
    vec v = load(part);
    for (int64_t i = n; i < WIDE; i++) v[i] = fill;
    return v;
}
template <typename T>
inline void store(T* p, vec v, int64_t n) {
    T part[WIDE];
    store(part, v);
    std::memcpy(p, part, n * sizeof(T));
}
#endif

// body(i, n) for every vector of a row of `size`; n < WIDE for what is left at the end.
template <typename Body>
inline void along(int64_t size, Body body) {
    int64_t i = 0;
    for (; i + WIDE <= size; i += WIDE) body(i, WIDE);
    if (i < size) body(i, size - i);
}
template <typename T>
inline vec get(const T* p, int64_t n, float fill = 0) {
    return n == WIDE ? load(p) : load(p, n, fill);
}
template <typename T>
inline void put(T* p, vec v, int64_t n) {
    n == WIDE ? store(p, v) : store(p, v, n);
}

template <typename Body>
inline vec by_parts(vec a, vec b, Body body) {
    native one[WIDE / NATIVE], two[WIDE / NATIVE];
    std::memcpy(one, &a, sizeof a);
    std::memcpy(two, &b, sizeof b);
    for (int i = 0; i < WIDE / NATIVE; i++) one[i] = body(one[i], two[i]);
    std::memcpy(&a, one, sizeof a);
    return a;
}

// The greater or smaller of two, the second where one is not a number.
#ifdef __AVX512F__
inline native larger(native a, native b) { return (native)_mm512_max_ps((__m512)a, (__m512)b); }
inline native smaller(native a, native b) { return (native)_mm512_min_ps((__m512)a, (__m512)b); }
#else
inline native larger(native a, native b) { return a > b ? a : b; }
inline native smaller(native a, native b) { return a < b ? a : b; }
inline vec larger(vec a, vec b) {
    return by_parts(a, b, [](native one, native two) { return larger(one, two); });
}
#endif

template <typename Two>
inline vec fold(vec v, Two two) {  // every entry becomes the whole
    v = two(v, SHUFFLE(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    v = two(v, SHUFFLE(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
    v = two(v, SHUFFLE(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    return two(v, SHUFFLE(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
}
inline float sum(vec v) {
    return fold(v, [](vec a, vec b) { return a + b; })[0];
}
inline float largest(vec v) {
    return fold(v, [](vec a, vec b) { return larger(a, b); })[0];
}

// e^x to 2e-7, zero or infinite beyond ±87: 2^n by the exponent's bits, the rest by Taylor's series on ±ln 2 / 2.
// NaN stays NaN.
inline native exp(native x) {
    const native t = smaller(native{} + 89.0f, larger(native{} - 88.0f, x));
    const native n = (t * 1.44269504088896341f + 12582912.0f) - 12582912.0f;  // to the nearest whole number
    const native r = (t - n * 0.693359375f) + n * 2.12194440e-4f;
    native p = native{} + 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * (native)((__builtin_convertvector(n, native_ints) + 127) << 23);  // at n = -127 zero, at 128 infinite
}
#ifndef __AVX512F__
inline vec exp(vec x) {
    return by_parts(x, x, [](native part, native) { return exp(part); });
}
#endif

// Sixteen rows, `stride` apart, become sixteen columns. Of the rows only the first `rows` are read, the others are zero;
// of what they become only the first `columns` are written.
inline void transpose_tile(const float* from, int64_t stride, float* to, int64_t to_stride, int64_t rows = WIDE,
                           int64_t columns = WIDE) {
    vec a[WIDE], b[WIDE];
    if (rows >= WIDE)
        for (int64_t i = 0; i < WIDE; i++) a[i] = load(from + i * stride);
    else
        for (int64_t i = 0; i < WIDE; i++) a[i] = i < rows ? load(from + i * stride) : vec{};
    for (int64_t round = 0; round < 4; round++) {  // each a perfect shuffle of all 256 entries by one place
        for (int64_t i = 0; i < WIDE / 2; i++) {
            const vec one = a[i], two = a[i + WIDE / 2];
            b[2 * i] = SHUFFLE(one, two, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            b[2 * i + 1] = SHUFFLE(one, two, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        for (int64_t i = 0; i < WIDE; i++) a[i] = b[i];
    }
    if (columns >= WIDE)
        for (int64_t i = 0; i < WIDE; i++) store(to + i * to_stride, a[i]);
    else
        for (int64_t i = 0; i < columns; i++) store(to + i * to_stride, a[i]);
}

inline vec root(vec x) {
#ifdef __AVX512F__
    return (vec)_mm512_sqrt_ps((__m512)x);
#else
    for (int64_t i = 0; i < WIDE; i++) x[i] = std::sqrt(x[i]);
    return x;
#endif
}

// Two vectors in BF16, in the lower and the upper halves of 32 bits.
inline vec pair(vec low, vec high) {
#ifdef __AVX512BF16__
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                           5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (vec)_mm512_permutexvar_epi16(order, both);
#else
    words one = (words)low, two = (words)high;
    one += 0x7fff + ((one >> 16) & 1);
    two += 0x7fff + ((two >> 16) & 1);
    return (vec)((one >> 16) | (two & 0xffff0000u));
#endif
}

}  // namespace
