"use strict";
// What laws leave unexplained near the runs: a Gaussian process over their places, the same for every page. The processes of
// a law differ in a factor on the lengths and in the ratio of their variance to the noise's; no page is needed to run it.

const runsProcess = (() => {
  const matern = (reach) => (1 + reach + (reach * reach) / 3) * Math.exp(-reach);

  /** Rows of the lower triangle L of A = L·Lᵀ, from those of A. */
  function factorise(rows) {
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i];
      for (let j = 0; j <= i; j++) {
        const other = rows[j];
        let sum = row[j];
        for (let k = 0; k < j; k++) sum -= row[k] * other[k];
        row[j] = i === j ? Math.sqrt(sum) : sum / other[j];
      }
    }
    return rows;
  }

  /** kᵀ·A⁻¹·k from the rows of L. */
  function explained(rows, near) {
    const solved = new Float64Array(rows.length);
    let sum = 0;
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i];
      let left = near[i];
      for (let k = 0; k < i; k++) left -= row[k] * solved[k];
      solved[i] = left / row[i];
      sum += solved[i] * solved[i];
    }
    return sum;
  }

  /**
   * The process over runs at `places`, one array of numbers a run in the unit of the lengths, for `factors` on these.
   * Runs of different `group` (null: all are of one) have `between` of their correlation in common. `trunks`, where it is not
   * null, has the `code` of each run's trunk and the `ratio` of each trunk's variance to that of a run's own noise.
   */
  function read({ places, factors, group = null, between = 1, trunks = null }) {
    const count = places.length, triangles = new Map();
    let apart = null;

    /** Distances of a place from the first runs, times √5. */
    function distances(here, many) {
      const far = new Float64Array(many);
      for (let i = 0; i < many; i++) {
        let sum = 0;
        for (let k = 0; k < here.length; k++) sum += (here[k] - places[i][k]) ** 2;
        far[i] = Math.sqrt(5 * sum);
      }
      return far;
    }

    function correlations(far, factor, own) {
      const near = new Float64Array(far.length);
      for (let i = 0; i < far.length; i++) near[i] = matern(far[i] / factor) * (!group || group[i] === own ? 1 : between);
      return near;
    }

    /** The triangle of K + N/ratio, N the covariance of the noise; worked out once, when it is first needed. */
    function triangle(factor, ratio) {
      const key = `${factor} ${ratio}`;
      if (!triangles.has(key)) {
        apart ??= places.map((one, i) => distances(one, i + 1));
        const rows = apart.map((far, i) => correlations(far, factors[factor], group?.[i]));
        rows.forEach((row, i) => {
          row[i] += 1 / ratio;
          for (let j = 0; trunks && j <= i; j++) {
            if (trunks.code[i] === trunks.code[j]) row[j] += trunks.ratio[trunks.code[i]] / ratio;
          }
        });
        triangles.set(key, factorise(rows));
      }
      return triangles.get(key);
    }

    /** At a place: of a form's leftovers the `mean` (weights over the runs, one set a factor) and the variance (`terms`). */
    function at(here, own) {
      const far = distances(here, count), near = factors.map((factor) => correlations(far, factor, own)), known = new Map();
      function unknown(factor, ratio) {
        const key = `${factor} ${ratio}`;
        if (!known.has(key)) known.set(key, Math.max(1 - explained(triangle(factor, ratio), near[factor]), 0));
        return known.get(key);
      }
      function mean(weights) {
        let sum = 0;
        near.forEach((row, factor) => { for (let i = 0; i < count; i++) sum += row[i] * weights[factor * count + i]; });
        return sum;
      }
      const variance = (terms) => terms.reduce((sum, [factor, ratio, weight]) => sum + weight * unknown(factor, ratio), 0);
      return { mean, variance };
    }
    return { at, count };
  }

  return { read };
})();

if (typeof module !== "undefined") module.exports = runsProcess;
