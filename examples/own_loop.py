"""Record the runs of a loop of one's own, gradient descent in NumPy, and predict one of eight times the compute."""

import numpy as np

import allometry
from allometry import laws

STUDY = "own_loop"


def train(run: allometry.Recorder | None, size: int, steps: int, batch: int = 32) -> float:
    """Fit `size` random features to a smooth function of eight inputs by SGD; the squared error on held-out points."""
    rng = np.random.default_rng(0)
    directions, offsets = rng.normal(size=(8, size)), rng.uniform(0, 2 * np.pi, size)
    features = lambda x: np.sqrt(2 / size) * np.cos(x @ directions / 2 + offsets)
    truth = lambda x: np.sin(x.sum(1)) + np.tanh(3 * x[:, 0] * x[:, 1])
    held_out, weights, mean = rng.normal(size=(2000, 8)) / 2, np.zeros(size), np.zeros(size)
    for step in range(steps):
        x = rng.normal(size=(batch, 8)) / 2
        error = features(x) @ weights - truth(x)
        weights -= 0.5 * features(x).T @ error / batch
        mean += (weights - mean) / min(step + 1, 200)
        if run and step % 50 == 0:
            run.log(step=step + 1, loss=np.mean(error**2))
    return float(np.mean((features(held_out) @ mean - truth(held_out)) ** 2))


for size in (16, 32, 64, 128):
    for steps in (200, 400, 800, 1600):
        stated = {"num_params": size, "batch_tokens": 32, "lr": 0.5, "tokens": 32 * steps}
        recorder = allometry.Recorder(STUDY, unit="point", loss_unit="squared error", **stated)
        if recorder.recorded:  # this file was run before
            continue
        with recorder as run:
            run.finish(loss=train(run, size, steps), tokens=32 * steps)

forecast = laws.forecast(laws.Observations.read(STUDY))
prediction = forecast.predict(num_params=256, tokens=32 * 6400)
actual = train(None, 256, 6400)
print(f"predicted {prediction.value:.4f} [{prediction.low:.4f}, {prediction.high:.4f}], actual {actual:.4f}")
