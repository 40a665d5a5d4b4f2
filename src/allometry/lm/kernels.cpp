// What a training step does between its GEMMs, each in one pass: norms, attention with rotary positions, the gate, the
// loss, the embedding. Tensors are FP32 or BF16 (T), arithmetic is FP32. No result depends on the number of threads.
//
// Vectors are those of GCC and Clang, sixteen floats wide whatever the machine has; -ffp-contract lets them fuse.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX512BW__
#include <immintrin.h>
#endif

namespace {

constexpr int64_t WIDE = 16;  // floats in a vector
constexpr int64_t ROWS = 16;  // queries taken at once

typedef float vec __attribute__((vector_size(64)));
typedef float loose __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(64)));
typedef uint32_t words __attribute__((vector_size(64)));
typedef uint16_t halves __attribute__((vector_size(32), aligned(2), may_alias));

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, ints{__VA_ARGS__})
#endif

struct bf16 {
    uint16_t bits;
};

inline vec all(float x) { return vec{} + x; }

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

// The greater or smaller of two, the second where one is not a number.
#ifdef __AVX512BW__
inline vec larger(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
inline vec smaller(vec a, vec b) { return (vec)_mm512_min_ps((__m512)a, (__m512)b); }
#else
inline vec larger(vec a, vec b) { return a > b ? a : b; }
inline vec smaller(vec a, vec b) { return a < b ? a : b; }
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
inline vec exp(vec x) {
    const vec t = smaller(all(89.0f), larger(all(-88.0f), x));
    const vec n = (t * 1.44269504088896341f + 12582912.0f) - 12582912.0f;  // to the nearest whole number
    const vec r = (t - n * 0.693359375f) + n * 2.12194440e-4f;
    vec p = all(1.0f / 5040);
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * (vec)((__builtin_convertvector(n, ints) + 127) << 23);  // at n = -127 zero, at 128 infinite
}

template <typename T>
void norm_forward(const T* x, T* y, float* inverse, int64_t rows, int64_t width, float eps, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < rows; r++) {
        const T* row = x + r * width;
        vec squares = {};
        along(width, [&](int64_t i, int64_t n) {
            vec v = get(row + i, n);
            squares += v * v;
        });
        float factor = 1 / std::sqrt(sum(squares) / width + eps);
        inverse[r] = factor;
        along(width, [&](int64_t i, int64_t n) { put(y + r * width + i, get(row + i, n) * factor, n); });
    }
}

// share·(gradient through the norm) + keep·skip; skip may be null, and result may be either operand.
template <typename T>
void norm_backward(const T* grad, const T* y, const float* inverse, const T* skip, T* result, int64_t rows,
                   int64_t width, float share, float keep, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < rows; r++) {
        const int64_t at = r * width;
        vec products = {};
        along(width, [&](int64_t i, int64_t n) { products += get(grad + at + i, n) * get(y + at + i, n); });
        const float along_y = sum(products) / width, factor = inverse[r] * share;
        along(width, [&](int64_t i, int64_t n) {
            vec v = (get(grad + at + i, n) - get(y + at + i, n) * along_y) * factor;
            if (skip) v += get(skip + at + i, n) * keep;
            put(result + at + i, v, n);
        });
    }
}

// x holds gate and up side by side: y = factor · silu(gate) · up.
template <typename T>
void gate_forward(const T* x, T* y, int64_t rows, int64_t hidden, float factor, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < rows; r++) {
        const T *gate = x + 2 * r * hidden, *up = gate + hidden;
        along(hidden, [&](int64_t i, int64_t n) {
            vec g = get(gate + i, n);
            put(y + r * hidden + i, g / (1.0f + exp(-g)) * get(up + i, n) * factor, n);
        });
    }
}

// In place: x becomes its gradient.
template <typename T>
void gate_backward(const T* grad, T* x, int64_t rows, int64_t hidden, float factor, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < rows; r++) {
        T *gate = x + 2 * r * hidden, *up = gate + hidden;
        along(hidden, [&](int64_t i, int64_t n) {
            vec g = get(gate + i, n), u = get(up + i, n), d = get(grad + r * hidden + i, n) * factor;
            vec s = 1.0f / (1.0f + exp(-g));
            put(up + i, d * g * s, n);
            put(gate + i, d * u * s * (1.0f + g * (1.0f - s)), n);
        });
    }
}

