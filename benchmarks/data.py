"""How fast text becomes tokens, and tokens become batches.

    python benchmarks/data.py [--megabytes 100] [--bpe-megabytes 12] [--rounds 5]

The text is the Python sources of the running interpreter and its packages, as JSON lines with one file per document.

- `bytes` runs the whole command in its own process, on the text and on three tenths of it. It reports the peak memory,
  which must not grow with the text.
- `bpe` compares our packing with the `tokenizers` library alone, on the same documents and tokenizer, interleaved
  A B C A B C. A figure is the median over rounds of the ratio of neighbours, in seconds and in CPU seconds of all
  threads (CPU seconds are reliable on a busy machine too). `library, encoded` leaves the tokens in the library's
  objects; `library, array` copies them into one NumPy array, as a plain script does.
- `batches` draws random windows of 1024 tokens from mapped shards.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from operator import truediv
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from allometry.data.corpus import load_corpus
from allometry.data.tokenizer import Subwords, train_bpe
from allometry.files import write_json
from allometry.tasks.windows import Windows

RESULTS = Path(__file__).parent / "results" / "data.json"
CONTEXT, BATCH = 1024, 64


def texts(most: int) -> Iterator[str]:
    """Python sources, different from each other, until there are so many bytes."""
    size, seen = 0, set()
    for root in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        for path in sorted(Path(root).rglob("*.py")):
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            if text in seen or "\0" in text or not text.strip():
                continue
            seen.add(text)
            size += len(text.encode())
            yield text
            if size >= most:
                return


def write_rows(path: Path, most: int) -> float:
    """A JSON-lines file of the texts; the megabytes of text in it."""
    size = 0
    with path.open("w") as file:
        for text in texts(most):
            file.write(json.dumps({"text": text}) + "\n")
            size += len(text.encode())
    return size / 1e6


def command(source: Path, out: Path) -> dict[str, float]:
    """Seconds and peak memory of ``allometry data`` by bytes, in a process of its own."""
    arguments = [sys.executable, "-m", "allometry", "data", str(source), "--out", str(out), "--json"]
    begin = time.perf_counter()
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{arguments}: exit status {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return {
        "seconds": round(time.perf_counter() - begin, 2),
        "cpu seconds": round(cpu, 2),
        "peak MB": round(usage.ru_maxrss / 1e3),
    }


def encoders(tokenizer: Subwords) -> dict[str, Callable[[list[bytes]], object]]:
    """Three ways to encode the same documents with the same tokenizer."""
    import tokenizers

    plain = tokenizers.Tokenizer.from_str(tokenizer.content.decode())

    def encoded(documents: list[bytes]) -> object:
        return plain.encode_batch_fast([text.decode() for text in documents], add_special_tokens=False)

    def array(documents: list[bytes]) -> object:
        encodings = plain.encode_batch_fast([text.decode() for text in documents], add_special_tokens=False)
        return np.concatenate([np.array(one.ids, np.uint16) for one in encodings])

    return {
        "library, encoded": encoded,
        "library, array": array,
        "ours": lambda documents: tokenizer.pack(documents, begun=False),
    }


def measure_bpe(megabytes: float, rounds: int) -> dict[str, object]:
    """Megabytes a second of each way, and the medians of the ratios of neighbours."""
    documents = [text.encode() for text in texts(int(megabytes * 1e6))]
    size = sum(map(len, documents)) / 1e6
    begin = time.perf_counter()
    tokenizer = train_bpe("bpe:8192", 8192, (text.decode() for text in documents))
    trained = time.perf_counter() - begin
    ways = encoders(tokenizer)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, encode in ways.items():
            begin, busy = time.perf_counter(), time.process_time()
            encode(documents)
            seconds[name].append(time.perf_counter() - begin)
            cpu[name].append(time.process_time() - busy)
    return {
        "MB": round(size, 1),
        "training, s": round(trained, 1),
        **{f"{name}, MB/s": round(size / statistics.median(times), 2) for name, times in seconds.items()},
        **{
            f"ours/{name}, {of}": round(statistics.median(map(truediv, times[name], times["ours"])), 3)
            for of, times in (("seconds", seconds), ("CPU", cpu))
            for name in list(ways)[:2]
        },
        "rounds": rounds,
    }


def measure_batches(folder: Path) -> dict[str, float]:
    """Tokens a second in random windows."""
    corpus = load_corpus(folder)
    windows = Windows(corpus.train, CONTEXT, seed=0)
    windows.batch(0, BATCH)
    begin, batches = time.perf_counter(), 0
    while time.perf_counter() - begin < 2:
        windows.batch(batches * BATCH, BATCH)
        batches += 1
    rate = batches * BATCH * CONTEXT / (time.perf_counter() - begin)
    return {"tokens/s": round(rate), "shards": len(getattr(corpus.train, "parts", [0]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--bpe-megabytes", type=float, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    result: dict[str, object] = {
        "command": " ".join(["benchmarks/data.py", *sys.argv[1:]]),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load at the start": round(os.getloadavg()[0], 1),
        "bytes": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        for share in (0.3, 1.0):
            rows, out = Path(folder, f"{share}.jsonl"), Path(folder, str(share))
            size = write_rows(rows, int(share * given.megabytes * 1e6))
            row = {"MB": round(size, 1), **command(rows, out)}
            result["bytes"].append(row | {"MB/s": round(size / row["seconds"], 1)})
            print(result["bytes"][-1], flush=True)
        result["batches"] = measure_batches(Path(folder, "1.0"))
        print(result["batches"], flush=True)
    result["bpe"] = measure_bpe(given.bpe_megabytes, given.rounds)
    print(result["bpe"])
    write_json(given.output, result)


if __name__ == "__main__":
    main()
