"use strict";
// What every law in a page needs: a refusal, arrays out of their table, quantiles. No page is needed to run it.

const ground = (() => {
  /** What is asked cannot be answered; the message says why. */
  class Refusal extends Error {}

  function unpack(array) {
    if (array === null || array === undefined) return null;
    const bytes = Uint8Array.from(atob(array.f8), (letter) => letter.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    return Float64Array.from({ length: bytes.length / 8 }, (_, i) => view.getFloat64(8 * i, true));
  }

  /** A quantile of sorted values at a place counted from 0, between two of them. */
  function between(sorted, place) {
    const at = Math.min(Math.max(place, 0), sorted.length - 1), low = Math.floor(at);
    const high = Math.min(low + 1, sorted.length - 1);
    return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
  }
  const linear = (sorted, q) => between(sorted, q * (sorted.length - 1));
  const weibull = (sorted, q) => between(sorted, q * (sorted.length + 1) - 1);

  /** A value whose interval holds it. */
  const ends = (value, low, high) => ({ value, low: Math.min(low, value), high: Math.max(high, value) });

  /** A number in so many digits, without zeros at its end. */
  const digits = (value, count) => Number(value.toPrecision(count)).toString();

  return { Refusal, unpack, linear, weibull, ends, digits };
})();

if (typeof module !== "undefined") module.exports = ground;
