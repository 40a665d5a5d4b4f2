// The training step of a decoder, one sequence at a time: forward, loss and backward, while its tensors stay in the
// second cache. Sequences form groups, each with its own sums of the weights' gradients; the groups are added up in
// their order. So no result depends on the number of threads, nor on which models are trained side by side.

#pragma once

#include <omp.h>

#include "clock.h"
#include "heads.h"

namespace {

// A layer. `keep`: of the stream, where attention and the MLP are added onto it; `back`: the weight of their gradients.
struct Block {
    Linear qkv, out, up, down;
    float eps, mixed_eps, attention, gate, keep[2], back[2];
};

struct Decoder {
    const Block* blocks;
    Linear readout;
    const float *embedding, *cos, *sin;
    float* embedding_grad;
    int64_t layers, width, head, hidden, classes, positions;  // positions: in a row of the tables cos and sin
    float eps, loss, embedding_factor;
};

constexpr int64_t LEFT_OUT = -100;  // a target without a loss, as PyTorch has it

struct Batch {
    int64_t models, sequences, length;
    const int64_t *tokens, *targets;
    float* losses;
    int64_t add;  // gradients to what is there
};

// Of the sequences of a model, at most; fewer for a large one, whose sums take memory.
constexpr int64_t GROUPS = 8, GROUPS_OF_LARGE = 4, LARGE = 8'000'000;

// How the sums of a weight's gradient lie: (fan_out, fan_in), or turned where that fills vectors better.
struct Sums {
    bool turned;
    int64_t rows, columns;
    explicit Sums(const Linear& map) {
        turned = cost(map.fan_in, map.fan_out) < cost(map.fan_out, map.fan_in);
        rows = turned ? map.fan_in : map.fan_out;
        columns = whole(turned ? map.fan_out : map.fan_in);
    }
    int64_t size() const { return rows * columns; }

  private:
    static int64_t cost(int64_t rows, int64_t columns) {  // of products, and of turning the columns
        return (rows + 8) * whole(columns);
    }
};

template <typename Body>
void each_map(const Decoder& model, Body body) {
    for (int64_t i = 0; i < model.layers; i++)
        for (const Linear* map : {&model.blocks[i].qkv, &model.blocks[i].out, &model.blocks[i].up, &model.blocks[i].down})
            body(*map);
    body(model.readout);
}
inline int64_t sums_size(const Decoder& model) {
    int64_t size = 0;
    each_map(model, [&](const Linear& map) { size += Sums(map).size(); });
    return size;
}

// Sequences of one length, as panels.
template <int P, typename Held>
struct Sequence {
    using Tensor = Panels<P, Held>;
    static constexpr int64_t TOKENS = Tensor::TOKENS;
    static constexpr bool PAIRED = Tensor::PAIRED;

    struct Layer {  // what the backward pass needs of it
        float *norm, *mixed, *mlp_norm, *qkv, *up, *inverse, *mixed_inverse, *mlp_inverse, *tops, *inverses;
    };

    const Decoder& model;
    const int64_t length, panels = (length + TOKENS - 1) / TOKENS, places = panels * TOKENS;
    const int64_t width = model.width, hidden = model.hidden;
    const Heads<P> heads{panels, model.head, width};
    float *free, *operands;

    int64_t layer_size() const { return places * (6 * width + 2 * hidden + 3 + 2 * (width / model.head)); }
    int64_t size(bool training) const {
        const int64_t widest = whole(std::max({3 * width, 2 * hidden, model.classes}));
        const int64_t operands = PAIRED ? 2 * widest : widest;
        const int64_t shared = places * (3 * width + hidden + model.classes + 1 + operands) + heads.scratch();
        return layer_size() * (training ? model.layers : 1) + shared + WIDE;
    }
    float* take(int64_t rows) {
        float* taken = free;
        free += rows * places;
        return taken;
    }
    Layer layer() {
        const int64_t count = width / model.head;
        return {take(width), take(width), take(width), take(3 * width), take(2 * hidden),
                take(1),     take(1),     take(1),     take(count),     take(count)};
    }

