"use strict";
// The form "Ask the valleys": reads a budget, asks lawOfBudgets, writes the best size and redraws it against compute. Without
// this script the section stays hidden and the page is complete without it.

(() => {
  const section = document.getElementById("ask"), data = JSON.parse(document.getElementById("ask-data").textContent);
  const law = lawOfBudgets.read(data.table), form = budgetForm(section, data.machines);
  const { digits, count, flops: showFlops } = formParts;
  const POINTS = 61;

  function answer() {
    const on = form.machine(), level = Number(form.field("level").value), best = law.ask(form.budget(on), level);
    const ends = ({ low, high }, show) => `${show(low)} – ${show(high)}`;
    for (const name of ["num_params", "tokens", "loss"]) {
      const show = name === "loss" ? (value) => digits(value, 5) : count, one = best[name];
      form.write(name, show(one.value), one.value);
      form.write(`${name}_interval`, ends(one, show), `${one.low} to ${one.high}`);
    }
    const ratio = best.tokens.value / best.num_params.value;
    form.write("ratio", digits(ratio, 3), ratio);
    form.write("flops", showFlops(best.flops), best.flops);
    form.writeCost(on, best.flops);
    form.notes(best.notes);
    drawCurve(best, level);
  }

  /** The best size against compute, with the minima of the budgets. */
  function drawCurve(best, level) {
    const svg = form.part("curve"), [least, most] = law.table.range;
    const [from, to] = [Math.min(least / 3, best.flops / 2), Math.max(10 * most, best.flops * 2)], points = [];
    for (let i = 0; i < POINTS; i++) {
      const x = from * (to / from) ** (i / (POINTS - 1));
      points.push({ x, ...law.predict(x, level).num_params });
    }
    const minima = data.minima, title = `Best size against training compute; at ${showFlops(best.flops)} FLOPs it is ${count(best.num_params.value)} parameters`;
    const values = [...curveParts.valuesOf(points), ...minima.map((one) => one.num_params)];
    const frame = curveParts.frame(svg, { title, from, to, isLog: true, values, showX: showFlops, showY: count, label: "training compute (FLOPs)" });
    curveParts.line(svg, frame, points);
    for (const one of minima) {
      curveParts.dot(svg, frame, "run", one.flops, one.num_params, `budget ${showFlops(one.flops)}: best size ${count(one.num_params)}, loss ${digits(one.loss, 5)}`);
    }
    curveParts.dot(svg, frame, "point", best.flops, best.num_params.value, `${count(best.num_params.value)} parameters, ${count(best.tokens.value)} tokens, as asked`);
  }

  form.start({ ...data.start, spans: { flops: data.start.flops_range }, levels: law.table.levels, answer });
})();
