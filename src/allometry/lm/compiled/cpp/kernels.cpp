// All kernels. First, what a step does between GEMMs in BF16, each in one pass: norms, attention with rotary positions,
// the gate, the loss, the embedding; arithmetic is FP32. Then the step of whole models, and that of an optimiser. No
// result depends on the number of threads.

#include "adamw.h"
#include "attention.h"
#include "decoder.h"
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

// The loss of each row in nats; logits become (softmax - target)·factor. A target that is left out has neither.
template <typename T>
void cross_entropy(T* logits, const int64_t* targets, float* losses, int64_t rows, int64_t classes, float factor,
                   int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < rows; r++) {
        T* row = logits + r * classes;
        if (targets[r] == LEFT_OUT) {
            losses[r] = 0;
            along(classes, [&](int64_t i, int64_t n) { put(row + i, vec{}, n); });
            continue;
        }
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

extern "C" {
void norm_forward_bfloat16(const bf16* x, bf16* y, float* inverse, int64_t rows, int64_t width, float eps, int threads) {
    norm_forward(x, y, inverse, rows, width, eps, threads);
}
void norm_backward_bfloat16(const bf16* grad, const bf16* y, const float* inverse, const bf16* skip, bf16* result,
                            int64_t rows, int64_t width, float share, float keep, int threads) {
    norm_backward(grad, y, inverse, skip, result, rows, width, share, keep, threads);
}
void gate_forward_bfloat16(const bf16* x, bf16* y, int64_t rows, int64_t hidden, float factor, int threads) {
    gate_forward(x, y, rows, hidden, factor, threads);
}
void gate_backward_bfloat16(const bf16* grad, bf16* x, int64_t rows, int64_t hidden, float factor, int threads) {
    gate_backward(grad, x, rows, hidden, factor, threads);
}
void cross_entropy_bfloat16(bf16* logits, const int64_t* targets, float* losses, int64_t rows, int64_t classes,
                            float factor, int threads) {
    cross_entropy(logits, targets, losses, rows, classes, factor, threads);
}
void embedding_forward_bfloat16(const int64_t* tokens, const float* table, bf16* x, int64_t rows, int64_t width,
                                int threads) {
    embedding_forward(tokens, table, x, rows, width, threads);
}
void embedding_backward_bfloat16(const int64_t* tokens, const bf16* grad, float* table, int64_t rows, int64_t width,
                                 float factor) {
    embedding_backward(tokens, grad, table, rows, width, factor);
}
void attention_forward_bfloat16(const bf16* x, const float* cos, const float* sin, bf16* y, float* lse, int64_t batch,
                                int64_t length, int64_t heads, int64_t size, float factor, int threads) {
    attention_forward(x, cos, sin, y, lse, {batch, length, heads, size}, factor, threads);
}
void attention_backward_bfloat16(const bf16* grad, const bf16* y, const float* lse, const float* cos, const float* sin,
                                 bf16* x, int64_t batch, int64_t length, int64_t heads, int64_t size, float factor,
                                 int threads) {
    attention_backward(grad, y, lse, cos, sin, x, {batch, length, heads, size}, factor, threads);
}
}

// The step of whole models, see decoder.h: panels of four vectors, or of one for short sequences; products in FP32, or
// in BF16 if `paired`.
constexpr int64_t SHORT = 32;

extern "C" {
int64_t decoder_memory(const Decoder* models, const Batch* batch, int paired, int training, int threads) {
    const auto size = batch->length <= SHORT ? (paired ? memory_size<1, Pairs> : memory_size<1, Single>)
                                             : (paired ? memory_size<4, Pairs> : memory_size<4, Single>);
    return size(*models, *batch, training, threads);
}
void adamw_run(const Moments* moments, const Rates* rates, int64_t count, double beta1, double beta2, float eps,
               int threads) {
    for (int64_t i = 0; i < count; i++) adamw(moments[i], rates[i], beta1, beta2, eps, threads);
}
int decoder_run(const Decoder* models, const Batch* batch, int paired, int training, float* memory, int threads) {
    const int64_t tokens = batch->models * batch->sequences * batch->length, classes = models->classes;
    if (!within(batch->tokens, tokens, classes, false) || !within(batch->targets, tokens, classes, true)) return 1;
    const auto step = batch->length <= SHORT ? (paired ? run<1, Pairs> : run<1, Single>)
                                             : (paired ? run<4, Pairs> : run<4, Single>);
    step(models, *batch, training, memory, threads);
    return 0;
}
}
