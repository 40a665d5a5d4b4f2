// Causal attention, forward and backward: one head of one sequence at a time, copied into FP32 with rotary positions
// put in.

#pragma once

#include "vectors.h"

namespace {

constexpr int64_t ROWS = 16;  // queries taken at once

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
void gather(const T* from, int64_t stride, const Shape& s, const float* cos, const float* sin, float factor,
            float* to) {
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

void transpose(const float* from, const Shape& s, float* to) {  // (places, columns) -> (columns, places)
    const int64_t columns = s.columns(), places = s.places();
    for (int64_t t = 0; t < places; t += WIDE)
        for (int64_t i = 0; i < columns; i += WIDE)
            transpose_tile(from + t * columns + i, columns, to + i * places + t, places);
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
                    along(s.size,
                          [&](int64_t i, int64_t n) { put(row + i, load(o + r * columns + i) * inverse[r], n); });
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
                for (int64_t i = 0; i < columns; i += WIDE)
                    products += load(g + t * columns + i) * load(o + t * columns + i);
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
