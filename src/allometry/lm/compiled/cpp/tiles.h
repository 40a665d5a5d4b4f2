// Products of small matrices by register tiles. The right operand and the result lie in panels: rows of a few vectors,
// sixteen columns each. The left operand is read entry by entry, with any strides, so no operand is ever packed.

#pragma once

#include <algorithm>
#include <array>
#include <utility>

#include "vectors.h"

namespace {

// How many vectors of a row a tile takes at once, and its rows by their number: all its sums stay in registers.
#if defined(__AVX512F__)
constexpr int VECTORS = 4;
constexpr int64_t TILE_ROWS[] = {0, 12, 12, 8, 6};
#elif defined(__AVX__) || defined(__aarch64__)
constexpr int VECTORS = 1;
constexpr int64_t TILE_ROWS[] = {0, 6};
#else
constexpr int VECTORS = 1;
constexpr int64_t TILE_ROWS[] = {0, 3};
#endif
constexpr int64_t DEPTH = 128;  // terms of a product for which a panel of the right operand stays in the first cache

// How the operands of a product are held, in lanes of 32 bits: one FP32 number each, or two BF16 numbers that belong to
// neighbouring terms of the sum.
struct Single {
    static constexpr int64_t TERMS = 1;
    static native left(const float* a) { return *a - native{}; }  // which is *a, also -0: nothing is left to compute
    static native add_product(native sum, native a, native b) { return sum + a * b; }
};
struct Pairs {
    static constexpr int64_t TERMS = 2;
    static native left(const float* a) { return Single::left(a); }
    static native add_product(native sum, native a, native b) {
#ifdef __AVX512BF16__
        return (native)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
        const native_words high = native_words{} + 0xffff0000u;
        sum += (native)((native_words)a << 16) * (native)((native_words)b << 16);
        return sum + (native)((native_words)a & high) * (native)((native_words)b & high);
#endif
    }
};

// Two FP32 terms in neighbouring lanes, for results of eight columns: their sums are apart, see join_twins.
struct Twins {
    static native left(const float* a) {
        double both;
        std::memcpy(&both, a, sizeof both);
        return (native)(both - native_doubles{});
    }
    static native add_product(native sum, native a, native b) { return sum + a * b; }
};

// c (M, 16·V) = beta·c + alpha · a (M, depth) · b (depth, 16·V); with beta 0, c is not read.
template <typename Held, int M, int V>
void tile(int64_t depth, const float* a, int64_t a_row, int64_t a_column, const float* b, int64_t b_row, float* c,
          int64_t c_row, float alpha, float beta) {
    constexpr int N = V * WIDE / NATIVE;
    native sums[M][N] = {};
    for (int64_t k = 0; k < depth; k++, a += a_column, b += b_row) {
        native right[N];
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) right[n] = *reinterpret_cast<const loose_native*>(b + n * NATIVE);
#pragma GCC unroll 12
        for (int m = 0; m < M; m++) {
            const native left = Held::left(a + m * a_row);
#pragma GCC unroll 4
            for (int n = 0; n < N; n++) sums[m][n] = Held::add_product(sums[m][n], right[n], left);
        }
    }
#pragma GCC unroll 12
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) {
            loose_native* at = reinterpret_cast<loose_native*>(c + m * c_row + n * NATIVE);
            *at = beta == 0 ? sums[m][n] * alpha : sums[m][n] * alpha + *at * beta;
        }
}

typedef void (*Tile)(int64_t, const float*, int64_t, int64_t, const float*, int64_t, float*, int64_t, float, float);
template <typename Held, int V, int... M>
constexpr std::array<Tile, sizeof...(M)> tiles_of(std::integer_sequence<int, M...>) {
    return {tile<Held, M + 1, V>...};
}

// The same for any number of rows: even blocks of at most TILE_ROWS.
template <typename Held, int V>
void product(int64_t rows, int64_t depth, const float* a, int64_t a_row, int64_t a_column, const float* b,
             int64_t b_row, float* c, int64_t c_row, float alpha, float beta) {
    if constexpr (V > VECTORS) {
        for (int v = 0; v < V; v++)
            product<Held, 1>(rows, depth, a, a_row, a_column, b + v * WIDE, b_row, c + v * WIDE, c_row, alpha, beta);
    } else {
        static constexpr auto tiles = tiles_of<Held, V>(std::make_integer_sequence<int, TILE_ROWS[V]>());
        const int64_t blocks = (rows + TILE_ROWS[V] - 1) / TILE_ROWS[V];
        for (int64_t i = 0, first = 0; i < blocks; i++) {
            const int64_t end = rows * (i + 1) / blocks;
            tiles[end - first - 1](depth, a + first * a_row, a_row, a_column, b, b_row, c + first * c_row, c_row,
                                   alpha, beta);
            first = end;
        }
    }
}

