"""One run from the entry point: what it leaves behind, and what it refuses."""

import csv
import json
import logging
import shutil
import subprocess
import sys

import pytest
import torch
from lightning import Trainer
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.errors import ConfigError, DataError, PneumoniaError
from pneumonia.evaluation.abstention import Abstention
from pneumonia.evaluation.predictions import PredictionTable, sigmoid
from pneumonia.evaluation.threshold import OperatingPoint
from pneumonia.inference.predictor import InferenceModel
from pneumonia.model.lightning_module import PneumoniaClassifier
from pneumonia.training.errors import check_run

METRICS = {
    "accuracy",
    "precision",
    "recall",
    "specificity",
    "f1",
    "balanced_accuracy",
    "auroc",
    "average_precision",
    "loss",
}


@pytest.fixture(scope="module", name="run_directory")
def run_directory_fixture(tmp_path_factory, synthetic, cli):
    """A run of two epochs, made once by the real command line."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    done = cli(f"data.root={synthetic}", f"hydra.run.dir={directory}")
    assert done.returncode == 0, done.stderr
    (directory / "stdout.txt").write_text(done.stdout)
    return directory


def test_it_prints_where_to_look_next_and_recall_beside_specificity(run_directory):
    printed = (run_directory / "stdout.txt").read_text()
    assert str(run_directory / "checkpoints" / "best.ckpt") in printed
    assert "tensorboard --logdir" in printed
    row = next(line for line in printed.splitlines() if "recall" in line)
    assert "specificity" in row


def metrics_of(run_directory):
    return json.loads((run_directory / "metrics.json").read_text())


def test_metrics_json_holds_every_metric_with_its_interval(run_directory):
    metrics = metrics_of(run_directory)
    for name in METRICS | {"sensitivity", "n", "n_positive", "mcc", "brier", "ece"}:
        assert set(metrics[f"test/{name}"]) == {"value", "low", "high", "method"}
    for name in ("recall", "specificity", "accuracy"):
        for prefix in ("test/at_0.5", "test/bacterial", "test/viral"):
            assert 0 <= metrics[f"{prefix}/{name}"]["value"] <= 1
    assert metrics["test/recall"] == metrics["test/sensitivity"]


def test_torchmetrics_agrees_with_the_written_metrics(run_directory, synthetic):
    checkpoint = run_directory / "checkpoints" / "best.ckpt"
    model = PneumoniaClassifier.load_from_checkpoint(checkpoint, weights_only=True)
    datamodule = ChestXrayDataModule(synthetic, image_size=32, num_workers=0)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    (logged,) = trainer.test(model, datamodule, verbose=False)
    metrics = metrics_of(run_directory)
    for name in METRICS - {"loss", "auroc", "average_precision"}:
        written = metrics[f"test/at_0.5/{name}"]["value"]
        assert logged[f"test/{name}"] == pytest.approx(written, abs=1e-5), name
    for name in ("auroc", "average_precision"):
        assert logged[f"test/{name}"] == pytest.approx(metrics[f"test/{name}"]["value"], abs=1e-5)


def test_the_checkpoint_carries_calibration_and_operating_point(run_directory):
    checkpoint = torch.load(run_directory / "checkpoints" / "best.ckpt", weights_only=True)
    temperature = checkpoint["calibration"]["temperature"]
    assert 1 <= temperature <= 10
    point = OperatingPoint.from_dict(checkpoint["operating_point"])
    assert metrics_of(run_directory)["test/threshold"]["value"] == point.threshold
    predictions = PredictionTable.read(run_directory / "predictions.csv")
    assert predictions.probability == pytest.approx(sigmoid(predictions.logit / temperature))
    with (run_directory / "holdout.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == point.n_positive + point.n_negative
    band = Abstention.from_dict(checkpoint["abstention"])
    assert band.lower <= point.threshold <= band.upper
    assert band.n_patients_positive == point.n_patients_positive
    assert metrics_of(run_directory)["test/alpha"]["value"] == band.alpha == 0.05
    assert 0 <= metrics_of(run_directory)["test/coverage"]["value"] <= 1
    metadata = checkpoint["metadata"]
    assert metadata["data"]["splits"]["val"]["images"] == len(rows)
    assert metadata["training"]["versions"]["torch"]


def test_report_and_model_card_are_written(run_directory):
    report = (run_directory / "report.html").read_text()
    assert "not a medical device" in report.lower()
    card = (run_directory / "checkpoints" / "MODEL_CARD.md").read_text()
    assert "resnet10t" in card


def test_predictions_cover_the_test_split_once(run_directory, synthetic):
    predictions = PredictionTable.read(run_directory / "predictions.csv")
    files = {str(path) for path in (synthetic / "test").rglob("*.jpeg")}
    assert set(predictions.path) == files
    assert len(predictions) == len(files)


def test_the_best_checkpoint_alone_gives_the_logits_of_predictions_csv(run_directory, tmp_path):
    code = f"""