    // One sequence; with `sums` of a training, its part of the gradients: those of the rows of the embedding go to
    // `rows` (length, whole(width)), the others onto sums times beta.
    void run(const int64_t* tokens, const int64_t* targets, float* losses, float* memory, float* sums, float* rows,
             float beta) {
        free = memory;
        const bool training = sums;
        std::vector<Layer> layers(training ? model.layers : 1);
        for (Layer& each : layers) each = layer();
        float *x = take(width), *y = take(width), *normed = take(width), *gated = take(hidden);
        float *logits = take(model.classes), *inverse = take(1);
        const int64_t widest = whole(std::max({3 * width, 2 * hidden, model.classes}));
        operands = take(PAIRED ? 2 * widest : widest);
        float* scratch = free;

        embed(tokens, x);
        for (int64_t i = 0; i < model.layers; i++) {
            const Block& block = model.blocks[i];
            const Layer& kept = layers[training ? i : 0];
            norm(x, kept.norm, kept.inverse, block.eps);
            forward(block.qkv, kept.norm, kept.qkv);
            heads.rotate(kept.qkv, model.cos, model.sin, model.positions, 1, block.attention);
            heads.forward(kept.qkv, kept.mixed, kept.tops, kept.inverses, scratch);
            norm(kept.mixed, kept.mixed, kept.mixed_inverse, block.mixed_eps);
            forward(block.out, kept.mixed, x, block.keep[0]);
            norm(x, kept.mlp_norm, kept.mlp_inverse, block.eps);
            forward(block.up, kept.mlp_norm, kept.up);
            gate(kept.up, gated, block.gate);
            forward(block.down, gated, x, block.keep[1]);
        }
        norm(x, normed, inverse, model.eps);
        forward(model.readout, normed, logits);
        cross_entropy(logits, targets, losses, training);
        if (!training) return;

        float *grad = x, *branch = y, *grad_gated = gated, *end = sums + sums_size(model);
        outer(model.readout, logits, normed, end, beta);
        backward(model.readout, logits, branch);
        norm_backward(branch, normed, inverse, nullptr, grad, 1, 0);
        for (int64_t i = model.layers - 1; i >= 0; i--) {
            const Block& block = model.blocks[i];
            const Layer& kept = layers[i];
            backward(block.down, grad, grad_gated);
            gate_backward(grad_gated, kept.up, gated, block.gate);  // in place of grad_gated
            outer(block.down, grad, gated, end, beta);
            outer(block.up, kept.up, kept.mlp_norm, end, beta);
            backward(block.up, kept.up, branch);
            norm_backward(branch, kept.mlp_norm, kept.mlp_inverse, grad, grad, block.back[1], block.keep[1]);
            outer(block.out, grad, kept.mixed, end, beta);
            backward(block.out, grad, branch);
            norm_backward(branch, kept.mixed, kept.mixed_inverse, nullptr, branch, 1, 0);
            heads.backward(kept.qkv, kept.mixed, kept.mixed_inverse, branch, kept.tops, kept.inverses, scratch);
            heads.rotate(kept.qkv, model.cos, model.sin, model.positions, -1, block.attention);
            outer(block.qkv, kept.qkv, kept.norm, end, beta);
            backward(block.qkv, kept.qkv, branch);
            norm_backward(branch, kept.norm, kept.inverse, grad, grad, block.back[0], block.keep[0]);
        }
        Tensor::turn(grad, width * TOKENS, width, panels, operands);
        std::memcpy(rows, operands, length * whole(width) * sizeof(float));
    }

  private:
    void forward(const Linear& map, const float* x, float* y, float keep = 0) {
        const Clock clock(PRODUCTS);
        Tensor::forward(map, x, y, panels, keep, operands);
    }
    void backward(const Linear& map, const float* grad, float* x) {
        const Clock clock(PRODUCTS);
        Tensor::backward(map, grad, x, panels, operands);
    }
    // The sums of a map lie before `end`, which moves there.
    void outer(const Linear& map, const float* grad, const float* x, float*& end, float beta) {
        const Clock clock(PRODUCTS);
        const Sums sums(map);
        end -= sums.size();
        if (sums.turned)
            Tensor::outer(x, map.fan_in, grad, map.fan_out, panels, end, beta, operands);
        else
            Tensor::outer(grad, map.fan_out, x, map.fan_in, panels, end, beta, operands);
    }

    void embed(const int64_t* tokens, float* x) {
        const Clock clock(EMBEDDING);
        float rows[WIDE * WIDE] = {};
        for (int64_t t = 0; t < places; t += WIDE)
            for (int64_t i = 0; i < width; i += WIDE) {
                const int64_t n = std::min(WIDE, width - i);
                for (int64_t r = 0; r < WIDE; r++)
                    store(rows + r * WIDE, t + r < length ? get(model.embedding + tokens[t + r] * width + i, n) : vec{});
                transpose_tile(rows, WIDE, x + (t / TOKENS * width + i) * TOKENS + t % TOKENS, TOKENS, WIDE, n);
            }
    }

    void norm(const float* x, float* y, float* inverses, float eps) {
        const Clock clock(NORMS);
        for (int64_t t = 0; t < places; t += WIDE) {
            const int64_t at = t / TOKENS * width * TOKENS + t % TOKENS;
            vec squares = {};
            for (int64_t i = 0; i < width; i++) {
                const vec v = load(x + at + i * TOKENS);
                squares += v * v;
            }
            const vec factor = 1.0f / root(squares / float(width) + eps);
            store(inverses + t, factor);
            for (int64_t i = 0; i < width; i++) store(y + at + i * TOKENS, load(x + at + i * TOKENS) * factor);
        }
    }

