"""Make the files of finished runs in this folder with the real tools: small models, two sizes each, a few steps.

    python make_run_files.py [hugging_face] [lightning] [mlflow] [optuna]

Needs transformers, accelerate, tensorboard, wandb, lightning, mlflow, optuna and torch; nothing is sent anywhere
(W&B is offline). The logs of nanoGPT, nanochat, torchtitan, Lingua and OLMo-core beside them were not made by
those programs, which no package index has: they are written in the form that their public sources print.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).parent
SIZES = (8, 16)
LENGTH = 16


def hugging_face() -> None:
    """Trainer on GPT-2 of two widths: checkpoint folders, event files, offline W&B."""
    import wandb
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DISABLE_GIT": "true"}
    torch.manual_seed(0)
    rows = torch.randint(0, 4, (256, LENGTH)).cumsum(1) % 64
    data = [{"input_ids": row, "labels": row} for row in rows]
    for width in SIZES:
        out = Path("hugging_face", f"gpt2-{width}")
        out.mkdir(parents=True)
        settings = wandb.Settings(
            x_disable_meta=True, x_disable_stats=True, console="off", host="machine", program="train.py"
        )
        wandb.init(project="ladder", name=out.name, dir=str(out), settings=settings)
        config = GPT2Config(vocab_size=64, n_positions=LENGTH, n_embd=width, n_layer=2, n_head=2)
        arguments = TrainingArguments(
            output_dir=str(out),
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            max_steps=20,
            learning_rate=1e-2,
            logging_steps=5,
            eval_strategy="steps",
            eval_steps=10,
            save_strategy="steps",
            save_steps=10,
            include_num_input_tokens_seen="all" if width == 8 else "no",
            report_to=["tensorboard", "wandb"],
            use_cpu=True,
            disable_tqdm=True,
            seed=width,
        )
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(out / "runs")
        Trainer(GPT2LMHeadModel(config), arguments, train_dataset=data[:200], eval_dataset=data[200:]).train()
        wandb.finish()
        keep = {"trainer_state.json", "config.json", "model.safetensors", "training_args.bin"}
        for path in sorted(out.rglob("*"), reverse=True):
            logs = path.name.startswith("events.out") or path.suffix == ".wandb"
            if path.is_symlink() or (path.is_file() and not logs and path.name not in keep):
                path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        for events in sorted(out.rglob("events.out*")):  # without the name of the machine
            (out / "runs").mkdir(exist_ok=True)
            events.rename(out / "runs" / f"events.out.tfevents.{width}")


def lightning() -> None:
    """Lightning's CSVLogger with a monitor of the rate and saved hyperparameters."""
    import lightning as L
    from lightning.pytorch.callbacks import LearningRateMonitor
    from lightning.pytorch.loggers import CSVLogger
    from torch import nn

    class Net(L.LightningModule):
        def __init__(self, width: int, lr: float, batch_size: int):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))
            self.save_hyperparameters({"num_params": sum(p.numel() for p in self.parameters())})

        def loss(self, batch, name):
            x, y = batch
            value = nn.functional.mse_loss(self.net(x), y) + 1
            self.log(name, value, on_step=name == "train_loss", on_epoch=name != "train_loss")
            return value

        def training_step(self, batch, index):
            return self.loss(batch, "train_loss")

        def validation_step(self, batch, index):
            self.loss(batch, "val_loss")

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), self.hparams.lr)
            return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 10), "interval": "step"}]

    torch.manual_seed(0)
    x = torch.randn(160, 4)
    data = torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True).sin())
    for width in SIZES:
        train = torch.utils.data.DataLoader(data, batch_size=8)
        trainer = L.Trainer(
            max_epochs=2,
            logger=CSVLogger(".", name="lightning"),
            callbacks=[LearningRateMonitor("step")],
            log_every_n_steps=5,
            accelerator="cpu",
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Net(width, 0.1, 8), train, torch.utils.data.DataLoader(data, batch_size=32))


def mlflow() -> None:
    """Two finished runs, a failed one and one of another experiment in a SQLite store."""
    import mlflow as tool

    path = Path("mlflow", "mlflow.db")
    path.parent.mkdir()
    tool.set_tracking_uri(f"sqlite:///{path}")
    tool.set_experiment("ladder")
    for width, status in zip((*SIZES, 32), ("FINISHED", "FINISHED", "FAILED"), strict=True):
        tags = {"mlflow.source.name": "train.py", "mlflow.source.git.commit": ""}
        with tool.start_run(run_name=f"width-{width}", tags=tags):
            n = 100 * width**2
            tool.log_params(
                {"n_params": n, "learning_rate": 0.01, "batch_size": 8, "block_size": 32, "max_steps": 40, "seed": 1}
            )
            for step in range(10, 41, 10):
                loss = 3 + 40 / n**0.4 + 20 / step
                tool.log_metrics({"train_loss": loss, "val_loss": loss + 0.1, "tokens": step * 256}, step=step)
            if status == "FAILED":
                tool.end_run("FAILED")
    _shrink(path)


def optuna() -> None:
    """A study whose trials vary size and rate; one is pruned."""
    import optuna as tool

    path = Path("optuna", "optuna.db")
    path.parent.mkdir()
    study = tool.create_study(study_name="ladder", storage=f"sqlite:///{path}", sampler=tool.samplers.RandomSampler(0))

    def objective(trial):
        n = trial.suggest_categorical("n_params", [10_000, 40_000])
        lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
        trial.set_user_attr("tokens", 1_000_000)
        for step in (100, 200):
            trial.report(4 - step / 400, step)
        if trial.number == 2:
            raise tool.TrialPruned
        return 3 + 40 / n**0.4 + lr

    study.optimize(objective, n_trials=4)
    frame = study.trials_dataframe()
    frame.to_csv(path.with_name("trials.csv"))
    _shrink(path)


def _shrink(path: Path) -> None:
    with sqlite3.connect(path) as store:
        store.execute("PRAGMA page_size = 512")  # most of a page of an empty table is empty
        store.execute("VACUUM")
    store.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # the tools write paths into their files
        os.chdir(folder)
        for name in sys.argv[1:] or ("hugging_face", "lightning", "mlflow", "optuna"):
            globals()[name]()
            shutil.rmtree(HERE / name, ignore_errors=True)
            shutil.copytree(name, HERE / name)
        os.chdir(HERE)
