"""Handwritten digits by a multilayer perceptron of scikit-learn, on a stream of shifted and noisy images; no torch.

python digits.py --hidden 32 --samples 20000 --rate 1e-3 --out out
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

CHUNK = 2000


def varied(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image shifted by up to one pixel and made noisy."""
    shifts = rng.integers(-1, 2, (len(images), 2))
    moved = np.stack([np.roll(image, shift, (0, 1)) for image, shift in zip(images, shifts, strict=True)])
    return (moved + rng.normal(0, 3.0, moved.shape)).reshape(len(images), -1) / 16


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
    seen = 0
    while seen < args.samples:
        picked = rng.choice(train, min(CHUNK, args.samples - seen))
        model.learning_rate_init = args.rate
        model.partial_fit(varied(images[picked], rng), labels[picked], classes=np.arange(10))
        seen += len(picked)
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
