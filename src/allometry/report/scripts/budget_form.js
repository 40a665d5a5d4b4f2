"use strict";
// The fields of a budget, in FLOPs, in hours of devices or in money, and what a form does with any of its fields.

const budgetForm = (section, machines) => {
  const { parse, Refusal, digits, count } = formParts;
  const WORDS = { flops: "FLOPs", devices: "devices", hours: "hours", mfu: "MFU", money: "money", price: "price",
                  num_params: "model size", tokens: "tokens", inference_tokens: "tokens for inference" };
  const part = (name) => section.querySelector(`[data-ask="${name}"]`);
  const field = (name) => section.querySelector(`input[name="${name}"], select[name="${name}"]`);
  const slider = (name) => section.querySelector(`input[data-for="${name}"]`);
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
    const chosen = machines[Number(field("machine").value)], price = given("price") ? value("price") : null;
    if (chosen.measured) return { rate: chosen.flops_per_second, devices: 1, price };
    const devices = value("devices"), mfu = value("mfu");
    if (devices !== Math.round(devices)) throw new Refusal("devices: give a whole number");
    if (mfu > 1) throw new Refusal("MFU: a share of the peak, above 0 and at most 1");
    return { rate: chosen.flops_per_second * devices * mfu, devices, price };
  }

  /** FLOPs of the budget on a machine. */
  function budget(on) {
    const by = field("by").value;
    if (by === "flops") return value("flops");
    if (by === "hours") return on.rate * 3600 * value("hours");
    if (on.price === null) throw new Refusal("money: give the price of one device for an hour too");
    return (on.rate * 3600 * value("money")) / on.price / on.devices;
  }

  function seconds(value) {
    const whole = Math.round(value), two = (number) => String(Math.floor(number)).padStart(2, "0");
    if (!Number.isFinite(value)) return "?";
    if (whole < 120) return `${whole} s`;
    if (whole < 7200) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
    if (whole < 172800) return `${Math.floor(whole / 3600)} h ${two((whole % 3600) / 60)} min`;
    return `${count(Math.floor(whole / 86400))} d ${two((whole % 86400) / 3600)} h`;
  }

  function write(name, text, exact) {
    part(name).textContent = text;
    part(name).title = exact === undefined ? "" : String(exact);
  }

  /** Time and cost of FLOPs on a machine. */
  function writeCost(on, flops) {
    const time = flops / on.rate, cost = on.price === null ? null : (on.price * on.devices * time) / 3600;
    write("time", seconds(time), time);
    write("cost", cost === null ? "give a price" : digits(cost, 3), cost ?? undefined);
  }

  function notes(lines) {
    part("notes").replaceChildren(...lines.map((text) => {
      const line = document.createElement("li");
      line.textContent = text;
      return line;
    }));
  }

  /** Answers what the fields ask, or says why it cannot be. */
  function refresh(answer) {
    const on = machines[Number(field("machine").value)], by = field("by").value;
    for (const row of section.querySelectorAll("[data-by]")) row.hidden = !row.dataset.by.split(" ").includes(by);
    for (const row of section.querySelectorAll("[data-device]")) row.hidden = Boolean(on.measured);
    for (const input of section.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
    part("error").textContent = "";
    part("answer").hidden = false;
    try {
      answer();
      for (const input of section.querySelectorAll("input[data-for]")) {
        if (input === document.activeElement || input.closest(".row").hidden || !given(input.dataset.for)) continue;
        input.value = Math.log10(parse(field(input.dataset.for).value, ""));
      }
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      part("answer").hidden = true; // nothing that belongs to another question stays
      part("error").textContent = `${error.message[0].toUpperCase()}${error.message.slice(1)}.`;
    }
  }

  /** Fills the choices, gives each slider its span, and answers from then on whatever is asked. */
  function start({ spans, levels, level, flops, answer, moved = () => {} }) {
    for (const [name, [low, high]] of Object.entries({ hours: [0.01, 1e4], money: [1, 1e7], ...spans })) {
      Object.assign(slider(name), { min: Math.log10(low), max: Math.log10(high), step: 0.01, value: Math.log10(low) });
    }
    machines.forEach((one, i) => field("machine").add(new Option(one.name, i)));
    levels.forEach((one, i) => field("level").add(new Option(`${Math.round(1000 * one) / 10} %`, i, false, i === level)));
    field("flops").value = flops.toExponential(5);
    section.addEventListener("input", ({ target }) => {
      const name = target.dataset.for;
      if (name) field(name).value = (10 ** Number(target.value)).toExponential(2);
      moved(name ?? target.name);
      refresh(answer);
    });
    section.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    window.addEventListener("resize", () => refresh(answer));
    section.hidden = false;
    refresh(answer);
  }

  return { part, field, given, value, machine, budget, write, writeCost, notes, start };
};
