"use strict";
// The curve under a form: a frame with axes, and a predicted line with its band.

const curveParts = (() => {
  const { digits, ticks, logTicks, draw, path } = formParts;
  const WIDE = 8; // values over a larger span are drawn by their logarithms

  /**
   * Empties a picture and draws its axes: x from `from` to `to`, by logarithm or not, y around `values`, numbers on x as
   * `showX` has them. `under` draws what lies below all, with the frame.
   *
   * @returns where an x and a y lie (`px`, `py`), and the `box` in which the curve is.
   */
  function frame(svg, { title, from, to, isLog, values, showX, showY = (value) => digits(value, 5), label, under }) {
    svg.replaceChildren();
    const width = Math.max(svg.parentElement.clientWidth, 260), height = Math.round(Math.min(340, 140 + width / 4));
    const box = { left: 62, right: width - 14, top: 12, bottom: height - 40 };
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    draw(svg, "title", {}, title);
    svg.setAttribute("aria-label", title);
    const along = (value) => (isLog ? Math.log(value) : value);
    const [lowest, highest] = [Math.min(...values), Math.max(...values)], wide = lowest > 0 && highest / lowest > WIDE;
    const form = wide ? Math.log : (value) => value, unform = wide ? Math.exp : (value) => value;
    const [least, most] = [form(lowest), form(highest)];
    const room = Math.max((most - least) * 0.06, 1e-6 * Math.abs(most) || 1e-9);
    const px = (x) => box.left + ((box.right - box.left) * (along(x) - along(from))) / (along(to) - along(from));
    const py = (y) => box.bottom - ((box.bottom - box.top) * (form(y) - least + room)) / (most - least + 2 * room);
    under?.({ px, py, box });
    const [bottom, top] = [unform(least - room), unform(most + room)];
    for (const y of wide ? logTicks(bottom, top, 5) : ticks(bottom, top, 4)) {
      draw(svg, "line", { class: "grid", x1: box.left, x2: box.right, y1: py(y), y2: py(y) });
      draw(svg, "text", { x: box.left - 6, y: py(y) + 4, "text-anchor": "end" }, showY(y));
    }
    const most_ticks = width < 480 ? 4 : 7;
    for (const x of isLog ? logTicks(from, to, most_ticks) : ticks(from, to, most_ticks)) {
      draw(svg, "line", { class: "grid", x1: px(x), x2: px(x), y1: box.top, y2: box.bottom });
      draw(svg, "text", { x: px(x), y: box.bottom + 16, "text-anchor": "middle" }, showX(x));
    }
    draw(svg, "text", { x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, label);
    return { px, py, box };
  }

  const isKnown = (point) => Number.isFinite(point.low) && Number.isFinite(point.high);

  /** The line through points {x, value, low, high} and the band of those that have an interval. */
  function line(svg, { px, py }, points) {
    const known = points.filter(isKnown), ends = (name) => known.map((point) => [px(point.x), py(point[name])]);
    if (known.length > 1) draw(svg, "path", { class: "band", d: `${path([...ends("high"), ...ends("low").reverse()])}Z` });
    draw(svg, "path", { class: "line", d: path(points.map((point) => [px(point.x), py(point.value)])) });
  }

  /** All values of points and of their intervals. */
  const valuesOf = (points) => points.flatMap((point) => (isKnown(point) ? [point.value, point.low, point.high] : [point.value]));

  /** A dot that says something beside the pointer. */
  function dot(svg, { px, py }, kind, x, y, says, more = {}) {
    const mark = draw(svg, "circle", { class: kind, cx: px(x), cy: py(y), r: kind === "point" ? 6 : 4, ...more });
    mark.dataset.says = says;
    if (kind === "point") mark.setAttribute("tabindex", 0);
    return mark;
  }

  return { frame, line, valuesOf, dot };
})();
