"""A run that is interrupted and resumed ends exactly as one that was not."""

import csv
import json

import pytest
import torch
from lightning import Callback

from pneumonia.errors import PneumoniaError
from pneumonia.evaluation.predictions import PredictionTable


class InterruptedTestError(Exception):
    """Stands for the power cut."""


class StopAt(Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            raise InterruptedTestError


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_ends_bit_identical(train, tmp_path, workers):
    settings = (
        f"data.num_workers={workers}",
        "model.drop_rate=0.2",
        "model.drop_path_rate=0.1",
        "trainer.max_epochs=4",
    )
    train(*settings, directory=tmp_path / "whole")

    stop = f"+callbacks.stop={{_target_: {__name__}.StopAt, epoch: 2}}"
    with pytest.raises(InterruptedTestError):
        train(*settings, stop, directory=tmp_path / "first")
    last = tmp_path / "first" / "checkpoints" / "last.ckpt"
    train(*settings, f"ckpt_path={last}", directory=tmp_path / "second")

    def weights(run, name):
        return torch.load(tmp_path / run / "checkpoints" / name, weights_only=True)["state_dict"]

    for name in ("last.ckpt", "best.ckpt"):
        whole, resumed = weights("whole", name), weights("second", name)
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole), name

    def metrics(run):
        return json.loads((tmp_path / run / "metrics.json").read_text())

    assert metrics("whole") == metrics("second")
    logits = [
        PredictionTable.read(tmp_path / r / "predictions.csv").logit for r in ("whole", "second")
    ]
    assert (logits[0] == logits[1]).all()

    def final_epoch(run):
        with (tmp_path / run / "csv" / "metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["epoch"] == "3"]
        return {
            key: value
            for row in rows
            for key, value in row.items()
            if value and key not in ("train/images_per_second", "step")
        }

    assert final_epoch("whole") == final_epoch("second")


def test_a_resume_without_its_best_checkpoint_is_refused(train, tmp_path):
    train("trainer.max_epochs=1", "test=false", directory=tmp_path / "first")
    checkpoints = tmp_path / "first" / "checkpoints"
    (checkpoints / "best.ckpt").unlink()
    with pytest.raises(PneumoniaError, match=r"best\.ckpt is missing"):
        train(
            "trainer.max_epochs=1",
            f"ckpt_path={checkpoints / 'last.ckpt'}",
            directory=tmp_path / "second",
        )


def test_a_sealed_checkpoint_is_not_trained_on(train, tmp_path):
    train("trainer.max_epochs=1", "test=false", directory=tmp_path / "first")
    best = tmp_path / "first" / "checkpoints" / "best.ckpt"
    with pytest.raises(PneumoniaError, match=r"is sealed for use .* last\.ckpt beside it"):
        train(f"ckpt_path={best}", directory=tmp_path / "second")


def test_a_schedule_of_a_length_that_the_user_gave_resumes(train, tmp_path):
    schedule = ("model.schedule.name=CosineAnnealingLR", "+model.schedule.T_max=500")
    short = ("~model.schedule.pct_start", "test=false", "trainer.max_epochs=1")
    train(*schedule, *short, directory=tmp_path / "first")
    last = tmp_path / "first" / "checkpoints" / "last.ckpt"
    train(*schedule, *short[:2], f"ckpt_path={last}", directory=tmp_path / "second")


def test_a_resume_with_another_length_of_schedule_is_refused(train, tmp_path):
    train("trainer.max_epochs=1", "test=false", directory=tmp_path / "first")
    last = tmp_path / "first" / "checkpoints" / "last.ckpt"
    with pytest.raises(PneumoniaError, match=r"schedule of 5 steps .* this run has 10"):
        train("trainer.max_epochs=2", f"ckpt_path={last}", directory=tmp_path / "second")