// The loss of each row in nats; logits become (softmax - target)·factor.
template <typename T>
void cross_entropy(T* logits, const int64_t* targets, float* losses, int64_t rows, int64_t classes, float factor,
                   int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < rows; r++) {
        T* row = logits + r * classes;
        vec tops = all(-INFINITY), sums = {};
        along(classes, [&](int64_t i, int64_t n) { tops = larger(get(row + i, n, -INFINITY), tops); });
        const float top = largest(tops);
        along(classes, [&](int64_t i, int64_t n) { sums += exp(get(row + i, n, -INFINITY) - top); });
        const float total = sum(sums), scale = factor / total;
        const int64_t target = targets[r];
        T kept[WIDE];
        vec chosen = load(row + target, 1);
        losses[r] = std::log(total) + top - chosen[0];
        along(classes, [&](int64_t i, int64_t n) { put(row + i, exp(get(row + i, n) - top) * scale, n); });
        const float probability = std::exp(chosen[0] - top) * scale;
        store(kept, all(probability - factor));
        row[target] = kept[0];
    }
}

template <typename T>
void embedding_forward(const int64_t* tokens, const float* table, T* x, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < rows; r++)
        along(width, [&](int64_t i, int64_t n) { put(x + r * width + i, get(table + tokens[r] * width + i, n), n); });
}

// One thread: rows of the table meet in any order otherwise.
template <typename T>
void embedding_backward(const int64_t* tokens, const T* grad, float* table, int64_t rows, int64_t width, float factor) {
    for (int64_t r = 0; r < rows; r++)
        along(width, [&](int64_t i, int64_t n) {
            float* at = table + tokens[r] * width + i;
            put(at, get(at, n) + get(grad + r * width + i, n) * factor, n);
        });
}

// ---- Attention. One head of one sequence at a time, copied into FP32 with rotary positions put in. ----

struct Shape {
    int64_t batch, length, heads, size;  // size: of a head
    int64_t columns() const { return (size + WIDE - 1) / WIDE * WIDE; }
    int64_t places() const { return (length + ROWS - 1) / ROWS * ROWS; }
    int64_t width() const { return heads * size; }
};

// Aligned working memory that a thread keeps.
struct Scratch {
    std::vector<float> store;
    float* at = nullptr;
    explicit Scratch(size_t count) : store(count + WIDE) {
        at = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(store.data()) + 63) & ~uintptr_t(63));
    }
    float* take(size_t count) {
        float* taken = at;
        at += count;
        return taken;
    }
};

