// Causal attention of one sequence, forward and backward, with its tokens along the vectors: what a query needs of all
// keys (the greatest score, the sum) is then found without adding up a vector. A block of queries keeps its scores, keys
// by queries, in the first or second cache.

#pragma once

#include "clock.h"
#include "tiles.h"

namespace {

template <int P>
struct Heads {
    using Tensor = Panels<P, Single>;
    static constexpr int64_t TOKENS = Tensor::TOKENS;
    static constexpr int BLOCK = P < 2 ? P : 2;         // vectors of queries taken at once
    static constexpr int64_t QUERIES = BLOCK * WIDE;

    int64_t panels, size, width;  // of a sequence; of a head; of all heads

    int64_t stride() const { return 3 * width * TOKENS; }  // from panel to panel of queries, keys and values
    int64_t places() const { return panels * TOKENS; }

    // Floats of working memory.
    int64_t scratch() const { return places() * (2 * QUERIES + 4 * whole(size) + 1); }

    // Queries and keys turned by their positions, `sign` -1: back. Queries also get a factor. The tables have `positions` columns.
    void rotate(float* x, const float* cos, const float* sin, int64_t positions, float sign, float factor) const {
        const Clock clock(ATTENTION);
        const int64_t half = size / 2;
        for (int64_t p = 0; p < panels; p++)
            for (int64_t first = 0; first < 2 * width; first += size) {
                float* head = x + p * stride() + first * TOKENS;
                const float times = first < width ? factor : 1.0f;
                for (int64_t i = 0; i < half; i++)
                    for (int64_t t = 0; t < TOKENS; t += WIDE) {
                        const int64_t at = i * positions + p * TOKENS + t;
                        const vec c = load(cos + at) * times, s = load(sin + at) * (sign * times);
                        float *one = head + i * TOKENS + t, *two = one + half * TOKENS;
                        const vec a = load(one), b = load(two);
                        store(one, a * c - b * s);
                        store(two, b * c + a * s);
                    }
            }
    }

    // scores (keys, QUERIES) = keysᵀ · queries, of the head's rows in the panels at `a` and in the block at `b`.
    void against(const float* a, const float* b, int64_t b_row, int64_t keys, float* scores) const {
        for (int64_t p = 0; p * TOKENS < keys; p++)
            product<Single, BLOCK>(std::min(TOKENS, keys - p * TOKENS), size, a + p * stride(), 1, TOKENS, b, b_row,
                           scores + p * TOKENS * QUERIES, QUERIES, 1.0f, 0.0f);
    }

    // y (size, QUERIES) = alpha · the head's rows in the panels at `a`, summed over keys with their scores.
    void over_keys(const float* a, const float* scores, int64_t keys, float* y) const {
        for (int64_t p = 0; p * TOKENS < keys; p++)
            product<Single, BLOCK>(size, std::min(TOKENS, keys - p * TOKENS), a + p * stride(), TOKENS, 1,
                           scores + p * TOKENS * QUERIES, QUERIES, y, TOKENS, 1.0f, p ? 1.0f : 0.0f);
    }

    // A query sees the keys up to its own place: the others of its block become -∞.
    static void hide(float* scores, int64_t first) {
        for (int64_t k = 0; k < QUERIES; k++)
            for (int64_t q = 0; q < k; q++) scores[(first + k) * QUERIES + q] = -INFINITY;
    }

    // x: queries, keys, values, already rotated. y: (width) panels. Of each head and query, its greatest score and the
    // inverse of the sum of its exponentials: (heads, places).
    void forward(const float* x, float* y, float* tops, float* inverses, float* memory) const {
        const Clock clock(ATTENTION);
        float* scores = memory;
        for (int64_t head = 0; head < width / size; head++) {
            const float *q = x + head * size * TOKENS, *k = q + width * TOKENS, *v = k + width * TOKENS;
            for (int64_t first = 0; first < places(); first += QUERIES) {
                const int64_t keys = first + QUERIES, panel = first / TOKENS, place = first % TOKENS;
                against(k, q + panel * stride() + place, TOKENS, keys, scores);
                hide(scores, first);
                vec top[BLOCK], sum[BLOCK] = {};
                for (int i = 0; i < BLOCK; i++) top[i] = load(scores + i * WIDE);
                for (int64_t j = 1; j < keys; j++)
                    for (int i = 0; i < BLOCK; i++) top[i] = larger(load(scores + j * QUERIES + i * WIDE), top[i]);
                for (int64_t j = 0; j < keys; j++)
                    for (int i = 0; i < BLOCK; i++) {
                        float* at = scores + j * QUERIES + i * WIDE;
                        const vec e = exp(load(at) - top[i]);
                        sum[i] += e;
                        store(at, e);
                    }
                float* out = y + (panel * width + head * size) * TOKENS + place;
                over_keys(v, scores, keys, out);
                for (int i = 0; i < BLOCK; i++) {
                    const vec inverse = 1.0f / sum[i];
                    store(tops + head * places() + first + i * WIDE, top[i]);
                    store(inverses + head * places() + first + i * WIDE, inverse);
                    for (int64_t r = 0; r < size; r++) {
                        float* at = out + r * TOKENS + i * WIDE;
                        store(at, load(at) * inverse);
                    }
                }
            }
        }
    }

