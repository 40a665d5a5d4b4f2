"use strict";
// The law in the page: predictions and optima from a law table, as allometry/laws/law_table.py specifies it. The numbers
// are those of laws.predict and planning.optimal; the tests compare them to six digits. No page is needed to run it.

const lawOfTable = (() => {
  const { Refusal, unpack, linear, weibull, ends, digits } = typeof ground === "undefined" ? require("./ground.js") : ground;
  const { read: readRuns } = typeof runsProcess === "undefined" ? require("./runs_process.js") : runsProcess;
  const FLOPS_PER_PARAM_TOKEN = 6;
  const SERVED_SHARE = 1 / 3; // FLOPs of a served token over those of a token of training
  const TESTED = 1e3; // beyond so many times the largest run a prediction is a guess,
  const MOST_BEYOND = 1e6; // and beyond so many it is refused
  const GRID = 401, ZOOM = 41, GRID_OF_REFITS = 161, PRECISION = 1e-8, FLAT = 1e-9;

  // ln L of one law for the coordinates c[o], c[o + 1], …, at x = [ln N, ln D].
  const FAMILIES = {
    sum_of_powers(law, c, o, x) {
      let loss = law.floor ? c[o] : 0;
      for (const term of law.terms) {
        let log = c[o + term.coefficient];
        for (const [exponent, input] of term.powers) log -= law.sign * c[o + exponent] * x[input];
        loss += Math.exp(log);
      }
      return Math.log(loss);
    },
    joined_powers(law, c, o, x) {
      const u = c[o + 1] - c[o + 3] * x[0], v = c[o + 2] - c[o + 4] * x[1];
      const log = Math.max(u, v) + Math.log1p(Math.exp(-Math.abs(u - v)));
      return Math.log(c[o] + Math.exp(c[o + 5] * log));
    },
    farseer(law, c, o, x) {
      const first = c[o] * Math.exp(c[o + 1] * x[0]) + c[o + 2];
      const size = c[o + 3] * Math.exp(c[o + 4] * x[0]) + c[o + 5];
      const exponent = Math.exp(c[o + 6] * Math.exp(c[o + 7] * x[0]) + c[o + 8]);
      return Math.log(Math.exp(first) + Math.exp(size - exponent * x[1]));
    },
  };

  function read(table) {
    const laws = table.laws.map((law) => {
      const draws = unpack(law.draws), [count, constants] = law.draws.shape;
      return { ...law, count, constants, draws, coordinates: unpack(law.coordinates) };
    });
    const valueOf = (law, x) => FAMILIES[law.family](law, law.coordinates, 0, x);
    const drawOf = (law, i, x) => FAMILIES[law.family](law, law.draws, i * law.constants, x);
    const drawsOf = (law, x) => Float64Array.from({ length: law.count }, (_, i) => drawOf(law, i, x));
    const trunk = (N) => (table.trunks ? table.trunks.level * (N / table.trunks.middle) ** table.trunks.slope : 0);
    const [, mostN] = table.range.num_params, [, mostD] = table.range.tokens;
    const answer = table.kind === "fit" ? fitted() : forecast();

    /** One law: the quantiles of its refits and of a run's noise. */
    function fitted() {
      const own = unpack(table.own), shared = unpack(table.shared);
      const value = (N, D) => Math.exp(valueOf(laws[0], [Math.log(N), Math.log(D)]));
      function predict(N, D, place) {
        if (own === null) return { value: value(N, D), low: NaN, high: NaN };
        const beside = trunk(N), level = table.levels[place];
        const samples = drawsOf(laws[0], [Math.log(N), Math.log(D)]);
        for (let i = 0; i < samples.length; i++) samples[i] += own[i] + (shared ? shared[i] * beside : 0);
        samples.sort();
        const [low, high] = [(1 - level) / 2, (1 + level) / 2].map((q) => Math.exp(weibull(samples, q)));
        return ends(value(N, D), low, high);
      }
      return { value, predict };
    }

    /** ln(tokens beyond those of the text). */
    const repeated = (x) => (table.unique_tokens ? Math.max(x[1] - Math.log(table.unique_tokens), 0) : 0);
    const early = table.early_end;
    /** ln(tokens beyond runs that end early), and how far ln L moves by that and by tokens read again. */
    const beyondEnd = (x) => (early ? Math.max(x[1] - Math.log(early.tokens), 0) : 0);
    const moved = (x) =>
      (table.unique_tokens ? table.repeat_slope * repeated(x) : 0) - (early ? early.lower * beyondEnd(x) : 0);

    /** Several laws by their weights, what they leave unexplained nearby, and drift with distance. */
    function forecast() {
      const process = table.process, mean = unpack(process.mean), tokens = unpack(process.tokens);
      const place = (x) => x.map((log) => log / process.length);
      const places = Array.from(unpack(process.num_params), (N, i) => place([Math.log(N), Math.log(tokens[i])]));
      const trunks = process.trunks && { code: process.trunks.code, ratio: unpack(process.trunks.ratio) };
      const runs = readRuns({ places, factors: [1], trunks });
      const steps = unpack(table.frontier.flops), best = unpack(table.frontier.log_loss);

      function centreOf(N, D) {
        const x = [Math.log(N), Math.log(D)], values = laws.map((law) => valueOf(law, x));
        const centre = laws.reduce((sum, law, i) => sum + law.weight * values[i], 0);
        const flops = 1.01 * FLOPS_PER_PARAM_TOKEN * N * D * table.flops_ratio;
        let last = 0;
        for (let i = 0; i < steps.length && steps[i] <= flops; i++) last = i;
        const near = runs.at(place(x));
        const growth = Math.exp(process.growth * Math.max(centre - best[last], 0));
        const beyond = Math.max((FLOPS_PER_PARAM_TOKEN * N * D) / table.reach, N / mostN, D / mostD, 1);
        const distance = Math.log(beyond);
        const bias = table.correction * Math.min(distance, table.tested) - table.drift_slope * distance - moved(x);
        return { x, values, near, centre, growth, distance, log: centre + growth * near.mean(mean) - bias };
      }

      function scaleOf(point, N) {
        let variance = 0;
        laws.forEach((law, i) => {
          const samples = drawsOf(law, point.x).sort();
          const spread = (linear(samples, 0.95) - linear(samples, 0.05)) / (2 * 1.6449);
          variance += law.weight * ((point.values[i] - point.centre) ** 2 + spread ** 2);
        });
        const growth = point.growth ** 2, left = growth * point.near.variance(process.terms);
        const unsure = (variance * (1 + 2 * table.noise_share) + left) / 3 + (table.drift_sd * point.distance) ** 2 +
          (table.repeat_sd * repeated(point.x)) ** 2;
        const below = early ? early.lower_sd * beyondEnd(point.x) : 0;
        return Math.sqrt(growth * process.noise + trunk(N) ** 2 + below ** 2 + table.scale ** 2 * unsure);
      }

      function predict(N, D, place) {
        const point = centreOf(N, D), half = table.t[place] * scaleOf(point, N);
        const [low, high] = limits(N, D, point.log, half, place);
        return ends(Math.exp(point.log), Math.exp(low), Math.exp(high));
      }

      /** The ends of the interval; beyond runs that end early they lie further down. */
      function limits(N, D, log, half, place) {
        if (!early || D <= early.tokens) return [log - half, log + half];
        const last = centreOf(N, early.tokens), lastHalf = table.t[place] * scaleOf(last, N);
        const beyond = Math.log(D / early.tokens), fall = early.exponent * beyond * (1 + early.growth * beyond);
        const steep = last.log - Math.hypot(early.shares[place] * fall, lastHalf);
        if (early.lower === 0) return [Math.min(steep, log - half), log + half];
        return [Math.min(steep, log - lastHalf), Math.min(log + half, last.log + lastHalf)];
      }

      return { value: (N, D) => Math.exp(centreOf(N, D).log), predict };
    }

    /** The sizes that hold a share of the optima over refits of the laws together; null without refits. */
    function sizes(line, grid, level, shares) {
      const kept = laws.filter((law) => law.weight > 0 && law.count > 1);
      if (!shares || !kept.length) return null;
      const [draws] = shares.shape, weights = shares.values ?? (shares.values = unpack(shares));
      const places = grid.map((log) => [log, Math.log(line.tokens(Math.exp(log)))]);
      const optima = Float64Array.from({ length: draws }, (_, i) => {
        const losses = places.map((x) =>
          kept.reduce((sum, law, j) => sum + weights[i * kept.length + j] * drawOf(law, i % law.count, x), moved(x)));
        return vertex(grid, losses);
      }).sort();
      return [linear(optima, (1 - level) / 2), linear(optima, (1 + level) / 2)];
    }

    return { table, value: answer.value, predict: answer.predict, sizes, alone: valueOf, laws };
  }

  /** The lowest point by the parabola through a grid's lowest three. */
  function vertex(grid, losses) {
    let index = -1;
    losses.forEach((loss, i) => {
      if (Number.isFinite(loss) && (index < 0 || loss < losses[index])) index = i;
    });
    index = Math.min(Math.max(index, 1), grid.length - 2);
    const [before, here, after] = losses.slice(index - 1, index + 2), bend = before - 2 * here + after;
    const shift = bend > 0 ? (before - after) / (2 * bend) : Math.sign(before - after);
    return grid[index] + Math.min(Math.max(Number.isNaN(shift) ? 0 : shift, -1), 1) * (grid[1] - grid[0]);
  }

  function spaced(low, high, count) {
    const step = (high - low) / (count - 1);
    return Array.from({ length: count }, (_, i) => (i === count - 1 ? high : low + step * i));
  }

  /** All sizes that one budget buys. */
  function budgetLine(law, flops, served) {
    const tokens = (N) => flops / (FLOPS_PER_PARAM_TOKEN * N) - SERVED_SHARE * served;
    const size = (D) => flops / FLOPS_PER_PARAM_TOKEN / (D + SERVED_SHARE * served);
    const loss = (log) => {
      const N = Math.exp(log), D = tokens(N), value = D >= 1 - 1e-9 ? law.value(N, D) : NaN;
      return Number.isFinite(value) ? value : NaN;
    };
    const atRatio = (ratio) =>
      flops / (served + Math.sqrt(served ** 2 + FLOPS_PER_PARAM_TOKEN * ratio * flops));
    function span([fewest, most]) {
      const lower = Math.max(atRatio(most), 1), upper = Math.min(atRatio(fewest), size(1));
      if (upper < lower * (1 - 1e-12)) {
        throw new Refusal(`a budget of ${show(flops)} FLOPs does not pay for one parameter and its tokens`);
      }
      return [lower, Math.max(lower, upper)];
    }
    return { flops, tokens, size, loss, atRatio, span };
  }

  const finite = (losses) => losses.filter(Number.isFinite);
  function lowestOf(losses) {
    let index = -1;
    losses.forEach((loss, i) => { if (Number.isFinite(loss) && (index < 0 || loss < losses[index])) index = i; });
    return index;
  }

  /** The size of the lowest loss within a range of tokens per parameter. */
  function lowest(line, ratios) {
    const [start, end] = line.span(ratios).map(Math.log);
    const grid = end - start > 1e-9 ? spaced(start, end, GRID) : [start], losses = grid.map(line.loss);
    if (!finite(losses).length) throw new Refusal(`the law gives no finite loss for ${show(line.flops)} FLOPs`);
    const least = Math.min(...finite(losses));
    const isFlat = Math.max(...finite(losses)) - least <= FLAT * Math.abs(least);
    let best = grid[Math.floor(grid.length / 2)];
    if (!isFlat) {
      let near = grid, values = losses;
      for (;;) {
        const index = lowestOf(values);
        const low = near[Math.max(index - 1, 0)], high = near[Math.min(index + 1, near.length - 1)];
        best = near[index];
        if (high - low < PRECISION) break;
        near = spaced(low, high, ZOOM);
        values = near.map(line.loss);
      }
    }
    const atEdge = !isFlat && Math.min(best - grid[0], grid[grid.length - 1] - best) < 1e-6;
    return { best, grid, losses, isFlat, atEdge, toSmaller: best - grid[0] < grid[grid.length - 1] - best };
  }

  /** Where the loss first passes (1 + tolerance)·best on the way out, by linear interpolation. */
  function crossing(path, losses, best, loss, tolerance) {
    const limit = loss + tolerance * Math.abs(loss);
    let here = best, value = loss;
    for (let i = 0; i < path.length; i++) {
      if (!(losses[i] <= limit)) {
        const share = Number.isFinite(losses[i]) ? (limit - value) / (losses[i] - value) : 0;
        return here + share * (path[i] - here);
      }
      here = path[i];
      value = losses[i];
    }
    return here;
  }

  function basin(line, low, loss) {
    const left = low.grid.map((_, i) => i).filter((i) => low.grid[i] < low.best).reverse();
    const right = low.grid.map((_, i) => i).filter((i) => low.grid[i] > low.best);
    const side = (places, tolerance) =>
      Math.exp(crossing(places.map((i) => low.grid[i]), places.map((i) => low.losses[i]), low.best, loss, tolerance));
    const within = (tolerance) => [side(left, tolerance), side(right, tolerance)];
    const cost = (shift) => line.loss(low.best + Math.log(shift)) / loss - 1;
    return { within_0_1_percent: within(0.001), within_0_5_percent: within(0.005), half: cost(0.5), double: cost(2) };
  }

  const show = (value) => digits(value, 3);

  /** The loss at one size and number of tokens, and what to say about the place. */
  function at(law, planning, N, D, place) {
    for (const [value, word] of [[N, "parameters"], [D, "tokens"]]) {
      if (!(Number.isFinite(value) && value > 0)) throw new Refusal(`${word} must be a finite number above zero`);
    }
    if (N < 1 - 1e-9 || D < 1 - 1e-9) {
      throw new Refusal(`that is ${show(N)} parameters and ${show(D)} tokens, less than one: give a larger budget`);
    }
    const flops = FLOPS_PER_PARAM_TOKEN * N * D, covered = planning.fitted_range;
    const beyond = Math.max(flops / covered.flops[1], N / covered.num_params[1], D / covered.tokens[1]);
    if (beyond > MOST_BEYOND) {
      throw new Refusal(
        `that lies ${show(beyond)}× beyond the largest run: no law has been tested so far out; ask for less`);
    }
    const prediction = law.predict(N, D, place);
    if (!Number.isFinite(prediction.value)) throw new Refusal("the law gives no finite loss there");
    const cautions = beyond > TESTED
      ? [`${show(beyond)}× beyond the largest run: no table has tested a law over more than about 1000×, so loss and `
         + "interval are a guess here"] : [];
    const notes = [];
    if (flops > covered.flops[1]) {
      notes.push(`extrapolates to ${show(flops / covered.flops[1])}× the compute of the largest fitted run`);
    }
    return { num_params: N, tokens: D, flops, loss: prediction.value, low: prediction.low, high: prediction.high,
             cautions, notes, basin: null, intervals: null, at_edge: false };
  }

  /**
   * The answer to a question {flops, num_params, tokens, inference_tokens} (null: not given; FLOPs or both counts must
   * be), at the place of a level in the table.
   */
  function optimal(law, planning, question, place) {
    const { flops, num_params: size, tokens } = question, served = question.inference_tokens ?? 0;
    const serve = (answer) => ({ ...answer, inference_flops: 2 * answer.num_params * served });
    if (size !== null && tokens !== null) return serve(at(law, planning, size, tokens, place));
    const line = budgetLine(law, flops, served);
    if (size !== null) {
      if (line.tokens(size) <= 0) {
        throw new Refusal(`serving ${show(served)} tokens with ${show(size)} parameters takes more than the budget`);
      }
      return serve(at(law, planning, size, line.tokens(size), place));
    }
    if (tokens !== null) return serve(at(law, planning, line.size(tokens), tokens, place));
    const low = lowest(line, planning.tokens_per_param), covered = planning.fitted_range.tokens_per_param;
    let N = Math.exp(low.best);
    if (low.atEdge) {
      const ratio = low.toSmaller ? Math.max(planning.usual, covered[1]) : Math.min(planning.usual, covered[0]);
      const [least, most] = line.span(planning.tokens_per_param);
      N = Math.min(Math.max(line.atRatio(ratio), least), most);
    }
    const point = at(law, planning, N, line.tokens(N), place), cautions = [], ratio = point.tokens / N;
    if (low.isFlat && low.grid.length > 1) {
      cautions.push("the law gives every split of the budget the same loss: the middle of the range was taken");
    } else if (low.atEdge) {
      cautions.push(`the law has no best size from ${show(planning.tokens_per_param[0])} to `
        + `${show(planning.tokens_per_param[1])} tokens per parameter: its loss still falls at the end; the size `
        + `follows ${show(ratio)} tokens per parameter, not the law`);
    } else if (ratio < covered[0] / 1.05 || ratio > covered[1] * 1.05) {
      cautions.push(`the best size lies outside what was run: the law puts it at ${show(ratio)} tokens per parameter, `
        + `the runs have ${show(covered[0])} to ${show(covered[1])}`);
    }
    const result = { ...point, at_edge: low.atEdge, cautions: [...cautions, ...point.cautions] };
    if (!low.atEdge) result.basin = basin(line, low, point.loss);
    if (low.grid.length > 1) {
      const grid = spaced(low.grid[0], low.grid[low.grid.length - 1], GRID_OF_REFITS);
      const range = law.sizes(line, grid, law.table.levels[place], planning.shares);
      if (range) {
        const least = Math.min(Math.exp(Math.min(range[0], low.best)), N);
        const most = Math.max(Math.exp(Math.max(range[1], low.best)), N);
        result.intervals = { num_params: [least, most], tokens: [line.tokens(most), line.tokens(least)] };
      }
    }
    return serve(result);
  }

  /** Batch in tokens and learning rate of a rule of powers, (N, D, 6·N·D)-wise; null where there is none. */
  function settings(rule, N, D) {
    const power = (law) => law.coefficient * (N / law.reference) ** law.num_params * D ** law.tokens
      * (FLOPS_PER_PARAM_TOKEN * N * D) ** law.flops;
    return rule === null ? null : { batch: power(rule.batch), lr: power(rule.lr) };
  }

  return { read, optimal, at, settings, budgetLine, Refusal };
})();

if (typeof module !== "undefined") module.exports = lawOfTable;
