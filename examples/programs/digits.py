"""Handwritten digits by a multilayer perceptron of scikit-learn, on a stream of turned, noisy images; no torch.

python digits.py --hidden 32 --samples 20000 --rate 1e-3 --out out
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

CHUNK = 500


def varied(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image turned, shifted by up to a pixel, and made noisy."""
    count, size = images.shape[:2]
    angle, (down, right) = rng.normal(0, 0.2, (count, 1, 1)), rng.uniform(-1, 1, (2, count, 1, 1))
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    rows = np.cos(angle) * y + np.sin(angle) * x + down + (size - 1) / 2
    columns = np.cos(angle) * x - np.sin(angle) * y + right + (size - 1) / 2
    places = np.broadcast_to(np.arange(count)[:, None, None], rows.shape)
    moved = map_coordinates(images, [places, rows, columns], order=1)
    return (moved + rng.normal(0, 2.0, moved.shape)).reshape(count, -1) / 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out"))
    args = parser.parse_args()
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8)
    order = np.random.default_rng(0).permutation(len(images))
    held_out, train = order[:400], order[400:]
    test_images = np.concatenate([varied(images[held_out], np.random.default_rng(seed)) for seed in range(5)])
    test_labels = np.tile(labels[held_out], 5)
    rng = np.random.default_rng(args.seed + 1)
    model = MLPClassifier((args.hidden,), learning_rate_init=args.rate, batch_size=args.batch, random_state=args.seed)
    seen, kept, means = 0, 0, []
    while seen < args.samples:
        picked = rng.choice(train, min(CHUNK, args.samples - seen))
        model.partial_fit(varied(images[picked], rng), labels[picked], classes=np.arange(10))
        seen += len(picked)
        if seen > 0.75 * args.samples:  # the mean weights of the last quarter: far less noisy than the last ones
            parts, kept = [*model.coefs_, *model.intercepts_], kept + 1
            means = means or [np.zeros_like(part) for part in parts]
            for mean, part in zip(means, parts, strict=True):
                mean += (part - mean) / kept
    layers = len(model.coefs_)
    model.coefs_, model.intercepts_ = means[:layers], means[layers:]
    probability = model.predict_proba(test_images)
    losses = -np.log(np.maximum(probability[np.arange(len(test_labels)), test_labels], 1e-12))
    accuracy = (probability.argmax(1) == test_labels).mean()
    args.out.mkdir(parents=True, exist_ok=True)
    with open(args.out / "scores.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["log_loss", "log_loss_error", "accuracy", "weights"])
        weights = sum(part.size for part in (*model.coefs_, *model.intercepts_))
        writer.writerow([losses.mean(), losses.std() / np.sqrt(len(losses)), accuracy, weights])


if __name__ == "__main__":
    main()
