"use strict";
// The minima of the budgets in the page: the best size, tokens and loss of any budget, as
// allometry/laws/isoflop_slices/isoflop_table.py specifies them. The numbers are those of laws.IsoFlop; no page is needed.

const lawOfBudgets = (() => {
  const { Refusal, unpack, linear, ends, digits } = typeof ground === "undefined" ? require("./ground.js") : ground;
  const TESTED = 1e3; // beyond so many times the largest budget a prediction is a guess,
  const MOST_BEYOND = 1e6; // and beyond so many, or below, it is refused

  const power = (lines, o, c) => Math.exp(lines[o] + lines[o + 1] * c);
  const aboveFloor = (lines, o, c) => lines[o] + lines[o + 1] * Math.exp(-lines[o + 2] * c);
  const CURVES = { num_params: [2, power], tokens: [2, power], loss: [3, aboveFloor] };

  function read(table) {
    const draws = Object.fromEntries(Object.keys(CURVES).map((name) => [name, unpack(table.draws[name])]));
    const [least, most] = table.range;

    function quantity(name, c, level) {
      const [many, curve] = CURVES[name], all = draws[name];
      const drawn = Float64Array.from({ length: all.length / many }, (_, i) => curve(all, i * many, c)).sort();
      return ends(curve(table.lines[name], 0, c), linear(drawn, (1 - level) / 2), linear(drawn, (1 + level) / 2));
    }

    /** The best size, tokens and loss for FLOPs, each with its interval, at the place of a level. */
    function predict(flops, place) {
      if (!(Number.isFinite(flops) && flops > 0)) throw new Refusal("FLOPs must be a finite number above zero");
      const c = Math.log(flops) - table.centre, level = table.levels[place];
      return Object.fromEntries(Object.keys(CURVES).map((name) => [name, quantity(name, c, level)]));
    }

    /** The same, and what to say about the place. */
    function ask(flops, place) {
      const answer = predict(flops, place), above = flops / most, below = least / flops;
      if (Math.max(above, below) > MOST_BEYOND) {
        throw new Refusal(`that lies ${digits(Math.max(above, below), 3)}× beyond the budgets that were run: no law has been tested so far out`);
      }
      if (answer.num_params.value < 1 || answer.tokens.value < 1) throw new Refusal("that is less than one parameter or one token: give a larger budget");
      const notes = [];
      if (above > TESTED) {
        notes.push(`${digits(above, 3)}× beyond the largest budget: no table has tested a law over more than about 1000×, so the answer is a guess here`);
      } else if (above > 1 + 1e-9) notes.push(`extrapolates to ${digits(above, 3)}× the largest budget that was run`);
      if (below > 1 + 1e-9) notes.push(`extrapolates to ${digits(below, 3)}× below the smallest budget that was run`);
      return { ...answer, flops, notes };
    }
    return { table, predict, ask };
  }

  return { read, Refusal };
})();

if (typeof module !== "undefined") module.exports = lawOfBudgets;
