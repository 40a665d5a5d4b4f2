// A step of AdamW (arXiv 1711.05101) over all tensors of a model in one call.

#pragma once

#include "vectors.h"

namespace {

// A weight with its gradient, the two moments, and the number of steps taken.
struct Moments {
    float* weight;
    const float* grad;
    float *first, *second, *steps;
    int64_t size;
};

struct Rates {
    float rate, decay;  // of a tensor: the learning rate, and the share of the weight that is lost
};

constexpr int64_t CHUNK = 1 << 14;  // entries that a thread takes at once

void adamw(const Moments& of, const Rates& rates, double beta1, double beta2, float eps, int threads) {
    const double steps = *of.steps += 1;
    const float size = rates.rate / (1 - std::pow(beta1, steps)), keep = 1 - rates.decay;
    const float scale = 1 / std::sqrt(1 - std::pow(beta2, steps)), b1 = 1 - beta1, b2 = 1 - beta2;
    const int64_t chunks = (of.size + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static) num_threads(std::min<int64_t>(threads, chunks))
    for (int64_t c = 0; c < chunks; c++) {
        const int64_t start = c * CHUNK;
        along(std::min(CHUNK, of.size - start), [&](int64_t i, int64_t n) {
            const int64_t at = start + i;
            const vec grad = get(of.grad + at, n);
            vec first = get(of.first + at, n), second = get(of.second + at, n);
            first += (grad - first) * b1;
            second += (grad * grad - second) * b2;
            put(of.first + at, first, n);
            put(of.second + at, second, n);
            put(of.weight + at, get(of.weight + at, n) * keep - first * size / (root(second) * scale + eps), n);
        });
    }
}

}  // namespace
