"""One run as most people train it, for `ladder_peers.py`: Hugging Face's `Trainer`, `GPT2LMHeadModel`, defaults.

    python benchmarks/ladder_peer_run.py TOKENS.npy WIDTH LAYERS HEADS CONTEXT BATCH STEPS RATE [HELD_OUT.npy] [--bf16]

Prints one JSON line: seconds a step and the processor's seconds a step (the lower quartile of each, since other work on
the machine only adds time), seconds from the first step to the last, the processor's seconds of the rest, and the
held-out loss if HELD_OUT.npy is given. Needs `pip install transformers accelerate`.
"""

import argparse
import json
import statistics
import time
from itertools import pairwise

import numpy as np
import torch

VOCAB = 256


class Windows(torch.utils.data.Dataset):
    def __init__(self, path: str, context: int):
        tokens = np.load(path)
        self.rows = torch.from_numpy(tokens[: len(tokens) // context * context].reshape(-1, context).astype(np.int64))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[place], "labels": self.rows[place]}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens", metavar="TOKENS.npy")
    for name in ("width", "layers", "heads", "context", "batch", "steps"):
        parser.add_argument(name, type=int)
    parser.add_argument("learning_rate", type=float)
    parser.add_argument("held_out", metavar="HELD_OUT.npy", nargs="?")
    parser.add_argument("--bf16", action="store_true", help="mixed precision, as the Trainer has it")
    return parser.parse_args()


def main() -> None:
    given = parse()
    import transformers  # after --help, which needs no peer

    ends: list[float] = []
    processor: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_, **__) -> None:
            ends.append(time.perf_counter())
            processor.append(time.process_time())

    transformers.set_seed(0)
    shape = {"n_embd": given.width, "n_layer": given.layers, "n_head": given.heads, "n_positions": given.context}
    config = transformers.GPT2Config(**shape, vocab_size=VOCAB, bos_token_id=0, eos_token_id=0)
    arguments = transformers.TrainingArguments(
        output_dir="unused",
        max_steps=given.steps,
        per_device_train_batch_size=given.batch,
        per_device_eval_batch_size=32,
        learning_rate=given.learning_rate,
        warmup_steps=min(20, given.steps // 5),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=given.bf16,
    )
    model = transformers.GPT2LMHeadModel(config)
    windows = Windows(given.tokens, given.context)
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=windows, callbacks=[Clock()])
    trainer.train()
    trained = time.perf_counter()
    quartile = lambda moments: statistics.quantiles([later - earlier for earlier, later in pairwise(moments[5:])], n=4)[
        0
    ]
    result = {"step": quartile(ends), "step_processor": quartile(processor), "first_to_last": ends[-1] - ends[0]}
    if given.held_out:
        result["loss"] = trainer.evaluate(Windows(given.held_out, given.context))["eval_loss"]
    result["evaluation"] = time.perf_counter() - trained
    result["around_processor"] = time.process_time() - (processor[-1] - processor[0])
    result |= {"params": model.num_parameters(), "versions": [torch.__version__, transformers.__version__]}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
