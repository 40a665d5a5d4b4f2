"""From what was logged to N, D, batch, rate and loss of a run: each with a sentence on how it was derived."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..field_names import COUNTED, DEVICE_BATCH, GLOBAL_BATCH, KNOWN, normalise, without_keeper
from .logged_run import Fact, LoggedRun, Series, number
from .shape_counts import counts_of_shape

# Of a run that logged no held-out loss, so much of its end is averaged.
END = 0.05
BITS = re.compile(r"bp[bc]$|bitsper(byte|char)$")
_TRAINING = """loss trainloss trainingloss trainlossepoch trainlossstep lossout celoss trainceloss lmloss
lossmetricsglobalavgloss traincrossentropyloss"""
TRAINING = frozenset(_TRAINING.split())
HELD_OUT = [name for name in KNOWN["loss"] if name not in ("l", "loss", "lmloss", "finalloss")]
RATES = re.compile(r"(^|/)(lr|learning_rate)([-/_. (].*)?$", re.IGNORECASE)
DATA_SIZES = ("datasize", "datasetsize", "data", "datatokens", "tokenbudget", "maxtokens")
TOKENS = [name for name in KNOWN["tokens"] if len(name) > 1 and name not in DATA_SIZES] + [
    "optimtotaltokens",
    "throughputtotaltokens",
]
STEPS = ("maxsteps", "numtrainsteps", "trainsteps", "totalsteps", "maxiters", "numiterations", "steps", "numsteps")
FINISHED = frozenset({"finished", "complete", "completed", "done", "success", "succeeded"})


@dataclass(frozen=True)
class FinishedRun:
    """One run with all that is known of it.

    Attributes:
        tool, name, source: who wrote it, what it is called, where it was read.
        counts: what is counted ("non_embedding", "matmul", "total", "active", "unknown") → parameters.
        numbers: field → value: tokens, loss, and where known batch_tokens, steps, lr, seed, flops, sequence_length.
        how: field → how it was derived, a sentence without its subject.
        loss_unit: "nats per token", or "bits per byte".
        points: along the run: arrays step, loss (of training), lr, tokens; nan where unknown.
        status: "finished", or what its tool calls its state.
        missing: what no law can do without, and is not known.
        settings: its other settings.
        notes: what a reader left out.
    """

    tool: str
    name: str
    source: str
    counts: dict[str, float]
    numbers: dict[str, float]
    how: dict[str, str]
    loss_unit: str
    points: dict[str, np.ndarray]
    status: str
    missing: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        return self.status in FINISHED


def finished_run(run: LoggedRun, given: Mapping[str, float]) -> FinishedRun:
    """Derive what a law needs from what a tool left.

    Args:
        run: as its reader found it.
        given: field → number that the user states, which goes before all else.
    """
    facts = _Facts(run, given)
    facts.count()
    facts.training()
    facts.loss()
    values = {name: fact.value for name, fact in facts.known.items()}
    counts = {
        name.removeprefix("num_params_"): values.pop(name) for name in list(values) if name.startswith("num_params_")
    }
    how = {name: fact.how for name, fact in facts.known.items()}
    missing = [name for name in ("tokens", "loss") if name not in values]
    missing = [*([] if counts else ["num_params"]), *missing]
    for internal in ("matmul_flops", "params_in_flos", "accumulation", "processes", "batch_sequences"):
        values.pop(internal, None)
    return FinishedRun(
        run.tool,
        run.name,
        str(run.path),
        counts,
        values,
        how,
        facts.loss_unit,
        facts.points(),
        run.status,
        tuple(missing),
        {name: value for name, value in run.settings.items() if value is not None},
        tuple(run.notes),
    )


class _Facts:
    """What is known of one run, field by field."""

    def __init__(self, run: LoggedRun, given: Mapping[str, float]):
        self.run = run
        self.known: dict[str, Fact] = dict(run.facts)
        self.loss_unit = "nats per token"
        for name, value in given.items():
            self.known[f"{name}_unknown" if name == "num_params" else name] = Fact(value, "given")
        self.settings: dict[str, tuple[str, Any]] = {}
        for key, value in run.settings.items():
            for form in (key, without_keeper(key), key.rsplit(".", 1)[-1].rsplit("/", 1)[-1]):
                self.settings.setdefault(normalise(form), (key, value))

    def setting(self, words: Any) -> Fact | None:
        """The first setting of such a name that is a number above zero."""
        for word in words:
            if word in self.settings and number(self.settings[word][1]) > 0:
                key, value = self.settings[word]
                return Fact(number(value), f"{key!r} of the settings")
        return None

    def learn(self, name: str, fact: Fact | None) -> None:
        """Keep what is known first."""
        if fact is not None and np.isfinite(fact.value):
            self.known.setdefault(name, fact)

    def series(self, words: Any) -> tuple[str, Series] | None:
        """The first series of such a name."""
        names = {normalise(form): name for name in self.run.series for form in (without_keeper(name), name)}
        return next(((names[word], self.run.series[names[word]]) for word in words if word in names), None)

    def last(self, words: Any) -> Fact | None:
        """The last value of a series of such a name, or that of the summary."""
        if (one := self.series(words)) is not None:
            return Fact(one[1].values[-1], f"the last {one[0]!r}")
        summary = {normalise(form): name for name in self.run.summary for form in (without_keeper(name), name)}
        name = next((summary[word] for word in words if word in summary), None)
        return None if name is None else Fact(self.run.summary[name], f"{name!r} of the summary")

    def count(self) -> None:
        """Parameters under every convention that is known."""
        if "num_params_unknown" in self.known:
            for name in [
                name for name in self.known if name.startswith("num_params_") and name != "num_params_unknown"
            ]:
                del self.known[name]
            return
        for counted, words in COUNTED.items():
            self.learn(f"num_params_{counted}", self.setting(words.split()) or self.last(words.split()))
        whole = self.setting(["modelnumparameters"])  # what Trainer tells its trackers: model.num_parameters()
        self.learn("num_params_total", whole)
        if not any(name.startswith("num_params_") for name in self.known):
            words = [word for word in KNOWN["num_params"] if len(word) > 1 and word != "modelnumparameters"]
            self.learn("num_params_unknown", self.setting(words) or self.last(words))
        if not any(name in self.known for name in ("num_params_non_embedding", "num_params_unknown")):
            for counted, fact in counts_of_shape(self.run.settings).items():
                self.learn("params_in_flos" if counted == "in_flos" else f"num_params_{counted}", fact)

    def training(self) -> None:
        """Steps, batch, tokens and rate."""
        curve = self.training_series()
        steps = [series.steps[-1] for series in self.run.series.values() if len(series)]
        if self.run.tool in ("optuna", "mlflow") or not steps:
            self.learn("steps", self.setting(STEPS))
        elif curve is not None and max(steps) > 0:
            self.learn("steps", Fact(max(steps), "the last step logged"))
        self.learn("sequence_length", self.setting([*KNOWN["sequence_length"], "maxpositionembeddings", "npositions"]))
        self._batch()
        self.learn("tokens", self.last(TOKENS) or self.setting(TOKENS))
        if {"steps", "batch_tokens"} <= self.known.keys():
            tokens = self.known["steps"].value * self.known["batch_tokens"].value
            self.learn("tokens", Fact(tokens, "steps · batch"))
        self.learn("matmul_flops", self.last(["totalflos", "traintotalflos"]))
        if {"matmul_flops", "params_in_flos"} <= self.known.keys():
            tokens = self.known["matmul_flops"].value / (6 * self.known["params_in_flos"].value)
            self.learn("tokens", Fact(tokens, "total_flos / (6 · parameters without embeddings)"))
        elif {"matmul_flops", "tokens"} <= self.known.keys():
            size = self.known["matmul_flops"].value / (6 * self.known["tokens"].value)
            self.learn("num_params_matmul", Fact(round(size), "total_flos / (6 · tokens)"))
        if {"tokens", "steps"} <= self.known.keys():
            self.learn("batch_tokens", Fact(self.known["tokens"].value / self.known["steps"].value, "tokens / steps"))
        rates = [name for name in self.run.series if RATES.search(name)]
        if rates:
            highest = Fact(max(self.run.series[rates[0]].values), f"the highest {rates[0]!r}")
            peak = self.setting(KNOWN["lr"])
            self.learn("lr", highest if peak is None or peak.value < 0.999 * highest.value else peak)
        self.learn("lr", self.setting(KNOWN["lr"]))
        if "lr" in self.known and not self.known["lr"].value > 0:
            del self.known["lr"]
        self.learn("seed", self.setting(KNOWN["seed"]))
        self.learn("flops", self.setting([word for word in KNOWN["flops"] if len(word) > 1 and word != "totalflos"]))

    def _batch(self) -> None:
        """The batch of a step in tokens; that of one device only with the number of processes."""
        self.learn("batch_tokens", self.setting(KNOWN["batch_tokens"]))
        length = self.known.get("sequence_length")
        if "batch_tokens" in self.known or length is None:
            return
        whole = self.setting(GLOBAL_BATCH.split())
        if whole is not None:
            if self.run.tool != "nanochat":
                whole = Fact(whole.value * length.value, f"{whole.how} · sequence length")
            self.learn("batch_tokens", whole)
            return
        pieces = self.known.get("accumulation") or self.setting(KNOWN["accumulation"]) or Fact(1, "no accumulation")
        processes = self.known.get("processes") or self.setting(KNOWN["processes"])
        for words, needs in ((DEVICE_BATCH.split(), True), (["batchsequences", *KNOWN["batch_sequences"]], False)):
            batch = self.known.get("batch_sequences") or self.setting(words)
            if batch is None:
                continue
            if needs and processes is None:
                return
            times = Fact(1, "one process") if processes is None else processes
            value = batch.value * pieces.value * times.value * length.value
            how = f"{batch.how} · {pieces.how} · {times.how} · sequence length"
            self.learn("batch_tokens", Fact(value, how))
            return

    def loss(self) -> None:
        """The held-out loss at the end; without one, the mean training loss of the end."""
        held_out = self.last(HELD_OUT) or self._named_held_out()
        if held_out is not None:
            self.learn("loss", held_out)
            name = held_out.how.split("'")[1] if "'" in held_out.how else ""
            if BITS.search(normalise(name)):
                self.loss_unit = "bits per byte"
        curve = self.training_series()
        if curve is not None:
            steps, values = np.array(curve[1].steps), np.array(curve[1].values)
            end = values[steps >= (1 - END) * steps.max()]
            end = end[np.isfinite(end)]
            if len(end):
                how = f"the mean {curve[0]!r} of the last {END:.0%} of the steps"
                self.learn("train_loss", Fact(float(end.mean()), how))
                self.learn("loss", Fact(float(end.mean()), f"{how}: no held-out loss was logged"))
        if self.run.tool == "optuna":
            value = self.run.summary.get("value")
            self.learn("loss", None if value is None else Fact(value, "the value of the trial"))
        if "loss" in self.known and not self.known["loss"].value > 0:
            del self.known["loss"]

    def _named_held_out(self) -> Fact | None:
        """A held-out loss by the parts of its name, as ``eval/wikitext/CE loss``; of several texts, the mean."""
        pattern = re.compile(r"(eval|valid|val|heldout|test).*(loss|bpb|ce$)", re.IGNORECASE)
        names = [name for name in self.run.series if pattern.search(name)]
        texts = [name for name in names if name.count("/") >= 2 and name.startswith("eval/lm/")]
        endings = {name.rsplit("/", 1)[-1] for name in texts}
        if len(texts) > 1 and len(endings) == 1:  # OLMo-core's validation sets
            mean = float(np.mean([self.run.series[name].values[-1] for name in texts]))
            return Fact(mean, f"the mean of the last of {len(texts)} 'eval/lm/…/{endings.pop()}'")
        names = texts or names
        return Fact(self.run.series[names[0]].values[-1], f"the last {names[0]!r}") if len(names) == 1 else None

    def training_series(self) -> tuple[str, Series] | None:
        named = [name for name in self.run.series if normalise(name) in TRAINING]
        named += [name for name in self.run.series if normalise(without_keeper(name)) in TRAINING and name not in named]
        if not named:
            return None
        name = max(named, key=lambda one: len(self.run.series[one]))
        return name, self.run.series[name]

    def points(self) -> dict[str, np.ndarray]:
        """The points of the curve: the training loss, with rate and tokens where they were logged or follow."""
        curve = self.training_series()
        if curve is None:
            return {}
        steps, losses = np.array(curve[1].steps), np.array(curve[1].values)
        kept = np.isfinite(losses) & (losses > 0)
        last = np.append(np.diff(steps) != 0, True) if len(steps) else kept
        kept &= last
        steps, losses = steps[kept], losses[kept]
        order = np.argsort(steps, kind="stable")
        steps, losses = steps[order], losses[order]
        rates = next((self.run.series[name] for name in self.run.series if RATES.search(name)), None)
        tokens = self.series(TOKENS)
        unknown = np.full(len(steps), np.nan)
        batch = self.known.get("batch_tokens")
        return {
            "step": steps,
            "loss": losses,
            "lr": unknown if rates is None else _at(steps, rates),
            "tokens": _at(steps, tokens[1])
            if tokens is not None
            else (unknown if batch is None else steps * batch.value),
        }


def _at(steps: np.ndarray, series: Series) -> np.ndarray:
    """The values of a series at other steps; between those logged on a line, outside as at the ends."""
    places, values = np.array(series.steps), np.array(series.values)
    order = np.argsort(places, kind="stable")
    return np.interp(steps, places[order], values[order]) if len(places) else np.full(len(steps), np.nan)