// The same for 1 to 4 vectors.
template <typename Held>
void product(int64_t vectors, int64_t rows, int64_t depth, const float* a, int64_t a_row, int64_t a_column,
             const float* b, int64_t b_row, float* c, int64_t c_row, float alpha, float beta) {
    switch (vectors) {
        case 1: return product<Held, 1>(rows, depth, a, a_row, a_column, b, b_row, c, c_row, alpha, beta);
        case 2: return product<Held, 2>(rows, depth, a, a_row, a_column, b, b_row, c, c_row, alpha, beta);
        case 3: return product<Held, 3>(rows, depth, a, a_row, a_column, b, b_row, c, c_row, alpha, beta);
        default: return product<Held, 4>(rows, depth, a, a_row, a_column, b, b_row, c, c_row, alpha, beta);
    }
}

inline int64_t whole(int64_t size) { return (size + WIDE - 1) / WIDE * WIDE; }  // up to whole vectors

// A linear map: y = output · weight · x; the factors of the gradients of x and of the weight. `paired` is place for the
// weight in BF16, for both directions.
struct Linear {
    const float* weight;
    float *paired, *grad;
    int64_t fan_in, fan_out;
    float output, grad_input, grad_weight;
};
inline int64_t half(int64_t size) { return (size + 1) / 2; }

// The weight in BF16: pairs of its columns (fan_out, half(fan_in)), then pairs of its rows (half(fan_out), fan_in).
void pair_weight(const Linear& map) {
    float* to = map.paired;
    for (int64_t o = 0; o < map.fan_out; o++, to += half(map.fan_in)) {
        bf16* row = reinterpret_cast<bf16*>(to);
        row[2 * half(map.fan_in) - 1].bits = 0;
        along(map.fan_in, [&](int64_t i, int64_t n) { put(row + i, get(map.weight + o * map.fan_in + i, n), n); });
    }
    for (int64_t o = 0; o < map.fan_out; o += 2, to += map.fan_in)
        along(map.fan_in, [&](int64_t i, int64_t n) {
            const float* row = map.weight + o * map.fan_in + i;
            put(to + i, pair(get(row, n), o + 1 < map.fan_out ? get(row + map.fan_in, n) : vec{}), n);
        });
}

// A tensor of some rows (features) by the tokens of a sequence, as panels of P vectors: (panels, rows, 16·P).
template <int P, typename Held>
struct Panels {
    static constexpr int64_t TOKENS = P * WIDE;
    static constexpr bool PAIRED = Held::TERMS == 2;
    static constexpr int64_t LANES = PAIRED && P > 1 ? TOKENS / 2 : TOKENS;  // of a panel's tokens, if those are paired

    // y = beta·y + output · weight · x. `memory` takes an operand.
    static void forward(const Linear& map, const float* x, float* y, int64_t panels, float beta, float* memory) {
        if constexpr (PAIRED)
            apply(map.paired, half(map.fan_in), 1, pair_rows(x, map.fan_in, panels, memory), half(map.fan_in), y,
                  map.fan_out, panels, map.output, beta);
        else
            apply(map.weight, map.fan_in, 1, x, map.fan_in, y, map.fan_out, panels, map.output, beta);
    }

    // x = grad_input · weightᵀ · y.
    static void backward(const Linear& map, const float* y, float* x, int64_t panels, float* memory) {
        if constexpr (PAIRED)
            apply(map.paired + map.fan_out * half(map.fan_in), 1, map.fan_in,
                  pair_rows(y, map.fan_out, panels, memory), half(map.fan_out), x, map.fan_in, panels, map.grad_input,
                  0);
        else
            apply(map.weight, 1, map.fan_in, y, map.fan_out, x, map.fan_in, panels, map.grad_input, 0);
    }

