"use strict";
// What the forms of all pages share: numbers as people write and read them (the same as allometry.quantities), ticks of
// axes, elements of a picture.

const formParts = (() => {
  const { Refusal, digits } = ground;
  const SUFFIXES = { "": 1, k: 1e3, thousand: 1e3, m: 1e6, mn: 1e6, mio: 1e6, million: 1e6, millions: 1e6, b: 1e9,
                     bn: 1e9, g: 1e9, mrd: 1e9, billion: 1e9, billions: 1e9, t: 1e12, tn: 1e12, trillion: 1e12,
                     trillions: 1e12 };

  /** A number as people write it; above zero unless any finite one will do. */
  function parse(text, word, any = false) {
    const bad = (why) => new Refusal(`${word}: “${text}” ${why}`);
    if (/^\s*[+-]?[1-9]\d{0,2},\d{3}\s*[a-zA-Z]/.test(text)) throw bad("is unclear: write it without a comma");
    const raw = text.trim().replaceAll("_", "").replace(/(\d),(?=\d{3}(\D|$))/g, "$1").toLowerCase();
    const written = /^([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(?:[x×*]\s*10(?:\^|\*\*)(\d+))?\s*([a-z]*?)\s*(?:params?|parameters?|tokens?|flops?)?$/.exec(raw);
    if (text.trim() === "") throw new Refusal(`${word}: empty; write a number such as ${any ? "0.25" : "1e9, 1.5B, 200M or 10k"}`);
    if (!written || !Object.hasOwn(SUFFIXES, written[3])) throw bad(`is not a number; write ${any ? "one such as 0.25" : "1e9, 1.5B, 200M or 10k"}`);
    const value = Number(written[1]) * 10 ** Number(written[2] ?? 0) * SUFFIXES[written[3]];
    if (!Number.isFinite(value)) throw bad("must be a finite number");
    if (!any && value <= 0) throw bad("must be a finite number above zero");
    return value;
  }

  function count(value, most = 3) {
    if (Math.abs(value) >= 9999.5e12) return value.toExponential(2).replace(/\.?0+e/, "e");
    for (const [factor, suffix] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
      if (Math.abs(value) >= 0.9995 * factor) return digits(value / factor, most) + suffix;
    }
    return digits(value, most);
  }

  const flops = (value) => value.toExponential(2).replace(/e([+-])(\d)$/, "e$10$2");

  function ticks(low, high, most) {
    const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw), list = [];
    for (let at = Math.ceil(low / step); at * step <= high; at++) list.push(at * step);
    return list;
  }
  function logTicks(low, high, most) {
    for (const steps of [[1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
      const list = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
        list.push(...steps.map((s) => s * 10 ** power).filter((N) => N >= low && N <= high));
      }
      if (list.length <= most) return list;
    }
    const [first, last] = [Math.ceil(Math.log10(low)), Math.floor(Math.log10(high))];
    const step = Math.ceil((last - first + 1) / most), decades = []; // every second, third, … power of ten
    for (let power = first; power <= last; power += step) decades.push(10 ** power);
    return decades;
  }

  /** A new element of a picture. */
  function draw(parent, kind, attributes, text) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", kind);
    for (const [name, one] of Object.entries(attributes)) node.setAttribute(name, one);
    if (text !== undefined) node.textContent = text;
    parent.appendChild(node);
    return node;
  }

  /** A path through [x, y] pairs. */
  const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

  return { Refusal, parse, digits, count, flops, ticks, logTicks, draw, path };
})();