    // share·(gradient through the norm) + keep·skip; skip may be null, and result may be either operand.
    void norm_backward(const float* grad, const float* y, const float* inverses, const float* skip, float* result,
                       float share, float keep) {
        const Clock clock(NORMS);
        for (int64_t t = 0; t < places; t += WIDE) {
            const int64_t at = t / TOKENS * width * TOKENS + t % TOKENS;
            vec products = {};
            for (int64_t i = 0; i < width; i++) products += load(grad + at + i * TOKENS) * load(y + at + i * TOKENS);
            const vec along_y = products / float(width), factor = load(inverses + t) * share;
            for (int64_t i = 0; i < width; i++) {
                const int64_t here = at + i * TOKENS;
                vec v = (load(grad + here) - load(y + here) * along_y) * factor;
                if (skip) v += load(skip + here) * keep;
                store(result + here, v);
            }
        }
    }

    // x holds gate and up in each panel: y = factor · silu(gate) · up.
    void gate(const float* x, float* y, float factor) {
        const Clock clock(GATE);
        const int64_t part = hidden * TOKENS;
        for (int64_t p = 0; p < panels; p++, x += 2 * part, y += part)
            for (int64_t i = 0; i < part; i += WIDE) {
                const vec g = load(x + i);
                store(y + i, g / (1.0f + exp(-g)) * load(x + part + i) * factor);
            }
    }

    // In place: x becomes its gradient; y is computed again.
    void gate_backward(const float* grad, float* x, float* y, float factor) {
        const Clock clock(GATE);
        const int64_t part = hidden * TOKENS;
        for (int64_t p = 0; p < panels; p++, grad += part, x += 2 * part, y += part)
            for (int64_t i = 0; i < part; i += WIDE) {
                const vec g = load(x + i), u = load(x + part + i), d = load(grad + i) * factor;
                const vec s = 1.0f / (1.0f + exp(-g)), silu = g * s;
                store(y + i, silu * u * factor);
                store(x + part + i, d * silu);
                store(x + i, d * u * (s + silu * (1.0f - s)));
            }
    }