import numpy as np, torch
from pneumonia.data.image_io import Preprocessing
from pneumonia.evaluation.predictions import PredictionTable
from pneumonia.model.lightning_module import PneumoniaClassifier
from pneumonia.inference.predictor import Classifier
from pneumonia.training.errors import check_run
model = PneumoniaClassifier.load_from_checkpoint(
    {str(run_directory / "checkpoints" / "best.ckpt")!r}, weights_only=True).eval()
rows = PredictionTable.read({str(run_directory / "predictions.csv")!r})
h = model.hparams
read = Preprocessing(h["image_size"], h["fit"], h["interpolation"]).read
images = torch.stack([torch.from_numpy(read(p).copy())[None] for p in rows.path])
with torch.inference_mode():
    logits = model(images).numpy()
print(np.abs(logits - rows.logit).max())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5


def test_the_checkpoint_says_what_it_is_and_needs_no_download(run_directory):
    checkpoint = torch.load(run_directory / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["format_version"] == 1
    assert checkpoint["classes"] == ["NORMAL", "PNEUMONIA"]
    assert checkpoint["hyper_parameters"]["pretrained"] is False
    assert "optimizer_states" not in checkpoint
    assert (run_directory / "checkpoints" / "last.ckpt").is_file()


def test_the_run_directory_records_config_and_holdout(run_directory):
    text = (run_directory / "config.yaml").read_text()
    assert "backbone: resnet10t" in text
    # All is resolved but the directory, which may be moved.
    assert text.replace("${hydra:runtime.output_dir}", "").count("${") == 0
    assert str(run_directory) not in text
    with (run_directory / "holdout.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"path", "label", "patient", "subtype"} == set(rows[0])
    assert {row["label"] for row in rows} == {"NORMAL", "PNEUMONIA"}


def test_tensorboard_has_scalars_figures_and_hyperparameters(run_directory):
    events = EventAccumulator(str(run_directory)).Reload()
    tags = events.Tags()
    for name in METRICS:
        assert f"val/{name}" in tags["scalars"]
    for name in ("loss", "accuracy", "precision", "recall", "specificity", "images_per_second"):
        assert f"train/{name}" in tags["scalars"]
    assert {"operating_point/sensitivity", "operating_point/specificity"} <= set(tags["scalars"])
    assert any(tag.startswith("lr-") for tag in tags["scalars"])
    assert {
        "inputs/train",
        "val/roc",
        "val/precision_recall",
        "val/confusion_matrix",
        "val/probabilities",
        "val/reliability",
        "val/worst_errors",
        "val/worst_errors_heat",
    } <= set(tags["images"])
    summaries = events.summary_metadata
    assert any(tag.startswith("_hparams_/") for tag in summaries)


def test_a_directory_that_holds_a_run_is_refused_and_left_alone(train, run_directory):
    before = {p: p.stat().st_mtime_ns for p in run_directory.rglob("*") if p.is_file()}
    with pytest.raises(PneumoniaError, match="already holds a run"):
        train(directory=run_directory)
    assert before == {p: p.stat().st_mtime_ns for p in run_directory.rglob("*") if p.is_file()}


def test_a_run_returns_the_monitored_metric_of_its_best_checkpoint(train, tmp_path):
    score = train("test=false")
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    states = last["callbacks"].items()
    state = next(s for key, s in states if "val/auroc" in key and "Checkpoint" in key)
    assert score == pytest.approx(float(state["best_model_score"]))
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_degenerate_classifier_is_called_that(train, tmp_path, caplog):
    # A head pushed to one side by a huge weight of PNEUMONIA calls everything PNEUMONIA.
    with caplog.at_level(logging.WARNING):
        train(
            "model.pos_weight=1e6",
            "model.optimizer.lr=1e-2",
            "trainer.max_epochs=1",
            "evaluation.operating_point=fixed",
            "evaluation.target=0.5",
        )
    predictions = PredictionTable.read(tmp_path / "run" / "predictions.csv")
    assert (predictions.probability >= 0.5).mean() > 0.95
    assert "Degenerate classifier: calls" in caplog.text
    assert "NORMAL images PNEUMONIA" in caplog.text


def test_ema_weights_are_what_is_saved_and_tested(train, tmp_path):
    train("callbacks=ema", "callbacks.ema.decay=0.5", "trainer.max_epochs=1")
    checkpoints = tmp_path / "run" / "checkpoints"
    last = torch.load(checkpoints / "last.ckpt", weights_only=True)
    averaged, current = last["state_dict"], last["current_model_state"]
    weights = [key for key in averaged if key.endswith("conv1.weight")]
    assert any(not torch.equal(averaged[key], current[key]) for key in weights)
    model = PneumoniaClassifier.load_from_checkpoint(checkpoints / "best.ckpt", weights_only=True)
    assert all(torch.equal(model.state_dict()[key], averaged[key]) for key in averaged)


def test_balanced_weight_is_the_ratio_of_the_training_split(train, tmp_path):
    train("model.pos_weight=balanced", "trainer.max_epochs=1", "test=false")
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert 0.3 < float(checkpoint["state_dict"]["pos_weight"]) < 1.0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.batch_size=5000"], "data.batch_size=5000 is more than the"),
        (["data.sampler=balanced", "model.pos_weight=balanced"], "the balance twice"),
        (["monitor=val/auc"], "val/auc, which is never logged; did you mean val/auroc"),
        (["monitor=val/loss"], "val/loss with mode max, but better is min"),
        (["trainer.limit_val_batches=0"], "validation would never run"),
        (["trainer.check_val_every_n_epoch=9"], "validation would never run"),
        (["ckpt_path=last"], "last does not exist"),
        (["trainer.max_epochs=0"], "without saving a best checkpoint"),
        (["callbacks.best=null"], "nothing keeps the best checkpoint"),
        (["model.image_size=64"], "model.image_size=64 contradicts data.image_size=32"),
        (["seed=-1"], "seed=-1 must lie in 0 to 4294967295"),
        (["callbacks.figures.every_n_epochs=0"], "callbacks.figures.every_n_epochs=0"),
        (["model.optimizer.lr=fast"], "model.optimizer.lr='fast' must be a number"),
        (["+evaluation.targt=0.9"], "evaluation.targt is no setting; did you mean target"),
        (["+modle=3"], "modle is no setting; did you mean mode"),
        (["evaluation.operating_point=sensitivity"], "A sensitivity of 0.95"),
        (["evaluation.alpha=0.5"], "alpha: found 0.5"),
        (["evaluation.alpha=null"], "alpha=None is of the wrong type"),
        (["evaluation.operating_point=youdon"], "evaluation.operating_point='youdon'"),
        (["evaluation.target=0.9"], "target 0.9 for the operating point policy youden"),
        (["model.optimizer.name=adamm"], "model.optimizer.name=adamm is unknown"),
        (["model.schedule.name=OneCircleLR"], "model.schedule.name=OneCircleLR is unknown"),
    ],
)
def test_what_could_only_fail_is_refused_in_one_sentence(overrides, message, train):
    with pytest.raises(PneumoniaError, match=message) as caught:
        train(*overrides)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_checkpoint_is_refused(train, tmp_path):
    impostor = tmp_path / "notes.ckpt"
    impostor.write_text("not a checkpoint")
    with pytest.raises(PneumoniaError, match=r"notes\.ckpt is not a checkpoint"):
        train(f"ckpt_path={impostor}")


