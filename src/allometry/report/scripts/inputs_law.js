"use strict";
// A law of any inputs in the page: predictions from an input table, as
// allometry/laws/any_inputs/as_numbers/input_table.py specifies it. The numbers are those of InputForecast.predict; the
// tests compare them to six digits. No page is needed to run it.

const lawOfInputs = (() => {
  const { Refusal, unpack, ends, digits } = typeof ground === "undefined" ? require("./ground.js") : ground;
  const { read: readSizes } = typeof lawOfTable === "undefined" ? require("./law.js") : lawOfTable;
  const { read: readRuns } = typeof runsProcess === "undefined" ? require("./runs_process.js") : runsProcess;
  const TINY = 1e-300, MOST_LOGARITHM = 600, MOST_GROWTH = 5, LEAST_COST = 1e-9;
  const SHARE_TOLERANCE = 0.02;
  const NEARLY = 1 + 1e-5; // a number that was written with six digits stands for the run that it is

  // ---- a form: steps of arithmetic with the derivatives by its constants
  // The value of a step, and its derivatives by its first and second number.
  const ONE = {
    negative: (a) => [-a, -1],
    exp: (a) => [Math.exp(a), Math.exp(a)],
    expm1: (a) => [Math.expm1(a), Math.exp(a)],
    log: (a) => [Math.log(a), 1 / a],
    log1p: (a) => [Math.log1p(a), 1 / (1 + a)],
    log10: (a) => [Math.log10(a), 1 / (a * Math.LN10)],
    sqrt: (a) => [Math.sqrt(a), 0.5 / Math.sqrt(a)],
    square: (a) => [a * a, 2 * a],
    tanh: (a) => [Math.tanh(a), 1 / Math.cosh(a) ** 2],
    absolute: (a) => [Math.abs(a), a < 0 ? -1 : 1],
    isfinite: (a) => [Number.isFinite(a) ? 1 : 0, 0],
  };
  const TWO = {
    add: (a, b) => [a + b, 1, 1],
    subtract: (a, b) => [a - b, 1, -1],
    multiply: (a, b) => [a * b, b, a],
    divide: (a, b) => [a / b, 1 / b, -a / (b * b)],
    power: (a, b) => [a ** b, b * a ** (b - 1), a ** b * Math.log(a)],
    maximum: (a, b) => [Math.max(a, b), a >= b ? 1 : 0, a >= b ? 0 : 1],
    minimum: (a, b) => [Math.min(a, b), a <= b ? 1 : 0, a <= b ? 0 : 1],
    greater: (a, b) => [a > b ? 1 : 0, 0, 0],
    greater_equal: (a, b) => [a >= b ? 1 : 0, 0, 0],
    less: (a, b) => [a < b ? 1 : 0, 0, 0],
    less_equal: (a, b) => [a <= b ? 1 : 0, 0, 0],
    equal: (a, b) => [a === b ? 1 : 0, 0, 0],
    bitwise_and: (a, b) => [a && b ? 1 : 0, 0, 0],
  };

  /** What follows the steps of a form: (constants, where they begin, x, ln x) → its value; its derivatives stay here. */
  function follower(steps, count) {
    const values = new Float64Array(steps.length), slopes = steps.map(() => null);
    /** Slopes of a step: factors times those of earlier steps; null where no constant matters. */
    function chain(into, pairs) {
      const known = pairs.filter(([factor, place]) => slopes[place] !== null && factor !== 0);
      if (!known.length) return null;
      const sum = into ?? new Float64Array(count);
      sum.fill(0);
      for (const [factor, place] of known) {
        const inner = slopes[place];
        for (let i = 0; i < count; i++) sum[i] += factor * inner[i];
      }
      return sum;
    }
    const kept = steps.map(() => new Float64Array(count));
    function value(constants, first, raw, log) {
      steps.forEach(([name, a, b, c], at) => {
        slopes[at] = null;
        if (name === "number") values[at] = a;
        else if (name === "input") values[at] = raw[a];
        else if (name === "input_log") values[at] = log[a];
        else if (name === "constant") {
          values[at] = constants[first + a];
          slopes[at] = kept[at].fill(0);
          slopes[at][a] = 1;
        } else if (name === "where") {
          const chosen = values[a] ? b : c;
          values[at] = values[chosen];
          slopes[at] = chain(kept[at], [[1, chosen]]);
        } else if (Object.hasOwn(ONE, name)) {
          const [result, factor] = ONE[name](values[a]);
          values[at] = result;
          slopes[at] = chain(kept[at], [[factor, a]]);
        } else {
          const [result, one, other] = TWO[name](values[a], values[b]);
          values[at] = result;
          slopes[at] = chain(kept[at], [[one, a], [other, b]]);
        }
      });
      return values[steps.length - 1];
    }
    return { value, slopes: () => slopes[steps.length - 1] ?? new Float64Array(count) };
  }

  /** gᵀ·S·g for the lower triangle of S, row by row from a place. */
  function quadratic(triangle, from, g) {
    let sum = 0;
    for (let i = 0, k = from; i < g.length; i++) {
      let row = 0;
      for (let j = 0; j < i; j++) row += triangle[k++] * g[j];
      sum += g[i] * (2 * row + triangle[k++] * g[i]);
    }
    return sum;
  }

  function readForm(form) {
    const [groups, count] = form.constants.shape, size = (count * (count + 1)) / 2;
    const constants = unpack(form.constants), spread = unpack(form.spread), follow = follower(form.steps, count);
    function at(x, group) {
      const log = x.map((value, i) => (value > 0 ? Math.log(value) - form.middle[i] : 0));
      const centre = follow.value(constants, group * count, x, log);
      return [centre, Math.sqrt(Math.max(quadratic(spread, group * size, follow.slopes()), 0))];
    }
    return { ...form, groups, at, mean: unpack(form.mean) };
  }

  // ---- what the forms leave: a process over the runs
  function readProcess(process, runs, byLogarithm) {
    const [count, inputs] = runs.points.shape, points = unpack(runs.points);
    const place = (x) => x.map((value, i) =>
      (byLogarithm[i] ? Math.log(value) - process.middle[i] : value) / process.deviation[i] / process.lengths[i]);
    const places = Array.from({ length: count }, (_, i) => place(Array.from(points.subarray(i * inputs, (i + 1) * inputs))));
    const { at } = readRuns({ ...process, places, group: runs.group });
    return (x, group) => at(place(x), group);
  }

  // ---- the mixture
  const clip = (value) => Math.min(Math.max(value, 0), 1);
  const show = (value) => digits(value, 6);

  function read(table) {
    const { inputs, span, by_logarithm: byLogarithm } = table;

    /** Refuses a number for one input of which the runs say nothing at all, as Python does. */
    function checkOne(i, value) {
      if (!Number.isFinite(value)) throw new Refusal(`${inputs[i]} is missing or not finite`);
      if (byLogarithm[i] && value <= 0) throw new Refusal(`${inputs[i]} must be above zero, as it is in every run`);
      const [low, high] = span[i];
      if (low === high && Math.abs(value - low) > 1e-9 * Math.abs(low)) {
        throw new Refusal(`${inputs[i]} is ${show(low)} in every run, so nothing can be said at another value`);
      }
      if (table.are_shares && (value < 0 || value > 1)) throw new Refusal(`${inputs[i]} is a proportion: from 0 to 1`);
    }

    function check(x) {
      x.forEach((value, i) => checkOne(i, value));
      const sum = x.reduce((total, value) => total + value, 0);
      if (table.are_shares && Math.abs(sum - 1) > SHARE_TOLERANCE) {
        throw new Refusal(`the proportions must add up to one; they add up to ${digits(sum, 3)}`);
      }
    }

    /** How far a point goes beyond the runs, in words. */
    function evidence(x) {
      const lines = [];
      x.forEach((value, i) => {
        const [low, high] = span[i];
        if (low > 0 && !table.are_shares && value > high * NEARLY) {
          lines.push(`${inputs[i]} reaches ${digits(value / high, 3)}× the largest of the runs`);
        } else if (value > high * NEARLY || value < low / NEARLY) {
          lines.push(`${inputs[i]} lies outside the runs (${show(low)} to ${show(high)})`);
        }
      });
      return lines.length ? lines : ["inside the runs"];
    }

    const answer = table.sizes ? bySizes() : byForms();
    function bySizes() {
      const law = readSizes(table.sizes);
      return (x, _, level) => law.predict(...table.places.map((place) => x[place]), level);
    }

    function byForms() {
      const { rules, record } = table, forms = table.forms.map(readForm);
      const nearRuns = readProcess(table.process, table.runs, byLogarithm);
      const splits = record.along.length, logged = unpack(record.logged);
      const errors = table.shown.map((one) => Math.log(Math.max(one, TINY)));
      const factors = table.inflation.map(Math.log), byCost = record.along.filter((one) => one === -1).length;
      const frontiers = table.frontier?.map((one) => ({ cost: unpack(one.cost), best: unpack(one.log_best) }));
      const logCost = (x) => table.counts.reduce((sum, place) => sum + Math.log(Math.max(x[place], TINY)), 0);

      /** How much a point resembles each split. */
      function likeness(x) {
        const beyond = record.along.map((along) => {
          if (along === -1) return logCost(x) - table.dearest;
          if (along < 0) return 0;
          const high = span[along][1];
          if (byLogarithm[along]) return Math.log(Math.max(x[along], TINY) / high);
          return (x[along] - high) / table.deviations[along];
        }).map((far) => far / rules.wholly);
        const inside = 1 - beyond.reduce((most, far) => Math.max(most, clip(far)), 0);
        return record.along.map((along, i) => {
          if (along === -2) return rules.least_likeness + inside;
          return rules.least_likeness + clip(beyond[i]) / (along === -1 ? Math.max(byCost, 1) : 1);
        });
      }

      function weights(kinds) {
        if (!splits) return forms.map(() => 1 / forms.length);
        const scores = forms.map((_, f) => average(kinds, (s) => logged[f * splits + s])), least = Math.min(...scores);
        let raw = normal(scores.map((one) => Math.exp(-rules.sharpness * (one - least))));
        const bar = Math.min(rules.least_weight, Math.max(...raw));
        return normal(raw.map((one) => (one < bar ? 0 : one)));
      }
      const normal = (list) => {
        const sum = list.reduce((total, one) => total + one, 0);
        return list.map((one) => one / sum);
      };
      const average = (kinds, value) =>
        kinds.reduce((sum, one, i) => sum + one * value(i), 0) / kinds.reduce((sum, one) => sum + one, 0);

      /** How far a point lies beyond the runs, in e-folds or deviations. */
      function beyondRuns(x) {
        return x.reduce((far, value, i) => {
          const [low, high] = span[i];
          if (!byLogarithm[i]) return Math.max(far, (value - high) / table.deviations[i], (low - value) / table.deviations[i]);
          const at = Math.log(Math.max(value, TINY));
          return Math.max(far, at - Math.log(high), Math.log(low) - at);
        }, 0);
      }

      /** Centre and deviation of a form on the scale of the mixture. */
      function moments(form, x, group) {
        const [value, spread] = form.at(x, group);
        if (form.link === "log") {
          const target = Math.exp(Math.min(value, MOST_LOGARITHM));
          return table.logarithmic ? [value, spread] : [target, target * spread];
        }
        if (!table.logarithmic) return [value, spread];
        const target = Math.max(value, table.least);
        return [Math.log(target), spread / target];
      }

      /** By how much what is left grows above the frontier and far from the best target. */
      function growth(form, x, group, centre) {
        return aboveFrontier(form, x, group, centre) * farFromBest(form, group, centre);
      }

      function farFromBest(form, group, centre) {
        if (!form.best) return 1;
        const { sign, best, unit } = table.ranges, far = (sign * centre - best[group]) / unit[group];
        const level = Math.min(Math.max(far, 0), rules.most_level);
        return (1 + level ** rules.level_power) ** rules.level_growth;
      }

      function aboveFrontier(form, x, group, centre) {
        if (!form.frontier) return 1;
        const { cost, best } = frontiers[group], own = Math.exp(logCost(x)) * (1 + LEAST_COST);
        let last = -1;
        while (last + 1 < cost.length && cost[last + 1] <= own) last++;
        const target = Math.log(Math.max(table.logarithmic ? Math.exp(centre) : centre, TINY));
        const above = last < 0 ? 0 : Math.max(target - best[last], 0);
        return Math.exp(Math.min(rules.growth * above, MOST_GROWTH));
      }

      function withLeftovers(form, x, group, near) {
        const [centre, spread] = moments(form, x, group), grown = growth(form, x, group, centre);
        return { centre: centre + grown * near.mean(form.mean), noise: grown ** 2 * form.noise,
                 variance: spread ** 2 + grown ** 2 * near.variance(form.terms) };
      }

      /** Weights without the forms whose own spread here exceeds the middle one, and a run's noise, many times. */
      function ofThoseThatKnow(shares, parts) {
        const used = parts.filter((_, i) => shares[i] > 0).map((part) => part.variance).sort((a, b) => a - b);
        const noise = shares.reduce((sum, share, i) => sum + share * parts[i].noise, 0);
        const middle = Math.max(used[(used.length - 1) >> 1], noise);
        const kept = shares.map((share, i) => (parts[i].variance > rules.clueless ** 2 * middle ? 0 : share));
        const total = kept.reduce((sum, share) => sum + share, 0);
        return kept.map((share) => share / total);
      }

      return (x, group, level) => {
        const near = nearRuns(x, group), kinds = likeness(x);
        const parts = forms.map((form) => withLeftovers(form, x, group, near));
        const shares = ofThoseThatKnow(weights(kinds), parts);
        const mixed = (value) => shares.reduce((sum, share, i) => sum + share * value(parts[i]), 0);
        const centre = mixed((part) => part.centre), distance = beyondRuns(x);
        const unsure = mixed((part) => part.variance + (part.centre - centre) ** 2) + (table.drift * distance) ** 2;
        const larger = 1 + rules.optimism * clip(distance / rules.wholly);
        const inflation = factors.length ? Math.exp(average(kinds, (s) => factors[s])) : 1;
        const stated = Math.sqrt(mixed((part) => part.noise) + (larger * inflation) ** 2 * unsure);
        const shown = errors.length ? larger * Math.exp(average(kinds, (s) => errors[s])) : 0;
        const scale = Math.max(stated, stated ** (1 - rules.towards_errors) * shown ** rules.towards_errors);
        const half = table.t[level] * scale, back = table.logarithmic ? Math.exp : (value) => value;
        const [value, low, high] = [centre, centre - half, centre + half].map(back);
        return ends(value, low, high);
      };
    }

    /** The prediction at a point, an array in the order of the inputs, of a group, at the place of a level. */
    function predict(x, group, level) {
      check(x);
      const one = answer(x, group, level);
      if (!Number.isFinite(one.value)) throw new Refusal("the law gives no finite value there");
      return one;
    }
    return { table, predict, check, checkOne, evidence };
  }

  return { read, readForm, Refusal };
})();

if (typeof module !== "undefined") module.exports = lawOfInputs;