    // x becomes its gradient, still rotated. y is what attention gave, times `scales` of each token; grad is of what
    // attention gave.
    void backward(float* x, const float* y, const float* scales, const float* grad, const float* tops,
                  const float* inverses, float* memory) const {
        const Clock clock(ATTENTION);
        const int64_t columns = whole(size), part = places() * columns;
        float *scores = memory, *slopes = scores + places() * QUERIES, *deltas = slopes + places() * QUERIES;
        float *qt = deltas + places(), *gt = qt + part, *dkt = gt + part, *dvt = dkt + part;
        for (int64_t head = 0; head < width / size; head++) {
            float *q = x + head * size * TOKENS, *k = q + width * TOKENS, *v = k + width * TOKENS;
            const float *g = grad + head * size * TOKENS, *o = y + head * size * TOKENS;
            Tensor::turn(q, stride(), size, panels, qt);
            Tensor::turn(g, width * TOKENS, size, panels, gt);
            if (narrow()) twin(qt), twin(gt);
            weighted(g, o, scales, deltas);
            for (int64_t first = places() - QUERIES; first >= 0; first -= QUERIES) {
                const int64_t keys = first + QUERIES, panel = first / TOKENS, place = first % TOKENS;
                against(k, q + panel * stride() + place, TOKENS, keys, scores);
                against(v, g + panel * width * TOKENS + place, TOKENS, keys, slopes);
                hide(scores, first);
                vec top[BLOCK], inverse[BLOCK], delta[BLOCK];
                for (int i = 0; i < BLOCK; i++) {
                    top[i] = load(tops + head * places() + first + i * WIDE);
                    inverse[i] = load(inverses + head * places() + first + i * WIDE);
                    delta[i] = load(deltas + first + i * WIDE);
                }
                for (int64_t j = 0; j < keys; j++)
                    for (int i = 0; i < BLOCK; i++) {
                        float *at = scores + j * QUERIES + i * WIDE, *slope = slopes + j * QUERIES + i * WIDE;
                        const vec e = exp(load(at) - top[i]) * inverse[i];
                        store(at, e);
                        store(slope, e * (load(slope) - delta[i]));
                    }
                // The last block of queries meets all keys, and is the first to come: it sets the sums.
                const float beta = keys == places() ? 0.0f : 1.0f;
                onto_keys(keys, slopes, qt, first, dkt, beta);
                onto_keys(keys, scores, gt, first, dvt, beta);
                over_keys(k, slopes, keys, q + panel * stride() + place);
            }
            if (narrow()) join_twins(dkt), join_twins(dvt);
            Tensor::turn_back(dkt, stride(), size, panels, k);
            Tensor::turn_back(dvt, stride(), size, panels, v);
        }
    }

  private:
    // sums (keys, columns) = beta·sums + scores (keys, QUERIES) · the block at `first` of b (places, columns).
    void onto_keys(int64_t keys, const float* scores, const float* b, int64_t first, float* sums, float beta) const {
        const int64_t columns = whole(size), vectors = columns / WIDE;
        if (narrow())
            return product<Twins, 1>(keys, QUERIES / 2, scores, QUERIES, 2, b + first / 2 * WIDE, WIDE, sums, WIDE, 1.0f,
                                     beta);
        for (int64_t i = 0; i < vectors; i += 4)
            product<Single>(std::min<int64_t>(4, vectors - i), keys, QUERIES, scores, QUERIES, 1,
                            b + first * columns + i * WIDE, columns, sums + i * WIDE, columns, 1.0f, beta);
    }

    // A head of at most half a vector: then two queries share one, in alternating lanes.
    bool narrow() const { return size <= WIDE / 2; }
    void twin(float* x) const {  // (places, 16) becomes (places / 2, 16), in place
        for (int64_t t = 0; t < places(); t += 2) {
            const vec one = load(x + t * WIDE), two = load(x + (t + 1) * WIDE);
            store(x + t / 2 * WIDE, SHUFFLE(one, two, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
        }
    }
    void join_twins(float* x) const {
        for (int64_t t = 0; t < places(); t++) {
            const vec v = load(x + t * WIDE), none = {};
            const vec even = SHUFFLE(v, none, 0, 2, 4, 6, 8, 10, 12, 14, 16, 16, 16, 16, 16, 16, 16, 16);
            store(x + t * WIDE, even + SHUFFLE(v, none, 1, 3, 5, 7, 9, 11, 13, 15, 16, 16, 16, 16, 16, 16, 16, 16));
        }
    }

    // Of each token, the sum over the head of gradient · output.
    void weighted(const float* g, const float* o, const float* scales, float* sums) const {
        for (int64_t p = 0; p < panels; p++)
            for (int64_t t = 0; t < TOKENS; t += WIDE) {
                vec sum = {};
                for (int64_t r = 0; r < size; r++) {
                    const int64_t at = (p * width + r) * TOKENS + t;
                    sum += load(g + at) * load(o + at);
                }
                store(sums + p * TOKENS + t, sum / load(scales + p * TOKENS + t));
            }
    }
};

}  // namespace
