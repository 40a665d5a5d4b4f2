"use strict";
// The form "Ask the law": reads the fields, asks lawOfTable, writes the answer and redraws the curve. Without this script
// the section stays hidden and the page is complete without it.

(() => {
  const section = document.getElementById("ask"), data = JSON.parse(document.getElementById("ask-data").textContent);
  const law = lawOfTable.read(data.table), planning = data.planning, form = budgetForm(section, data.machines);
  const { Refusal, digits, count, flops, draw } = formParts, { part, field, write } = form;
  const percent = (value) => `${value >= 0 ? "+" : ""}${(100 * value).toFixed(2)} %`;

  function question() {
    const on = form.machine(), fixed = (name) => (field(`fix_${name}`).checked ? form.value(name) : null);
    const size = fixed("num_params"), tokens = fixed("tokens");
    const both = size !== null && tokens !== null;
    return { on, num_params: size, tokens, flops: both ? null : form.budget(on),
             inference_tokens: form.given("inference_tokens") ? form.value("inference_tokens") : null };
  }

  // ---- the answer
  const range = (ends, show) => (ends ? `${show(ends[0])} – ${show(ends[1])}` : "–");

  function answer() {
    const asked = question(), level = Number(field("level").value);
    const best = lawOfTable.optimal(law, planning, asked, level);
    const chosen = lawOfTable.settings(data.settings, best.num_params, best.tokens);
    if (chosen && chosen.batch > best.tokens) {
      throw new Refusal(`${count(best.tokens)} tokens are less than one batch of ${count(chosen.batch)}: ask for more`);
    }
    const known = Number.isFinite(best.low) && Number.isFinite(best.high);
    write("loss", digits(best.loss, 5), best.loss);
    write("interval", known ? `${digits(best.low, 5)} – ${digits(best.high, 5)}` : "no interval: this law has none",
          known ? `${best.low} to ${best.high}` : undefined);
    write("num_params", count(best.num_params), best.num_params);
    write("num_params_interval", range(best.intervals?.num_params, count), best.intervals?.num_params.join(" to "));
    write("tokens", count(best.tokens), best.tokens);
    write("tokens_interval", range(best.intervals?.tokens, count), best.intervals?.tokens.join(" to "));
    write("ratio", digits(best.tokens / best.num_params, 3), best.tokens / best.num_params);
    write("flops", flops(best.flops), best.flops);
    write("inference_flops", best.inference_flops ? flops(best.inference_flops) : "–", best.inference_flops);
    write("batch", chosen ? `${count(chosen.batch)} tokens, ${count(best.tokens / chosen.batch)} steps` : "–", chosen?.batch);
    write("lr", chosen ? digits(chosen.lr, 3) : "–", chosen?.lr);
    form.writeCost(asked.on, best.flops);
    write("within_0_1_percent", range(best.basin?.within_0_1_percent, count), best.basin?.within_0_1_percent.join(" to "));
    write("within_0_5_percent", range(best.basin?.within_0_5_percent, count), best.basin?.within_0_5_percent.join(" to "));
    const size = best.basin ? [best.basin.half, best.basin.double].map((x) => (Number.isFinite(x) ? percent(x) : "–")) : null;
    write("half_or_double", size ? size.join(" / ") : "–", best.basin ? [best.basin.half, best.basin.double].join(" and ") : undefined);
    form.notes([...best.cautions, ...best.notes]);
    for (const name of ["num_params", "tokens"]) { // what the user has not fixed follows the answer
      if (!field(`fix_${name}`).checked) field(name).value = count(best[name]);
    }
    drawCurve(asked, best, level);
  }

  // ---- the curve: loss against size along the budget, with its interval, and the answer as a point
  const POINTS = 61;

  function curveOf(asked, best, level) {
    const spent = asked.flops ?? best.flops + best.inference_flops;
    const line = lawOfTable.budgetLine(law, spent, asked.inference_tokens ?? 0);
    let [low, high] = [best.num_params / 8, best.num_params * 8];
    if (best.basin) {
      const [least, most] = best.basin.within_0_5_percent;
      [low, high] = [Math.min(least ** 2 / best.num_params, best.num_params / 2), Math.max(most ** 2 / best.num_params, best.num_params * 2)];
    }
    const points = [];
    for (let i = 0; i < POINTS; i++) {
      const x = low * (high / low) ** (i / (POINTS - 1)), tokens = line.tokens(x);
      if (x < 1 || tokens < 1) continue;
      const one = law.predict(x, tokens, level);
      if (Number.isFinite(one.value)) points.push({ x, ...one });
    }
    return points;
  }

  function drawCurve(asked, best, level) {
    const svg = part("curve"), points = curveOf(asked, best, level);
    svg.replaceChildren();
    if (points.length < 2) return;
    const [from, to] = [points[0].x, points[points.length - 1].x];
    const title = `Predicted loss against model size for ${flops(best.flops)} FLOPs of training; the answer is `
      + `${count(best.num_params)} parameters with a loss of ${digits(best.loss, 5)}`;
    const under = ({ px, box }) => {
      for (const [name, shade] of best.basin ? [["within_0_5_percent", "basin-wide"], ["within_0_1_percent", "basin-near"]] : []) {
        const [left, right] = best.basin[name].map((N) => px(Math.min(Math.max(N, from), to)));
        draw(svg, "rect", { class: shade, x: left, y: box.top, width: right - left, height: box.bottom - box.top });
      }
    };
    const values = [...curveParts.valuesOf(points), best.loss], label = "model size (parameters) at this budget";
    const frame = curveParts.frame(svg, { title, from, to, isLog: true, values, showX: count, label, under });
    curveParts.line(svg, frame, points);
    curveParts.dot(svg, frame, "point", best.num_params, best.loss,
                   `${count(best.num_params)} parameters, ${count(best.tokens)} tokens: ${digits(best.loss, 5)}`);
  }

  // ---- start
  part("settings_source").textContent = data.settings ? data.settings.source : "";
  const { start } = data, spans = { flops: start.flops_range, num_params: start.num_params_range, tokens: start.tokens_range };
  form.start({
    ...start, answer, spans: { ...spans, inference_tokens: [1e3, 1e15] }, levels: data.table.levels,
    moved: (name) => { if (field(`fix_${name}`)) field(`fix_${name}`).checked = true; },
  });
})();
