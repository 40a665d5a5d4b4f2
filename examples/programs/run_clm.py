"""Causal language modelling with Hugging Face's Trainer, after its example of that name: GPT-2 from a configuration.

    python run_clm.py --config_overrides n_embd=64,n_layer=2,n_head=4 --train_file text.txt --do_train --do_eval \
        --max_steps 200 --learning_rate 1e-3 --output_dir out

Bytes are the tokens, so that nothing has to be downloaded.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, HfArgumentParser, Trainer, TrainingArguments, set_seed


@dataclass
class ModelArguments:
    config_overrides: str = field(default="", metadata={"help": "n_embd=64,n_layer=2,n_head=4"})


@dataclass
class DataArguments:
    train_file: str = field(metadata={"help": "A text file."})
    block_size: int = field(default=128)
    validation_split_percentage: int = field(default=10)


class Blocks(torch.utils.data.Dataset):
    """Consecutive blocks of a text."""

    def __init__(self, content: bytes, block_size: int):
        tokens = torch.frombuffer(bytearray(content), dtype=torch.uint8).long()
        self.blocks = tokens[: len(tokens) // block_size * block_size].view(-1, block_size)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.blocks[place], "labels": self.blocks[place]}


def main() -> None:
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainingArguments))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    set_seed(training_args.seed)
    config = GPT2Config(vocab_size=256, n_positions=data_args.block_size, bos_token_id=0, eos_token_id=0)
    config.update_from_string(model_args.config_overrides)
    model = GPT2LMHeadModel(config)
    print(f"Training new model from scratch - Total size={model.num_parameters()} params")
    content = Path(data_args.train_file).read_bytes()
    split = len(content) * (100 - data_args.validation_split_percentage) // 100
    train, held_out = (Blocks(part, data_args.block_size) for part in (content[:split], content[split:]))
    trainer = Trainer(model=model, args=training_args, train_dataset=train, eval_dataset=held_out)
    if training_args.do_train:
        result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
        trainer.log_metrics("train", result.metrics)
        trainer.save_metrics("train", result.metrics)
        trainer.save_state()
    if training_args.do_eval:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)


if __name__ == "__main__":
    main()
