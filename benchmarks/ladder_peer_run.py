"""One run as most people train it: Hugging Face `Trainer`, `GPT2LMHeadModel`, all defaults that do not shape the run.

    python ladder_peer_run.py TOKENS.npy WIDTH LAYERS HEADS CONTEXT BATCH STEPS LEARNING_RATE [HELD_OUT.npy]

Prints one JSON line: seconds a step (the lower quartile: what else the machine does only adds), seconds from the first
step to the last, and the held-out loss if asked.
Needs `pip install transformers accelerate`.
"""

import json
import statistics
import sys
import time

import numpy as np
import torch
import transformers

VOCAB = 256


class Windows(torch.utils.data.Dataset):
    def __init__(self, path: str, context: int):
        tokens = np.load(path)
        self.rows = torch.from_numpy(tokens[: len(tokens) // context * context].reshape(-1, context).astype(np.int64))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[place], "labels": self.rows[place]}


class Clock(transformers.TrainerCallback):
    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, *_, **__) -> None:
        self.ends.append(time.perf_counter())


def main() -> None:
    train, width, layers, heads, context, batch, steps = sys.argv[1], *map(int, sys.argv[2:8])
    transformers.set_seed(0)
    shape = {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": context, "vocab_size": VOCAB}
    config = transformers.GPT2Config(**shape, bos_token_id=0, eos_token_id=0)
    arguments = transformers.TrainingArguments(
        output_dir="unused",
        max_steps=steps,
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=32,
        learning_rate=float(sys.argv[8]),
        warmup_steps=min(20, steps // 5),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    clock = Clock()
    model = transformers.GPT2LMHeadModel(config)
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=Windows(train, context), callbacks=[clock]
    )
    trainer.train()
    trained = time.perf_counter()
    between = [later - earlier for earlier, later in zip(clock.ends[5:], clock.ends[6:], strict=False)]
    found = {"step": statistics.quantiles(between, n=4)[0], "first_to_last": clock.ends[-1] - clock.ends[0]}
    if len(sys.argv) > 9:
        found["loss"] = trainer.evaluate(Windows(sys.argv[9], context))["eval_loss"]
    found["evaluation"] = time.perf_counter() - trained
    print(
        json.dumps(
            found | {"params": model.num_parameters(), "versions": [torch.__version__, transformers.__version__]}
        )
    )


if __name__ == "__main__":
    main()