def test_a_missing_root_is_refused_with_the_way_out(train):
    with pytest.raises(DataError, match="data=synthetic"):
        train("data.root=nowhere")


def test_a_faulty_test_split_is_refused_before_the_fit(train, synthetic, tmp_path):
    root = tmp_path / "lopsided"
    shutil.copytree(synthetic, root)
    shutil.rmtree(root / "test" / "NORMAL")
    with pytest.raises(DataError, match="has no folder NORMAL"):
        train(f"data.root={root}")
    assert not (tmp_path / "run" / "checkpoints").exists()
    train(f"data.root={root}", "test=false", directory=tmp_path / "without")


def test_a_missing_root_is_refused_before_weights_are_downloaded(train):
    with pytest.raises(DataError, match=r"data\.root=nowhere does not exist"):
        train("data.root=nowhere", "model.pretrained=true")


@pytest.mark.parametrize("setting", ["trainer.strategy=fsdp", "trainer.devices=2"])
def test_a_multirun_over_several_devices_is_refused(setting, composed):
    with pytest.raises(ConfigError, match="multirun"):
        check_run(composed("model.pretrained=false", setting), sweep=True)


def test_a_multirun_over_processes_is_refused():
    config = OmegaConf.create({"trainer": {"strategy": "ddp"}, "ckpt_path": None, "seed": 0})
    with pytest.raises(ConfigError, match="multirun"):
        check_run(config, sweep=True)


