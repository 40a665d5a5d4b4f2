"""From a text to a trained ladder, a law, a plan, and the planned model held against its prediction. Needs [train]."""

import random
from pathlib import Path

from allometry import workflow

# Stands for your text: sentences drawn from few words, so that tiny models learn them in seconds.
rng = random.Random(0)
words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 6))) for _ in range(100)]
Path("text.txt").write_text("\n".join(" ".join(rng.choices(words, k=10)) for _ in range(4000)))

config = workflow.StudyConfig(
    data="text.txt", context=32, widths=(16, 24, 32), tokens=(15_000, 30_000, 60_000), sweep=False, batch_tokens=1024
)
study = workflow.train_ladder(config, "study")  # nine small models; interrupted, the same call goes on
for record in study.records("ladder"):
    print(f"{record.config.num_params:6d} parameters  {record.config.tokens:6d} tokens  loss {record.loss:.3f}")

forecast = workflow.fit_runs("study")
plan = workflow.plan("study", flops=2e10)  # the prediction is written to study/plan.json before the training
outcome = workflow.train_plan("study")
print(f"predicted {outcome.predicted:.3f} [{outcome.low:.3f}, {outcome.high:.3f}], actual {outcome.actual:.3f}")