// A row of a head turned by the tables of its position, backwards for sign -1, times factor. `to` may be `from`.
inline void rotate(const float* from, const float* cos, const float* sin, float sign, float factor, int64_t size,
                   float* to) {
    if (size == WIDE) {
        const vec x = load(from), swapped = SHUFFLE(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
        store(to, (x * load(cos) + swapped * load(sin) * sign) * factor);
        return;
    }
    const int64_t half = size / 2;
    for (int64_t i = 0; i < half; i++) {
        const float a = from[i], b = from[i + half];
        to[i] = (a * cos[i] + b * sin[i] * sign) * factor;
        to[i + half] = (b * cos[i + half] + a * sin[i + half] * sign) * factor;
    }
}

// Rows of a head, a fixed stride apart, into (places, columns); turned when there are tables, times factor.
template <typename T>
void gather(const T* from, int64_t stride, const Shape& s, const float* cos, const float* sin, float factor, float* to) {
    const int64_t columns = s.columns();
    for (int64_t t = 0; t < s.length; t++) {
        float* row = to + t * columns;
        along(s.size, [&](int64_t i, int64_t n) { store(row + i, get(from + t * stride + i, n)); });
        if (cos) rotate(row, cos + t * s.size, sin + t * s.size, 1, factor, s.size, row);
    }
    std::memset(to + s.length * columns, 0, (s.places() - s.length) * columns * sizeof(float));
}

// The opposite.
template <typename T>
void scatter(float* from, int64_t stride, const Shape& s, const float* cos, const float* sin, float factor, T* to) {
    for (int64_t t = 0; t < s.length; t++) {
        float* row = from + t * s.columns();
        if (cos) rotate(row, cos + t * s.size, sin + t * s.size, -1, factor, s.size, row);
        along(s.size, [&](int64_t i, int64_t n) { put(to + t * stride + i, load(row + i), n); });
    }
}

// Sixteen rows, `stride` apart, become sixteen columns.
inline void transpose_tile(const float* from, int64_t stride, float* to, int64_t to_stride) {
    vec a[WIDE], b[WIDE];
    for (int64_t i = 0; i < WIDE; i++) a[i] = load(from + i * stride);
    for (int64_t round = 0; round < 4; round++) {  // each a perfect shuffle of all 256 entries by one place
        for (int64_t i = 0; i < WIDE / 2; i++) {
            const vec one = a[i], two = a[i + WIDE / 2];
            b[2 * i] = SHUFFLE(one, two, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            b[2 * i + 1] = SHUFFLE(one, two, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        for (int64_t i = 0; i < WIDE; i++) a[i] = b[i];
    }
    for (int64_t i = 0; i < WIDE; i++) store(to + i * to_stride, a[i]);
}
void transpose(const float* from, const Shape& s, float* to) {  // (places, columns) -> (columns, places)
    const int64_t columns = s.columns(), places = s.places();
    for (int64_t t = 0; t < places; t += WIDE)
        for (int64_t i = 0; i < columns; i += WIDE) transpose_tile(from + t * columns + i, columns, to + i * places + t, places);
}

// c (ROWS, keys) = a (ROWS, size) · b (size, places), for the first `keys` columns.
template <int64_t VECTORS>
inline void scores_of(const float* a, const float* b, float* c, int64_t size, int64_t columns, int64_t places,
                      int64_t stride) {
    for (int64_t r = 0; r < ROWS; r += 8) {
        vec sums[8][VECTORS] = {};
        for (int64_t i = 0; i < size; i++) {
            vec right[VECTORS];
            for (int64_t v = 0; v < VECTORS; v++) right[v] = load(b + i * places + v * WIDE);
            for (int64_t k = 0; k < 8; k++) {
                const float left = a[(r + k) * columns + i];
                for (int64_t v = 0; v < VECTORS; v++) sums[k][v] += right[v] * left;
            }
        }
        for (int64_t k = 0; k < 8; k++)
            for (int64_t v = 0; v < VECTORS; v++) store(c + (r + k) * stride + v * WIDE, sums[k][v]);
    }
}
void scores(const float* a, const float* b, float* c, const Shape& s, int64_t keys) {
    const int64_t columns = s.columns(), places = s.places();
    int64_t j = 0;
    for (; j + 2 * WIDE <= keys; j += 2 * WIDE) scores_of<2>(a, b + j, c + j, s.size, columns, places, places);
    if (j < keys) scores_of<1>(a, b + j, c + j, s.size, columns, places, places);
}

// c (ROWS, columns) = a (ROWS, keys) · b (keys, columns).
void gathered(const float* a, const float* b, float* c, const Shape& s, int64_t keys) {
    const int64_t columns = s.columns(), places = s.places();
    for (int64_t v = 0; v < columns; v += WIDE)
        for (int64_t r = 0; r < ROWS; r += 8) {
            vec sums[8] = {};
            for (int64_t j = 0; j < keys; j++) {
                const vec right = load(b + j * columns + v);
                for (int64_t k = 0; k < 8; k++) sums[k] += right * a[(r + k) * places + j];
            }
            for (int64_t k = 0; k < 8; k++) store(c + (r + k) * columns + v, sums[k]);
        }
}

// c (keys, columns) += aᵀ (keys, ROWS) · b (ROWS, columns).
void spread(const float* a, const float* b, float* c, const Shape& s, int64_t keys) {
    const int64_t columns = s.columns(), places = s.places();
    for (int64_t v = 0; v < columns; v += WIDE)
        for (int64_t j = 0; j < keys; j += 8) {
            vec sums[8];
            for (int64_t k = 0; k < 8; k++) sums[k] = load(c + (j + k) * columns + v);
            for (int64_t r = 0; r < ROWS; r++) {
                const vec right = load(b + r * columns + v);
                for (int64_t k = 0; k < 8; k++) sums[k] += right * a[r * places + j + k];
            }
            for (int64_t k = 0; k < 8; k++) store(c + (j + k) * columns + v, sums[k]);
        }
}

// Causal: row first + r sees keys up to itself. What it does not see becomes `value`.
void hide(float* scores, int64_t first, int64_t places, float value) {
    for (int64_t r = 0; r < ROWS; r++)
        for (int64_t j = first + r + 1; j < first + ROWS; j++) scores[r * places + j] = value;
}

// x is (batch, length, 3·heads·size): queries, keys, values. y is (batch, length, heads·size).
template <typename T>
void attention_forward(const T* x, const float* cos, const float* sin, T* y, float* lse, Shape s, float factor,
                       int threads) {
    const int64_t columns = s.columns(), places = s.places(), width = s.width();
#pragma omp parallel num_threads(threads)
    {
        Scratch scratch(places * (4 * columns + ROWS) + ROWS * columns);
        float *q = scratch.take(places * columns), *k = scratch.take(places * columns);
        float *v = scratch.take(places * columns), *kt = scratch.take(places * columns);
        float *p = scratch.take(places * ROWS), *o = scratch.take(ROWS * columns);
#pragma omp for schedule(static)
        for (int64_t head = 0; head < s.batch * s.heads; head++) {
            const int64_t b = head / s.heads, h = head % s.heads;
            const T* base = x + b * s.length * 3 * width + h * s.size;
            gather(base, 3 * width, s, cos, sin, factor, q);
            gather(base + width, 3 * width, s, cos, sin, 1.0f, k);
            gather<T>(base + 2 * width, 3 * width, s, nullptr, nullptr, 1.0f, v);
            transpose(k, s, kt);
            for (int64_t first = 0; first < s.length; first += ROWS) {
                const int64_t keys = first + ROWS;
                scores(q + first * columns, kt, p, s, keys);
                hide(p, first, places, -INFINITY);
                float inverse[ROWS];
                for (int64_t r = 0; r < ROWS; r++) {
                    float* row = p + r * places;
                    vec tops = load(row), sums = {};
                    for (int64_t j = WIDE; j < keys; j += WIDE) tops = larger(load(row + j), tops);
                    const float top = largest(tops);
                    for (int64_t j = 0; j < keys; j += WIDE) {
                        const vec e = exp(load(row + j) - top);
                        store(row + j, e);
                        sums += e;
                    }
                    const float total = sum(sums);
                    inverse[r] = 1 / total;
                    if (first + r < s.length) lse[head * s.length + first + r] = top + std::log(total);
                }
                gathered(p, v, o, s, keys);
                for (int64_t r = 0; r < ROWS && first + r < s.length; r++) {
                    T* row = y + (b * s.length + first + r) * width + h * s.size;
                    along(s.size, [&](int64_t i, int64_t n) { put(row + i, load(o + r * columns + i) * inverse[r], n); });
                }
            }
        }
    }
}

// grad is that of y; x becomes its gradient.
template <typename T>
void attention_backward(const T* grad, const T* y, const float* lse, const float* cos, const float* sin, T* x, Shape s,
                        float factor, int threads) {
    const int64_t columns = s.columns(), places = s.places(), width = s.width(), part = places * columns;
#pragma omp parallel num_threads(threads)
    {
        Scratch scratch(10 * part + 2 * places * ROWS + places);
        float *q = scratch.take(part), *k = scratch.take(part), *v = scratch.take(part), *g = scratch.take(part);
        float *kt = scratch.take(part), *vt = scratch.take(part);
        float *dq = scratch.take(part), *dk = scratch.take(part), *dv = scratch.take(part), *o = scratch.take(part);
        float *p = scratch.take(places * ROWS), *dp = scratch.take(places * ROWS), *delta = scratch.take(places);
#pragma omp for schedule(static)
        for (int64_t head = 0; head < s.batch * s.heads; head++) {
            const int64_t b = head / s.heads, h = head % s.heads;
            T* base = x + b * s.length * 3 * width + h * s.size;
            const int64_t out = b * s.length * width + h * s.size;
            gather<T>(base, 3 * width, s, cos, sin, factor, q);
            gather<T>(base + width, 3 * width, s, cos, sin, 1.0f, k);
            gather<T>(base + 2 * width, 3 * width, s, nullptr, nullptr, 1.0f, v);
            gather<T>(grad + out, width, s, nullptr, nullptr, 1.0f, g);
            gather<T>(y + out, width, s, nullptr, nullptr, 1.0f, o);
            transpose(k, s, kt);
            transpose(v, s, vt);
            for (int64_t t = 0; t < places; t++) {
                vec products = {};
                for (int64_t i = 0; i < columns; i += WIDE) products += load(g + t * columns + i) * load(o + t * columns + i);
                delta[t] = sum(products);
            }
            std::memset(dk, 0, part * sizeof(float));
            std::memset(dv, 0, part * sizeof(float));
            for (int64_t first = 0; first < s.length; first += ROWS) {
                const int64_t keys = first + ROWS;
                scores(q + first * columns, kt, p, s, keys);
                scores(g + first * columns, vt, dp, s, keys);
                hide(p, first, places, -INFINITY);
                for (int64_t r = 0; r < ROWS; r++) {
                    const int64_t t = first + r;
                    const float norm = t < s.length ? lse[head * s.length + t] : INFINITY;
                    float *row = p + r * places, *drow = dp + r * places;
                    for (int64_t j = 0; j < keys; j += WIDE) {
                        const vec e = exp(load(row + j) - norm);
                        store(row + j, e);
                        store(drow + j, e * (load(drow + j) - delta[t]));
                    }
                }
                gathered(dp, k, dq + first * columns, s, keys);
                spread(dp, q + first * columns, dk, s, keys);
                spread(p, g + first * columns, dv, s, keys);
            }
            scatter(dq, 3 * width, s, cos, sin, factor, base);
            scatter(dk, 3 * width, s, cos, sin, 1.0f, base + width);
            scatter<T>(dv, 3 * width, s, nullptr, nullptr, 1.0f, base + 2 * width);
        }
    }
}

}  // namespace

#define KERNELS(T, NAME)                                                                                              \
    void norm_forward_##NAME(const T* x, T* y, float* inverse, int64_t rows, int64_t width, float eps, int threads) { \
        norm_forward(x, y, inverse, rows, width, eps, threads);                                                       \
    }                                                                                                                 \
    void norm_backward_##NAME(const T* grad, const T* y, const float* inverse, const T* skip, T* result,              \
                              int64_t rows, int64_t width, float share, float keep, int threads) {                    \
        norm_backward(grad, y, inverse, skip, result, rows, width, share, keep, threads);                             \
    }                                                                                                                 \
    void gate_forward_##NAME(const T* x, T* y, int64_t rows, int64_t hidden, float factor, int threads) {             \
        gate_forward(x, y, rows, hidden, factor, threads);                                                            \
    }                                                                                                                 \
    void gate_backward_##NAME(const T* grad, T* x, int64_t rows, int64_t hidden, float factor, int threads) {         \
        gate_backward(grad, x, rows, hidden, factor, threads);                                                        \
    }                                                                                                                 \
    void cross_entropy_##NAME(T* logits, const int64_t* targets, float* losses, int64_t rows, int64_t classes,        \
                              float factor, int threads) {                                                            \
        cross_entropy(logits, targets, losses, rows, classes, factor, threads);                                       \
    }                                                                                                                 \
    void embedding_forward_##NAME(const int64_t* tokens, const float* table, T* x, int64_t rows, int64_t width,       \
                                  int threads) {                                                                      \
        embedding_forward(tokens, table, x, rows, width, threads);                                                    \
    }                                                                                                                 \
    void embedding_backward_##NAME(const int64_t* tokens, const T* grad, float* table, int64_t rows, int64_t width,   \
                                   float factor) {                                                                    \
        embedding_backward(tokens, grad, table, rows, width, factor);                                                 \
    }                                                                                                                 \
    void attention_forward_##NAME(const T* x, const float* cos, const float* sin, T* y, float* lse, int64_t batch,    \
                                  int64_t length, int64_t heads, int64_t size, float factor, int threads) {           \
        attention_forward(x, cos, sin, y, lse, {batch, length, heads, size}, factor, threads);                        \
    }                                                                                                                 \
    void attention_backward_##NAME(const T* grad, const T* y, const float* lse, const float* cos, const float* sin,   \
                                   T* x, int64_t batch, int64_t length, int64_t heads, int64_t size, float factor,    \
                                   int threads) {                                                                     \
        attention_backward(grad, y, lse, cos, sin, x, {batch, length, heads, size}, factor, threads);                 \
    }

extern "C" {
KERNELS(float, float32)
KERNELS(bf16, bfloat16)
}
