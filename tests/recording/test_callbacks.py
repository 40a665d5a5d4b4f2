"""The callbacks of the usual trainers, each run by the real one; skipped where it is not installed."""

import math
import os

import pytest
import torch

from allometry.recording import for_keras, for_lightning, for_trainer
from allometry.recording.trainer_callback import scores_in
from allometry.runs.study import Study


def only_record(study):
    [record] = Study.open(study).records("ladder")
    return record


@pytest.fixture
def gpt2():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    return transformers, transformers.GPT2LMHeadModel(config)


class Sentences(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, place):
        ids = (torch.arange(16) + place) % 40
        return {"input_ids": ids, "labels": ids}


def hugging_face(transformers, model, study, folder, steps=12, **options):
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=steps,
        learning_rate=3e-3,
        logging_steps=3,
        eval_steps=6,
        save_steps=4,
        seed=5,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **options,
    )
    return transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=Sentences(),
        eval_dataset=Sentences(),
        callbacks=[for_trainer(study, row_tokens=16)],
    )


def test_hugging_faces_trainer_is_recorded(gpt2, tmp_path):
    transformers, model = gpt2
    trainer = hugging_face(transformers, model, tmp_path / "s", tmp_path / "out", eval_strategy="steps")
    trainer.train()
    record = only_record(tmp_path / "s")
    assert (record.tokens, record.batch_tokens, record.lr) == (12 * 4 * 2 * 16, 128, 3e-3)
    assert record.row()["seed"] == 5
    total = sum(p.numel() for p in model.parameters())
    assert record.counts()["num_params_total"] == total
    assert record.num_params == total - 40 * 16 - 16 * 16  # without the tied table of tokens, and that of positions
    last = [row for row in trainer.state.log_history if "eval_loss" in row][-1]
    assert record.loss == pytest.approx(last["eval_loss"])
    assert [tokens for tokens, _ in Study.open(tmp_path / "s").curve(record.id)] == [384, 768, 1152, 1536]


def test_an_evaluation_after_the_training_finishes_the_run(gpt2, tmp_path):
    transformers, model = gpt2
    trainer = hugging_face(transformers, model, tmp_path / "s", tmp_path / "out", eval_strategy="no")
    with pytest.warns(UserWarning, match="no held-out loss yet"):
        trainer.train()
    assert Study.open(tmp_path / "s").records() == []
    metrics = trainer.evaluate()
    assert only_record(tmp_path / "s").loss == pytest.approx(metrics["eval_loss"])


def test_lightning_is_recorded(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

    class Line(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def error(self, batch):
            x, y = batch
            return torch.nn.functional.mse_loss(self.layer(x), y)

        def training_step(self, batch, _):
            loss = self.error(batch)
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch, _):
            self.log("val_loss", self.error(batch))
            self.log("val_accuracy", torch.tensor(0.25))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05)

    lightning.seed_everything(3)
    x = torch.randn(64, 4)
    rows = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True)), batch_size=8)
    model = Line()
    trainer = lightning.Trainer(
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=4,
        accelerator="cpu",
        callbacks=[for_lightning(tmp_path / "s", row_tokens=1, unit="row", loss_unit="squared error")],
    )
    trainer.fit(model, rows, rows)
    record = only_record(tmp_path / "s")
    assert (record.tokens, record.batch_tokens, record.lr, record.num_params) == (24 * 8, 8, 0.05, 5)
    assert record.row()["seed"] == 3
    assert record.loss == pytest.approx(float(trainer.callback_metrics["val_loss"]))
    assert record.scores["accuracy"].value == pytest.approx(0.25)
    assert math.isnan(record.scores["accuracy"].error)
    assert record.loss_unit == "squared error"
    assert len(Study.open(tmp_path / "s").curve(record.id)) == 6
    os.environ.pop("PL_GLOBAL_SEED", None)


def test_keras_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="keras is not installed")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    x = torch.randn(80, 4).numpy()
    y = x.argmax(1) % 3
    callback = for_keras(tmp_path / "s", batch_tokens=8, unit="row", seed=0)
    history = model.fit(x, y, batch_size=8, epochs=3, validation_data=(x, y), verbose=0, callbacks=[callback])
    record = only_record(tmp_path / "s")
    assert (record.tokens, record.num_params, record.counted) == (240, 15, "total")
    assert record.lr == pytest.approx(0.01)
    assert record.loss == pytest.approx(history.history["val_loss"][-1])
    assert record.scores["accuracy"].value == pytest.approx(history.history["val_accuracy"][-1])
    assert len(Study.open(tmp_path / "s").curve(record.id)) >= 3


def test_scores_are_the_metrics_of_the_evaluation_but_its_speed():
    metrics = {"eval_loss": 2.0, "eval_accuracy": 0.5, "eval_runtime": 3.0, "epoch": 1.0, "eval_name": "x"}
    assert scores_in(metrics, "eval_loss", "eval_") == {"accuracy": 0.5}