    // The loss of each token in nats; for a training logits become (softmax - target)·factor. A target that is left out
    // has neither.
    void cross_entropy(float* logits, const int64_t* targets, float* losses, bool training) {
        const Clock clock(LOSS);
        const int64_t classes = model.classes;
        for (int64_t t = 0; t < places; t += WIDE) {
            float* at = logits + t / TOKENS * classes * TOKENS + t % TOKENS;
            vec top = load(at), total = {};
            for (int64_t i = 1; i < classes; i++) top = larger(load(at + i * TOKENS), top);
            const int64_t count = std::min(WIDE, length - t);
            float chosen[WIDE] = {};
            bool counts[WIDE] = {};
            for (int64_t r = 0; r < count; r++) counts[r] = targets[t + r] != LEFT_OUT;
            for (int64_t r = 0; r < count; r++)
                if (counts[r]) chosen[r] = at[targets[t + r] * TOKENS + r];
            for (int64_t i = 0; i < classes; i++) {
                const vec e = exp(load(at + i * TOKENS) - top);
                total += e;
                store(at + i * TOKENS, e);
            }
            for (int64_t r = 0; r < count; r++)
                losses[t + r] = counts[r] ? std::log(total[r]) + top[r] - chosen[r] : 0;
            if (!training) continue;
            vec scale = model.loss / total;
            for (int64_t r = 0; r < WIDE; r++)
                if (!counts[r]) scale[r] = 0;
            for (int64_t i = 0; i < classes; i++) store(at + i * TOKENS, load(at + i * TOKENS) * scale);
            for (int64_t r = 0; r < count; r++)
                if (counts[r]) at[targets[t + r] * TOKENS + r] -= model.loss;
        }
    }
};

// The gradient of a weight from the sums of the groups, `stride` floats apart.
void add_up(const Linear& map, const float* sums, int64_t groups, int64_t stride, bool add) {
    const Clock clock(SUMS);
    const Sums form(map);
    const auto give = [&](int64_t row, int64_t column, vec sum, int64_t n) {
        float* to = map.grad + row * map.fan_in + column;
        put(to, add ? sum + get(to, n) : sum, n);
    };
    const auto at = [&](int64_t row, int64_t column) {
        vec sum = load(sums + row * form.columns + column);
        for (int64_t g = 1; g < groups; g++) sum += load(sums + g * stride + row * form.columns + column);
        return sum * map.grad_weight;
    };
    if (!form.turned) {
        for (int64_t r = 0; r < form.rows; r++)
            along(map.fan_in, [&](int64_t i, int64_t n) { give(r, i, at(r, i), n); });
        return;
    }
    float tile[WIDE * WIDE] = {}, turned[WIDE * WIDE];
    for (int64_t o = 0; o < map.fan_out; o += WIDE)
        along(map.fan_in, [&](int64_t i, int64_t n) {
            for (int64_t r = 0; r < n; r++) store(tile + r * WIDE, at(i + r, o));
            transpose_tile(tile, WIDE, turned, WIDE);
            for (int64_t r = 0; r < std::min(WIDE, map.fan_out - o); r++)
                give(o + r, i, load(turned + r * WIDE), n);
        });
}

// In the order of the tokens, since rows of the table may meet.
void embedding_gradient(const Decoder& model, const int64_t* tokens, const float* rows, int64_t count, bool add) {
    const Clock clock(EMBEDDING);
    const int64_t width = model.width;
    if (!add) std::memset(model.embedding_grad, 0, model.classes * width * sizeof(float));
    for (int64_t t = 0; t < count; t++)
        along(width, [&](int64_t i, int64_t n) {
            float* at = model.embedding_grad + tokens[t] * width + i;
            put(at, get(at, n) + load(rows + t * whole(width) + i) * model.embedding_factor, n);
        });
}

// Working memory of a step: of each thread for a sequence; of each group its sums; the gradients of embedded tokens.
struct Memory {
    int64_t groups, sequence, sums, rows;
    template <int P, typename Held>
    Memory(const Sequence<P, Held>& one, const Decoder& model, const Batch& batch, bool training) {
        sequence = whole(one.size(training));
        sums = training ? sums_size(model) : 0;
        groups = std::min(sums < LARGE ? GROUPS : GROUPS_OF_LARGE, batch.sequences);
        rows = training ? batch.sequences * batch.length * whole(model.width) : 0;
    }
    int64_t size(int64_t models, int threads) const {
        return threads * sequence + models * (groups * sums + rows) + WIDE;
    }
};

template <int P, typename Held>
int64_t memory_size(const Decoder& model, const Batch& batch, bool training, int threads) {
    return Memory(Sequence<P, Held>{model, batch.length}, model, batch, training).size(batch.models, threads);
}

template <int P, typename Held>
void run(const Decoder* models, const Batch& batch, bool training, float* memory, int threads) {
    const Memory sizes(Sequence<P, Held>{models[0], batch.length}, models[0], batch, training);
    const int64_t groups = sizes.groups, tokens = batch.sequences * batch.length, columns = whole(models[0].width);
    float* all_sums = memory + threads * sizes.sequence;
    float* all_rows = all_sums + batch.models * groups * sizes.sums;
#pragma omp parallel num_threads(threads)
    {
#ifdef _OPENMP
        float* own = memory + omp_get_thread_num() * sizes.sequence;
#else
        float* own = memory;
#endif
        const int64_t maps = 4 * models[0].layers + 1;
        if (Held::TERMS == 2) {
#pragma omp for schedule(dynamic, 1)
            for (int64_t task = 0; task < batch.models * maps; task++) {
                int64_t left = task % maps;
                each_map(models[task / maps], [&](const Linear& map) {
                    if (left-- == 0) pair_weight(map);
                });
            }
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < batch.models * groups; task++) {
            const int64_t m = task / groups, g = task % groups, first = batch.sequences * g / groups;
            Sequence<P, Held> sequence{models[m], batch.length};
            for (int64_t s = first; s < batch.sequences * (g + 1) / groups; s++) {
                const int64_t at = m * tokens + s * batch.length;
                sequence.run(batch.tokens + at, batch.targets + at, batch.losses + at, own,
                             training ? all_sums + task * sizes.sums : nullptr, all_rows + at * columns, s > first);
            }
        }
        if (training) {
#pragma omp for schedule(dynamic, 1)
            for (int64_t task = 0; task < batch.models * (maps + 1); task++) {
                const int64_t m = task / (maps + 1);
                int64_t left = task % (maps + 1);
                if (left == maps) {
                    embedding_gradient(models[m], batch.tokens + m * tokens, all_rows + m * tokens * columns, tokens,
                                       batch.add);
                    continue;
                }
                const float* sums = all_sums + m * groups * sizes.sums;
                each_map(models[m], [&](const Linear& map) {
                    if (left-- == 0) add_up(map, sums, groups, sizes.sums, batch.add);
                    sums += Sums(map).size();
                });
            }
        }
    }
}

// Tokens of the table; or, of targets, what is left out.
inline bool within(const int64_t* tokens, int64_t count, int64_t classes, bool targets) {
    bool all = true;
    for (int64_t i = 0; i < count; i++)
        all &= uint64_t(tokens[i]) < uint64_t(classes) || (targets && tokens[i] == LEFT_OUT);
    return all;
}

}  // namespace
