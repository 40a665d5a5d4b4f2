"use strict";
// The form "Ask the law": reads the fields, asks lawOfTable, writes the answer and redraws the curve. Without this script
// the section stays hidden and the page is complete without it.

(() => {
  const section = document.getElementById("ask"), data = JSON.parse(document.getElementById("ask-data").textContent);
  const law = lawOfTable.read(data.table), planning = data.planning, Refusal = lawOfTable.Refusal;
  const { parse, digits, count, ticks, logTicks, draw } = formParts;
  const part = (name) => section.querySelector(`[data-ask="${name}"]`);
  const field = (name) => section.querySelector(`input[name="${name}"], select[name="${name}"]`);
  const slider = (name) => section.querySelector(`input[data-for="${name}"]`);

  const flops = (value) => value.toExponential(2).replace(/e([+-])(\d)$/, "e$10$2");
  function seconds(value) {
    const whole = Math.round(value), two = (number) => String(Math.floor(number)).padStart(2, "0");
    if (!Number.isFinite(value)) return "?";
    if (whole < 120) return `${whole} s`;
    if (whole < 7200) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
    if (whole < 172800) return `${Math.floor(whole / 3600)} h ${two((whole % 3600) / 60)} min`;
    return `${count(Math.floor(whole / 86400))} d ${two((whole % 86400) / 3600)} h`;
  }
  const percent = (value) => `${value >= 0 ? "+" : ""}${(100 * value).toFixed(2)} %`;

  // ---- from the fields to a question
  const WORDS = { flops: "FLOPs", devices: "devices", hours: "hours", mfu: "MFU", money: "money", price: "price",
                  num_params: "model size", tokens: "tokens", inference_tokens: "tokens for inference" };
  const given = (name) => field(name).value.trim() !== "";

  /** The value of a field; the field is marked where it cannot be read. */
  function value(name) {
    try {
      return parse(field(name).value, WORDS[name]);
    } catch (error) {
      field(name).setAttribute("aria-invalid", "true");
      throw error;
    }
  }

  function machine() {
    const chosen = data.machines[Number(field("machine").value)], price = given("price") ? value("price") : null;
    if (chosen.measured) return { rate: chosen.flops_per_second, devices: 1, price };
    const devices = value("devices"), mfu = value("mfu");
    if (devices !== Math.round(devices)) throw new Refusal("devices: give a whole number");
    if (mfu > 1) throw new Refusal("MFU: a share of the peak, above 0 and at most 1");
    return { rate: chosen.flops_per_second * devices * mfu, devices, price };
  }

  function budget(by, on) {
    if (by === "flops") return value("flops");
    if (by === "hours") return on.rate * 3600 * value("hours");
    if (on.price === null) throw new Refusal("money: give the price of one device for an hour too");
    return (on.rate * 3600 * value("money")) / on.price / on.devices;
  }

  function question() {
    for (const input of section.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
    const on = machine(), fixed = (name) => (field(`fix_${name}`).checked ? value(name) : null);
    const size = fixed("num_params"), tokens = fixed("tokens");
    const both = size !== null && tokens !== null;
    return { on, num_params: size, tokens, flops: both ? null : budget(field("by").value, on),
             inference_tokens: given("inference_tokens") ? value("inference_tokens") : null };
  }

  // ---- the answer
  function write(name, text, exact) {
    const place = part(name);
    place.textContent = text;
    place.title = exact === undefined ? "" : String(exact);
  }
  const range = (ends, form) => (ends ? `${form(ends[0])} – ${form(ends[1])}` : "–");

  function answer() {
    const asked = question(), level = Number(field("level").value);
    const best = lawOfTable.optimal(law, planning, asked, level);
    const chosen = lawOfTable.settings(data.settings, best.num_params, best.tokens);
    if (chosen && chosen.batch > best.tokens) {
      throw new Refusal(`${count(best.tokens)} tokens are less than one batch of ${count(chosen.batch)}: ask for more`);
    }
    const time = best.flops / asked.on.rate;
    const cost = asked.on.price === null ? null : (asked.on.price * asked.on.devices * time) / 3600;
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
    write("time", seconds(time), time);
    write("cost", cost === null ? "give a price" : digits(cost, 3), cost ?? undefined);
    write("within_0_1_percent", range(best.basin?.within_0_1_percent, count), best.basin?.within_0_1_percent.join(" to "));
    write("within_0_5_percent", range(best.basin?.within_0_5_percent, count), best.basin?.within_0_5_percent.join(" to "));
    const size = best.basin ? [best.basin.half, best.basin.double].map((x) => (Number.isFinite(x) ? percent(x) : "–")) : null;
    write("half_or_double", size ? size.join(" / ") : "–", best.basin ? [best.basin.half, best.basin.double].join(" and ") : undefined);
    const lines = [...best.cautions, ...best.notes].map((text) => {
      const line = document.createElement("li");
      line.textContent = text;
      return line;
    });
    part("notes").replaceChildren(...lines);
    follow(best);
    return { asked, best, level };
  }

  /** Size and tokens that the user has not fixed follow the answer, and so do all sliders. */
  function follow(best) {
    for (const name of ["num_params", "tokens"]) {
      if (!field(`fix_${name}`).checked) field(name).value = count(best[name]);
    }
    for (const input of section.querySelectorAll("input[data-for]")) {
      if (input === document.activeElement || !given(input.dataset.for)) continue;
      input.value = Math.log10(parse(field(input.dataset.for).value, ""));
    }
  }

  function refresh() {
    const on = data.machines[Number(field("machine").value)], by = field("by").value;
    for (const row of section.querySelectorAll("[data-by]")) row.hidden = !row.dataset.by.split(" ").includes(by);
    for (const row of section.querySelectorAll("[data-device]")) row.hidden = Boolean(on.measured);
    part("error").textContent = "";
    try {
      const shown = answer();
      part("answer").hidden = false;
      drawCurve(part("curve"), shown);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      part("answer").hidden = true; // nothing that belongs to another question stays
      part("error").textContent = `${error.message[0].toUpperCase()}${error.message.slice(1)}.`;
    }
  }

  // ---- the curve: loss against size along the budget, with its interval, and the answer as a point
  const POINTS = 61;

  function curveOf({ asked, best, level }) {
    const spent = asked.flops ?? best.flops + best.inference_flops;
    const line = lawOfTable.budgetLine(law, spent, asked.inference_tokens ?? 0);
    let [low, high] = [best.num_params / 8, best.num_params * 8];
    if (best.basin) {
      const [least, most] = best.basin.within_0_5_percent;
      [low, high] = [Math.min(least ** 2 / best.num_params, best.num_params / 2), Math.max(most ** 2 / best.num_params, best.num_params * 2)];
    }
    const points = [];
    for (let i = 0; i < POINTS; i++) {
      const N = low * (high / low) ** (i / (POINTS - 1)), D = line.tokens(N);
      if (N < 1 || D < 1) continue;
      const one = law.predict(N, D, level);
      if (Number.isFinite(one.value)) points.push({ N, D, ...one });
    }
    return points;
  }

  function drawCurve(svg, shown) {
    const { best } = shown, points = curveOf(shown);
    const width = Math.max(svg.parentElement.clientWidth, 260), height = Math.round(Math.min(300, 120 + width / 4));
    const box = { left: 58, right: width - 14, top: 12, bottom: height - 40 };
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    svg.replaceChildren();
    if (points.length < 2) return;
    const known = points.filter((p) => Number.isFinite(p.low) && Number.isFinite(p.high));
    const losses = [...points.map((p) => p.value), ...known.flatMap((p) => [p.low, p.high]), best.loss];
    const [least, most] = [Math.min(...losses), Math.max(...losses)], room = Math.max((most - least) * 0.06, 1e-6 * most);
    const [first, last] = [points[0].N, points[points.length - 1].N];
    const x = (N) => box.left + (box.right - box.left) * (Math.log(N / first) / Math.log(last / first));
    const y = (loss) => box.bottom - (box.bottom - box.top) * ((loss - least + room) / (most - least + 2 * room));
    const add = (kind, attributes, text) => draw(svg, kind, attributes, text);
    const title = `Predicted loss against model size for ${flops(best.flops)} FLOPs of training; the answer is `
      + `${count(best.num_params)} parameters with a loss of ${digits(best.loss, 5)}`;
    add("title", {}, title);
    svg.setAttribute("aria-label", title);
    if (best.basin) {
      for (const [name, shade] of [["within_0_5_percent", "basin-wide"], ["within_0_1_percent", "basin-near"]]) {
        const [from, to] = best.basin[name].map((N) => Math.min(Math.max(N, first), last));
        add("rect", { class: shade, x: x(from), y: box.top, width: x(to) - x(from), height: box.bottom - box.top });
      }
    }
    for (const loss of ticks(least - room, most + room, 4)) {
      add("line", { class: "grid", x1: box.left, x2: box.right, y1: y(loss), y2: y(loss) });
      add("text", { x: box.left - 6, y: y(loss) + 4, "text-anchor": "end" }, digits(loss, 5));
    }
    for (const N of logTicks(first, last, width < 480 ? 4 : 7)) {
      add("line", { class: "grid", x1: x(N), x2: x(N), y1: box.top, y2: box.bottom });
      add("text", { x: x(N), y: box.bottom + 16, "text-anchor": "middle" }, count(N));
    }
    const path = (list, loss) => list.map((p, i) => `${i ? "L" : "M"}${x(p.N).toFixed(1)} ${y(p[loss]).toFixed(1)}`).join("");
    if (known.length > 1) {
      add("path", { class: "band", d: `${path(known, "high")}${path([...known].reverse(), "low").replace("M", "L")}Z` });
    }
    add("path", { class: "line", d: path(points, "value") });
    const mark = add("circle", { class: "point", cx: x(best.num_params), cy: y(best.loss), r: 6, tabindex: 0 });
    draw(mark, "title", {}, `${count(best.num_params)} parameters, ${count(best.tokens)} tokens: ${digits(best.loss, 5)}`);
    add("text", { x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, "model size (parameters) at this budget");
  }

  // ---- start
  function prepare() {
    const [least, most] = data.start.flops_range, sizes = data.start.num_params_range, tokens = data.start.tokens_range;
    const spans = { flops: [least, most], num_params: sizes, tokens, hours: [0.01, 1e4], money: [1, 1e7], inference_tokens: [1e3, 1e15] };
    for (const [name, [low, high]] of Object.entries(spans)) {
      Object.assign(slider(name), { min: Math.log10(low), max: Math.log10(high), step: 0.01, value: Math.log10(low) });
    }
    data.machines.forEach((one, i) => field("machine").add(new Option(one.name, i)));
    data.table.levels.forEach((level, i) => field("level").add(new Option(`${Math.round(1000 * level) / 10} %`, i, false, i === data.start.level)));
    field("flops").value = data.start.flops.toExponential(5);
    part("settings_source").textContent = data.settings ? data.settings.source : "";
    section.addEventListener("input", ({ target }) => {
      const name = target.dataset.for;
      if (name) {
        field(name).value = (10 ** Number(target.value)).toExponential(2);
        if (field(`fix_${name}`)) field(`fix_${name}`).checked = true;
      } else if (field(`fix_${target.name}`)) {
        field(`fix_${target.name}`).checked = true;
      }
      refresh();
    });
    section.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    window.addEventListener("resize", refresh);
    section.hidden = false;
    refresh();
  }
  prepare();
})();