    // `rows` rows of every panel, `stride` floats apart, to rows of tokens: (tokens, whole(rows)).
    static void turn(const float* x, int64_t stride, int64_t rows, int64_t panels, float* y) {
        const int64_t columns = whole(rows);
        for (int64_t p = 0; p < panels; p++, x += stride)
            for (int64_t t = 0; t < TOKENS; t += WIDE, y += WIDE * columns)
                for (int64_t i = 0; i < rows; i += WIDE)
                    transpose_tile(x + i * TOKENS + t, TOKENS, y + i, columns, rows - i);
    }

    // The opposite.
    static void turn_back(const float* y, int64_t stride, int64_t rows, int64_t panels, float* x) {
        const int64_t columns = whole(rows);
        for (int64_t p = 0; p < panels; p++, x += stride)
            for (int64_t t = 0; t < TOKENS; t += WIDE, y += WIDE * columns)
                for (int64_t i = 0; i < rows; i += WIDE)
                    transpose_tile(y + i, columns, x + i * TOKENS + t, TOKENS, WIDE, rows - i);
    }

    // sums (left, whole(right)) = beta·sums + the sum over tokens of left · right. `memory` takes the operands.
    static void outer(const float* left, int64_t left_rows, const float* right, int64_t right_rows, int64_t panels,
                      float* sums, float beta, float* memory) {
        const int64_t columns = whole(right_rows), vectors = columns / WIDE;
        turn(right, right_rows * TOKENS, right_rows, panels, memory);
        if constexpr (PAIRED) {
            pair_tokens(memory, columns, panels);
            left = pair_lanes(left, left_rows * panels, memory + panels * LANES * columns);
        }
        for (int64_t v = 0; v < vectors; v += 4)
            for (int64_t p = 0; p < panels; p++)
                product<Held>(std::min<int64_t>(4, vectors - v), left_rows, LANES, left + p * left_rows * LANES, LANES,
                              1, memory + p * LANES * columns + v * WIDE, columns, sums + v * WIDE, columns, 1.0f,
                              p ? 1.0f : beta);
    }

  private:
    // y (rows) = beta·y + alpha · weight · x (depth), with the weight's entries at any strides.
    static void apply(const float* weight, int64_t w_row, int64_t w_column, const float* x, int64_t depth, float* y,
                      int64_t rows, int64_t panels, float alpha, float beta) {
        const int64_t blocks = (depth + DEPTH - 1) / DEPTH;
        for (int64_t p = 0; p < panels; p++, x += depth * TOKENS, y += rows * TOKENS)
            for (int64_t i = 0, first = 0; i < blocks; i++) {
                const int64_t end = depth * (i + 1) / blocks;
                product<Held, P>(rows, end - first, weight + first * w_column, w_row, w_column, x + first * TOKENS,
                                 TOKENS, y, TOKENS, alpha, i ? 1.0f : beta);
                first = end;
            }
    }

    // Neighbouring rows as pairs: (panels, half(rows), tokens).
    static const float* pair_rows(const float* x, int64_t rows, int64_t panels, float* to) {
        const float* begin = to;
        for (int64_t p = 0; p < panels; p++, x += rows * TOKENS)
            for (int64_t i = 0; i < rows; i += 2)
                for (int64_t t = 0; t < TOKENS; t += WIDE, to += WIDE) {
                    const float* at = x + i * TOKENS + t;
                    store(to, pair(load(at), i + 1 < rows ? load(at + TOKENS) : vec{}));
                }
        return begin;
    }

    // Along each row of panels, the tokens of two vectors as pairs.
    static const float* pair_lanes(const float* x, int64_t rows, float* to) {
        const float* begin = to;
        for (int64_t i = 0; i < rows; i++, x += TOKENS)
            for (int64_t t = 0; t < TOKENS; t += 2 * WIDE, to += WIDE)
                store(to, pair(load(x + t), P > 1 ? load(x + t + WIDE) : vec{}));
        return begin;
    }

    // The same pairs of what was turned, in place: every row is read before it is written.
    static void pair_tokens(float* x, int64_t columns, int64_t panels) {
        float* to = x;
        for (int64_t p = 0; p < panels; p++, x += TOKENS * columns)
            for (int64_t t = 0; t < TOKENS; t += 2 * WIDE)
                for (int64_t r = t; r < t + WIDE; r++)
                    for (int64_t i = 0; i < columns; i += WIDE, to += WIDE) {
                        const float* at = x + r * columns + i;
                        store(to, pair(load(at), P > 1 ? load(at + WIDE * columns) : vec{}));
                    }
    }
};

}  // namespace
