// What a training step does between its GEMMs, each in one pass: norms, attention with rotary positions, the gate, the
// loss, the embedding. Tensors are FP32 or BF16 (T), arithmetic is FP32. No result depends on the number of threads.

#include "attention.h"
#include "vectors.h"

namespace {

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