def test_a_truncated_image_stops_the_epoch_with_its_name(cli, synthetic, tmp_path):
    root = tmp_path / "damaged"
    shutil.copytree(synthetic, root)
    files = sorted((root / "train" / "PNEUMONIA").iterdir())
    victim = files[len(files) // 4]  # a bacterial one from the middle ids: not of the hold-out
    victim.write_bytes(victim.read_bytes()[:1500])
    done = cli(
        f"data.root={root}", "data.num_workers=1", f"hydra.run.dir={tmp_path / 'damaged-run'}"
    )
    assert done.returncode == 1
    message = next(line for line in done.stderr.splitlines() if line.startswith("Error: "))
    assert victim.name in message
    assert "Traceback" not in done.stderr


def test_a_sweep_returns_scores_and_leaves_the_test_split_closed(cli, synthetic, tmp_path):
    done = cli(
        "-m",
        f"data.root={synthetic}",
        "trainer.max_epochs=1",
        "seed=1,2",
        "model.optimizer.lr=1e-3,1e-4",
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
    )
    assert done.returncode == 0, done.stderr
    jobs = sorted(p.name for p in (tmp_path / "sweep").iterdir() if p.is_dir())
    assert jobs == ["0", "1", "2", "3"]
    for job in jobs:
        assert (tmp_path / "sweep" / job / "checkpoints" / "best.ckpt").is_file()
        assert not (tmp_path / "sweep" / job / "metrics.json").exists()


@pytest.mark.slow
def test_two_processes_train_with_a_balanced_weight(cli, synthetic, tmp_path):
    done = cli(
        f"data.root={synthetic}",
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "trainer.max_epochs=1",
        "model.pos_weight=balanced",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "metrics.json").is_file()


@pytest.mark.slow
def test_bfloat16_autocast_trains_on_the_cpu(train, tmp_path):
    train("trainer.precision=bf16-mixed")
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert all(v.dtype != torch.bfloat16 for v in checkpoint["state_dict"].values())
    # The frozen threshold is of full-precision logits, which is what every later use gives.
    predictions = PredictionTable.read(tmp_path / "run" / "predictions.csv")
    classifier = InferenceModel.load(tmp_path / "run" / "checkpoints" / "best.ckpt")
    logits = classifier.logits([str(path) for path in predictions.path])
    assert logits == pytest.approx(predictions.logit, abs=1e-5)


@pytest.mark.slow
def test_a_compiled_model_loads_without_compiling(train, tmp_path):
    train("model.compile=true", "trainer.max_epochs=1")
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    keys = torch.load(best, weights_only=True)["state_dict"]
    assert not any("_orig_mod" in key for key in keys)
    PneumoniaClassifier.load_from_checkpoint(best, weights_only=True)
