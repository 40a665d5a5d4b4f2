"use strict";
// The form "Ask the law" of a law of any inputs: a field for each input, the value with its interval, and the curve over
// one input with the runs. Without this script the section stays hidden and the page is complete without it.

(() => {
  const section = document.getElementById("ask"), data = JSON.parse(document.getElementById("ask-data").textContent);
  const { Refusal, parse, digits, count } = formParts;
  const MOST_BEYOND = 1e6, TESTED = 1e3; // times beyond the runs: refused, and a guess
  const MOST_DEVIATIONS = 100;
  const MANY_RUNS = 400, POINTS = 61, FEW_POINTS = 31; // of the curve; fewer where each takes longer
  const DRAWN = 250, NEAR = 0.3, FAINTEST = 0.15;
  const part = (name) => section.querySelector(`[data-ask="${name}"]`);
  const choice = (name) => section.querySelector(`select[name="${name}"]`);
  const asked = () => Number(choice("law").value), group = () => Number(choice("group").value || 0);
  const laws = data.parts.map(() => null);
  let table = null, law = null, runs = null, fields = [], sliders = [];

  // ---- one input: how it is written, where its slider reaches, how it is drawn
  const isLog = (i) => table.by_logarithm[i], spanOf = (i) => table.span[i], isFixed = (i) => spanOf(i)[0] === spanOf(i)[1];
  const written = (value) => (Math.abs(value) < 1e4 ? digits(value, 6) : count(value, 6));
  function reach(i) {
    const [low, high] = spanOf(i);
    if (table.are_shares) return [0, 1];
    return isLog(i) ? [low / 3, 30 * high] : [low - (high - low) / 2, high + (high - low) / 2];
  }
  const along = (i, value) => (isLog(i) ? Math.log10(value) : value);
  const back = (i, at) => (isLog(i) ? 10 ** at : at);

  /** The other proportions share what one leaves, in the ratio that they have. */
  function withShare(x, i, value) {
    const rest = x.reduce((sum, one, j) => sum + (j === i ? 0 : one), 0), others = x.length - 1;
    return x.map((one, j) => (j === i ? value : rest > 0 ? (one * (1 - value)) / rest : (1 - value) / others));
  }
  const moved = (x, i, value) => (table.are_shares ? withShare(x, i, value) : x.map((one, j) => (j === i ? value : one)));

  // ---- from the fields to a question
  function valueOf(i) {
    try {
      const value = parse(fields[i].value, table.inputs[i], !isLog(i)), [low, high] = spanOf(i);
      const beyond = isLog(i) ? Math.max(value / high, low / value) : 0;
      if (beyond > MOST_BEYOND) {
        throw new Refusal(`${table.inputs[i]} lies ${digits(beyond, 3)}× beyond the runs: no law has been tested so far out`);
      }
      if (!isLog(i) && Math.max(value - high, low - value) > MOST_DEVIATIONS * (high - low || 1)) {
        throw new Refusal(`${table.inputs[i]} lies far outside the runs (${digits(low, 6)} to ${digits(high, 6)})`);
      }
      law.checkOne(i, value);
      return value;
    } catch (error) {
      fields[i].setAttribute("aria-invalid", "true");
      throw error;
    }
  }

  function question() {
    for (const input of fields) input.removeAttribute("aria-invalid");
    const x = fields.map((_, i) => valueOf(i));
    law.check(x);
    return x;
  }

  // ---- the answer
  function write(name, text, exact) {
    part(name).textContent = text;
    part(name).title = exact === undefined ? "" : String(exact);
  }

  function answer(x) {
    const level = Number(choice("level").value), one = law.predict(x, group(), level);
    write("value", digits(one.value, 5), one.value);
    const known = Number.isFinite(one.low) && Number.isFinite(one.high);
    write("interval", known ? `${digits(one.low, 5)} – ${digits(one.high, 5)}` : "no interval: this law has none",
          known ? `${one.low} to ${one.high}` : undefined);
    const farthest = Math.max(...x.map((value, i) => (isLog(i) ? Math.max(value / spanOf(i)[1], spanOf(i)[0] / value) : 1)));
    const lines = law.evidence(x);
    if (farthest > TESTED) {
      lines.unshift(`${digits(farthest, 3)}× beyond the runs: no table has tested a law over more than about 1000×, so value and `
        + "interval are a guess here");
    }
    part("notes").replaceChildren(...lines.map((text) => {
      const line = document.createElement("li");
      line.textContent = text;
      return line;
    }));
    return one;
  }

  // ---- the curve over one input, with the runs of the group
  function curveOf(x, i) {
    let [low, high] = spanOf(i);
    if (table.are_shares) [low, high] = [0, Math.max(high, x[i])];
    else if (isLog(i)) [low, high] = [Math.min(low / 2, x[i] / 1.2), Math.max(10 * high, x[i] * 1.2)];
    else [low, high] = [Math.min(low, x[i]) - (high - low) / 10, Math.max(high, x[i]) + (high - low) / 10];
    const [from, to] = [along(i, low), along(i, high)], level = Number(choice("level").value);
    const many = runs.group.length > MANY_RUNS ? FEW_POINTS : POINTS, points = [];
    for (let k = 0; k < many; k++) {
      const at = from + ((to - from) * k) / (many - 1);
      try {
        points.push({ x: back(i, at), ...law.predict(moved(x, i, back(i, at)), group(), level) });
      } catch (error) {
        if (!(error instanceof Refusal)) throw error; // the law gives nothing there
      }
    }
    return { points, from: low, to: high };
  }

  /** The runs of the group, each as near to the question as its other inputs are. */
  function runsNear(x, i) {
    const many = x.length, list = [];
    for (let k = 0; k < runs.group.length; k++) {
      if (runs.group[k] !== group()) continue;
      const own = runs.points.subarray(k * many, (k + 1) * many);
      let far = 0;
      for (let j = 0; j < many; j++) {
        const [low, high] = spanOf(j).map((end) => along(j, end));
        if (j !== i && low !== high) far += (6 * (along(j, own[j]) - along(j, x[j])) / (high - low)) ** 2;
      }
      const says = [`${table.target} ${digits(runs.values[k], 5)}`, ...table.inputs.map((name, j) => `${name} ${count(own[j])}`)];
      list.push({ x: own[i], value: runs.values[k], near: Math.exp(-far / 2), says: says.join(", ") });
    }
    return list.sort((a, b) => b.near - a.near).slice(0, DRAWN);
  }

  function drawCurve(x, one) {
    const svg = part("curve"), i = Number(choice("axis").value), { points, from, to } = curveOf(x, i);
    svg.replaceChildren();
    if (points.length < 2) return;
    const dots = runsNear(x, i), near = dots.filter((dot) => dot.near > NEAR).map((dot) => dot.value);
    const values = [...curveParts.valuesOf(points), one.value, ...near];
    const title = `Predicted ${table.target} against ${table.inputs[i]}, the other inputs as asked; the answer is ${digits(one.value, 5)} at ${digits(x[i], 4)}`;
    const showX = isLog(i) ? count : (value) => digits(value, 4);
    const frame = curveParts.frame(svg, { title, from, to, isLog: isLog(i), values, showX, label: table.inputs[i] });
    curveParts.line(svg, frame, points);
    for (const { x: at, value, near: shade, says } of [...dots].reverse()) {
      const [cx, cy] = [frame.px(at), frame.py(value)], { box } = frame;
      if (!(cx >= box.left && cx <= box.right && cy >= box.top && cy <= box.bottom)) continue;
      curveParts.dot(svg, frame, "run", at, value, says, { "fill-opacity": Math.max(shade, FAINTEST).toFixed(2) });
    }
    curveParts.dot(svg, frame, "point", x[i], one.value, `${table.target} ${digits(one.value, 5)}, as asked`);
  }

  function refresh() {
    part("error").textContent = "";
    try {
      const x = question(), one = answer(x);
      part("answer").hidden = false;
      sliders.forEach((slider, i) => { if (slider && slider !== document.activeElement) slider.value = along(i, x[i]); });
      drawCurve(x, one);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      part("answer").hidden = true; // nothing that belongs to another question stays
      part("error").textContent = `${error.message[0].toUpperCase()}${error.message.slice(1)}.`;
    }
  }

  // ---- the form of one law
  function element(kind, attributes, text) {
    const node = document.createElement(kind);
    for (const [name, one] of Object.entries(attributes)) node.setAttribute(name, one);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function fieldOf(name, i) {
    const row = element("div", { class: "row" }), id = `ask-input-${i}`;
    fields[i] = element("input", { type: "text", id, name: `input-${i}`, autocomplete: "off", spellcheck: "false" });
    row.append(element("label", { for: id }, name), fields[i]);
    if (isFixed(i)) {
      fields[i].readOnly = true;
      row.append(element("small", {}), element("small", {}, "the same in every run"));
      sliders[i] = null;
    } else {
      const [low, high] = reach(i).map((end) => along(i, end));
      sliders[i] = element("input", { type: "range", min: low, max: high, step: (high - low) / 400, "data-for": i, "aria-label": `${name}, slider` });
      row.append(sliders[i]);
    }
    const cell = element("div", {});
    cell.append(row);
    return cell;
  }

  /** The fields of the chosen law, with the numbers that stand in them, or those that it begins with. */
  function choose(keep) {
    const number = asked(), own = data.parts[number], before = keep ? fields.map((field) => field.value) : [];
    laws[number] ??= lawOfInputs.read(own.table);
    [law, table] = [laws[number], own.table];
    runs = { points: ground.unpack(table.runs.points), values: ground.unpack(table.runs.values), group: table.runs.group };
    [fields, sliders] = [[], []];
    part("fields").replaceChildren(...table.inputs.map(fieldOf));
    fields.forEach((field, i) => { field.value = before[i] ?? written(own.start.point[i]); });
    choice("group").replaceChildren(...table.groups.map((name, i) => new Option(name, i, false, i === own.start.group)));
    choice("group").closest(".row").hidden = table.groups.length < 2;
    const varying = table.inputs.map((_, i) => i).filter((i) => !isFixed(i)), axis = Number(choice("axis").value || own.start.axis);
    choice("axis").replaceChildren(...varying.map((i) => new Option(table.inputs[i], i, false, i === axis)));
    part("target").textContent = table.target;
  }

  let waiting = false;
  function later() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; refresh(); });
  }

  function changed({ target }) {
    const moved = target.dataset.for ?? /^input-(\d+)$/.exec(target.name ?? "")?.[1];
    if (target.name === "law") choose(true);
    if (moved !== undefined) {
      const i = Number(moved);
      if (target.dataset.for !== undefined) fields[i].value = written(Number(back(i, Number(target.value)).toPrecision(4)));
      if (table.are_shares) follow(i);
    }
    later();
  }

  /** The other proportions follow one that was changed. */
  function follow(i) {
    try {
      const value = valueOf(i), x = fields.map((field, j) => (j === i ? value : parse(field.value, table.inputs[j], true)));
      withShare(x, i, value).forEach((one, j) => { if (j !== i) fields[j].value = digits(one, 6); });
    } catch (error) {
      if (!(error instanceof Refusal)) throw error; // the field is marked, and nothing follows
    }
  }

  function prepare() {
    data.parts.forEach((one, i) => choice("law").add(new Option(one.label, i)));
    choice("law").closest(".row").hidden = data.parts.length < 2;
    data.levels.forEach((level, i) => choice("level").add(new Option(`${Math.round(1000 * level) / 10} %`, i, false, i === data.level)));
    choose(false);
    section.addEventListener("input", changed);
    section.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    window.addEventListener("resize", later);
    section.hidden = false;
    refresh();
  }
  prepare();
})();
