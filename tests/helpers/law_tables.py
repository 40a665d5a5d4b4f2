"""A plain reading of the law table's text (allometry/laws/law_table.py), one point at a time; and node beside it."""

import base64
import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import allometry.report

SCRIPTS = Path(allometry.report.__file__).parent / "scripts"
# Reads {"data": …, "queries": [[function, arguments…], …]}, writes the answers, a refusal as {"refused": message}.
PROGRAM = """
const tool = require(process.argv[1]), {data, queries} = JSON.parse(require("fs").readFileSync(0, "utf8"));
const law = tool.read(data.table);
const ask = {
  predict: (N, D, place) => law.predict(N, D, place),
  optimal: (question, place) => tool.optimal(law, data.planning, question, place),
  settings: (N, D) => tool.settings(data.settings, N, D),
};
const answers = queries.map(([name, ...rest]) => {
  try { return ask[name](...rest); }
  catch (error) { if (error instanceof tool.Refusal) return {refused: error.message}; throw error; }
});
console.log(JSON.stringify(answers));
"""


def node(data: dict, queries: list) -> list:
    """What the script of the page answers to these queries; the test is skipped without node."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("no node: apt-get install nodejs")
    line = [program, "-e", PROGRAM, str(SCRIPTS / "law.js")]
    text = json.dumps({"data": data, "queries": queries})
    done = subprocess.run(line, input=text, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def array(packed):
    return np.frombuffer(base64.b64decode(packed["f8"]), "<f8").reshape(packed["shape"])


def read(table: dict, num_params: float, tokens: float, place: int) -> tuple[float, float, float]:
    """Value, low and high at one point, at the place of a level in the table."""
    if table["kind"] == "fit":
        return _of_fit(table, num_params, tokens, place)
    log, half = _of_forecast(table, num_params, tokens, place)
    low, high, early = log - half, log + half, table["early_end"]
    if early and tokens > early["tokens"]:
        last, last_half = _of_forecast(table, num_params, early["tokens"], place)
        z = math.log(tokens / early["tokens"])
        steep = last - math.hypot(early["shares"][place] * early["exponent"] * z * (1 + early["growth"] * z), last_half)
        low = min(steep, log - last_half) if early["lower"] > 0 else min(steep, low)
        high = min(high, last + last_half) if early["lower"] > 0 else high
    return math.exp(log), min(math.exp(low), math.exp(log)), max(math.exp(high), math.exp(log))


def _parts(table, num_params, tokens):
    """ln L by each law, its draws, and the noise that runs of a trunk share."""
    trunks, n, d = table["trunks"], math.log(num_params), math.log(tokens)
    beside = trunks["level"] * (num_params / trunks["middle"]) ** trunks["slope"] if trunks else 0.0
    values = [_log_loss(law, array(law["coordinates"])[None], n, d)[0] for law in table["laws"]]
    samples = [_log_loss(law, array(law["draws"]), n, d) for law in table["laws"]]
    return values, samples, beside


def _of_fit(table, num_params, tokens, place):
    values, samples, beside = _parts(table, num_params, tokens)
    if table["own"] is None:
        return math.exp(values[0]), math.nan, math.nan
    noisy = samples[0] + array(table["own"]) + (array(table["shared"]) * beside if table["shared"] else 0)
    level = table["levels"][place]
    low, high = np.quantile(noisy, [(1 - level) / 2, (1 + level) / 2], method="weibull")
    return math.exp(values[0]), min(math.exp(low), math.exp(values[0])), max(math.exp(high), math.exp(values[0]))


def _of_forecast(table, num_params, tokens, place):
    """ln L and half its interval."""
    values, samples, beside = _parts(table, num_params, tokens)
    weights = [law["weight"] for law in table["laws"]]
    centre = sum(w * v for w, v in zip(weights, values, strict=True))
    spreads = [(np.quantile(s, 0.95) - np.quantile(s, 0.05)) / (2 * 1.6449) for s in samples]
    mixed = sum(w * ((v - centre) ** 2 + s**2) for w, v, s in zip(weights, values, spreads, strict=True))
    mean, left, noise = _process(table, num_params, tokens, centre)
    spans = (table["range"]["num_params"][1], table["range"]["tokens"][1])
    x = math.log(max(6 * num_params * tokens / table["reach"], num_params / spans[0], tokens / spans[1], 1))
    log = centre + mean - table["correction"] * min(x, table["tested"]) + table["drift_slope"] * x
    y = math.log(max(tokens / table["unique_tokens"], 1)) if table["unique_tokens"] else 0.0
    early = table["early_end"] or {"tokens": math.inf, "lower": 0.0, "lower_sd": 0.0}
    z = math.log(max(tokens / early["tokens"], 1))
    log += table["repeat_slope"] * y - early["lower"] * z
    unsure = (mixed * (1 + 2 * table["noise_share"]) + left) / 3 + (table["drift_sd"] * x) ** 2
    unsure += (table["repeat_sd"] * y) ** 2
    beside = math.hypot(beside, early["lower_sd"] * z)
    return log, table["t"][place] * math.sqrt(noise + beside**2 + table["scale"] ** 2 * unsure)


def _log_loss(law, c, n, d):
    """ln L for rows of coordinates."""
    c = c.T
    if law["family"] == "joined_powers":
        loss = c[0] + (np.exp(c[1] - c[3] * n) + np.exp(c[2] - c[4] * d)) ** c[5]
    elif law["family"] == "farseer":
        size, exponent = c[3] * np.exp(c[4] * n) + c[5], np.exp(c[6] * np.exp(c[7] * n) + c[8])
        loss = np.exp(c[0] * np.exp(c[1] * n) + c[2]) + np.exp(size - exponent * d)
    else:
        loss = c[0] * 1.0 if law["floor"] else 0.0
        for term in law["terms"]:
            falls = sum(c[exponent] * (n, d)[place] for exponent, place in term["powers"])
            loss = loss + np.exp(c[term["coefficient"]] - law["sign"] * falls)
    return np.log(loss)


def _process(table, num_params, tokens, centre):
    """Mean and variance of the process, and the noise, at one point."""
    process, steps = table["process"], table["frontier"]
    reached = np.flatnonzero(array(steps["flops"]) <= 1.01 * 6 * num_params * tokens * table["flops_ratio"])
    best = array(steps["log_loss"])[reached[-1] if len(reached) else 0]
    growth = math.exp(process["growth"] * max(centre - best, 0))
    runs = np.stack([np.log(array(process[name])) for name in ("num_params", "tokens")], axis=1)
    far = np.sqrt(5 * (((runs - np.log([num_params, tokens])) / process["length"]) ** 2).sum(axis=1))
    near = (1 + far + far**2 / 3) * np.exp(-far)
    apart = np.sqrt(5 * (((runs[:, None] - runs) / process["length"]) ** 2).sum(axis=2))
    correlations, noise = (1 + apart + apart**2 / 3) * np.exp(-apart), np.eye(len(runs))
    if process["trunks"]:
        code = np.array(process["trunks"]["code"])
        noise += np.where(code[:, None] == code, array(process["trunks"]["ratio"])[code], 0)
    left = sum(
        weight * max(1 - near @ np.linalg.solve(correlations + noise / ratio, near), 0)
        for _, ratio, weight in process["terms"]
    )
    return growth * near @ array(process["mean"]), growth**2 * left, growth**2 * process["noise"]
