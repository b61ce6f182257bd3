"""One run of train.py: what it writes, logs and prints."""

import json
import logging
import shutil
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from runs import checkpoint_of, rows_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pneumonia.errors import DataError, ExtraError, ModelError
from pneumonia.inference.predictor import Predictor, choose_file
from pneumonia.model.lightning_module import PneumoniaClassifier
from pneumonia.training import pipeline
from pneumonia.training.resume import RunStart
from pneumonia.training.run_record import read_run_summary

METRICS = {
    *("accuracy", "precision", "recall", "specificity", "f1", "balanced_accuracy"),
    *("auroc", "average_precision", "loss"),
}


@pytest.fixture(scope="module", name="varied")
def varied_fixture(tmp_path_factory, train_in):
    """A run with averaged weights, a balanced loss, two views and deterministic algorithms.

    Returns its directory, its score, and which files were opened as checkpoints.
    """
    directory, opened, load = tmp_path_factory.mktemp("varied") / "run", [], torch.load

    def counted(file, *arguments, **settings):
        opened.append(str(getattr(file, "path", getattr(file, "name", file))))
        return load(file, *arguments, **settings)

    words = ("callbacks=ema", "callbacks.ema.decay=0.5", "model.pos_weight=balanced")
    words += ("model.tta=flip",)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", counted)
        score = train_in(directory, *words, "trainer.deterministic=true", "trainer.max_epochs=1")
    assert torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    return directory, score, opened


def metrics_of(directory):
    return json.loads((directory / "metrics.json").read_text())


def test_the_console_shows_epochs_and_paths_and_no_noise(finished):
    printed = (finished / "console.txt").read_text()
    assert str(finished / "checkpoints" / "best.ckpt") in printed
    assert "tensorboard --logdir" in printed
    for noise in ("litlogger", "LeafSpec", "FLOPs", "TPU", "to estimate", "Trainer.fit"):
        assert noise not in printed
    log = (finished / "train.log").read_text()
    for text in (printed, log):
        assert text.count("epoch 1/2") == text.count("epoch 2/2") == 1


def test_metrics_json_holds_every_metric_with_its_interval(finished):
    metrics = metrics_of(finished)
    for name in METRICS | {"sensitivity", "n", "n_positive", "mcc", "brier", "ece"}:
        assert set(metrics[f"test/{name}"]) == {"value", "low", "high", "method"}
    for prefix in ("test/at_0.5", "test/bacterial", "test/viral"):
        assert 0 <= metrics[f"{prefix}/recall"]["value"] <= 1


def test_the_checkpoint_carries_calibration_operating_point_and_metadata(finished):
    checkpoint = checkpoint_of(finished, "best")
    assert 1 <= checkpoint["calibration"]["temperature"] <= 10
    point = checkpoint["operating_point"]
    assert metrics_of(finished)["test/threshold"]["value"] == point["threshold"]
    rows = rows_of(finished / "validation.csv")
    assert set(rows[0]) == {"path", "label", "patient", "subtype"}
    assert len(rows) == point["n_positive"] + point["n_negative"]
    assert {"lower", "upper"} <= set(checkpoint["abstention"])
    assert checkpoint["metadata"]["data"]["splits"]["val"]["images"] == len(rows)
    assert checkpoint["metadata"]["training"]["versions"]["torch"]
    assert checkpoint["classes"] == ["NORMAL", "PNEUMONIA"]
    assert "optimizer_states" not in checkpoint
    assert "optimizer_states" in checkpoint_of(finished)


def test_the_run_ends_with_an_exported_model_of_its_checkpoint(train, tmp_path, capsys, caplog):
    with caplog.at_level(logging.INFO):
        train("export=null", "trainer.max_epochs=1", "test=false")
    assert not [record for record in caplog.records if record.name.startswith("onnx")]
    folder = tmp_path / "run/checkpoints"
    chosen, _ = choose_file(folder / "best.ckpt", "cpu")
    assert chosen == folder / "best.onnx"
    assert str(chosen) in capsys.readouterr().out
    model, exported = Predictor.load(folder / "best.ckpt"), Predictor.load(chosen)
    for entry in ("preprocessing", "calibration", "operating_point", "abstention", "ood_threshold"):
        assert getattr(exported, entry) == getattr(model, entry)


@pytest.mark.parametrize(
    ("words", "sweep", "expected"),
    [
        ([], False, True),
        ([], True, False),
        (["export=true"], True, True),
        (["export=false"], False, False),
        (["debug=overfit"], False, False),
    ],
)
def test_a_single_run_is_exported_and_a_sweep_or_debug_run_is_not(composed, words, sweep, expected):
    assert RunStart(composed(*words), "run", sweep=sweep).export is expected


def test_a_run_succeeds_without_its_export(train, tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise ModelError("graph")

    monkeypatch.setattr(pipeline, "export", fail)
    train("export=true", "trainer.max_epochs=1", "test=false")
    assert read_run_summary(tmp_path / "run")["status"] == "finished"
    (warning,) = [r.getMessage() for r in caplog.records if "graph" in r.getMessage()]
    assert "\n" not in warning


def test_a_required_export_needs_its_extra_before_the_fit(train, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ExtraError, match=r"export=true.*\[export\]"):
        train("export=true")
    assert not (tmp_path / "run/checkpoints").exists()


def test_the_best_checkpoint_alone_gives_the_predictions_of_the_test(finished):
    rows = rows_of(finished / "predictions.csv")
    root = Path(OmegaConf.load(finished / "config.yaml").data.root)
    files = {str(path) for path in (root / "test").rglob("*.jpeg")}
    assert sorted(row["path"] for row in rows) == sorted(files)
    model = Predictor.load(finished / "checkpoints" / "best.ckpt")
    logits = model.logits([row["path"] for row in rows])
    assert logits == pytest.approx([float(row["logit"]) for row in rows], abs=1e-5)


def test_report_model_card_and_summary_are_written(finished):
    assert "not a medical device" in (finished / "report.html").read_text().lower()
    assert "resnet10t" in (finished / "checkpoints" / "MODEL_CARD.md").read_text()
    summary = read_run_summary(finished)
    assert summary["status"] == "finished"
    assert summary["checkpoint"] == "checkpoints/best.ckpt"
    assert summary["images_per_second"] > 0


def test_tensorboard_has_scalars_figures_and_hyperparameters(finished):
    events = EventAccumulator(str(finished)).Reload()
    scalars, images = set(events.Tags()["scalars"]), set(events.Tags()["images"])
    assert {f"val/{name}" for name in METRICS} <= scalars
    assert {f"test/{name}" for name in METRICS} <= scalars
    assert {f"train/{name}" for name in ("loss", "precision", "recall")} <= scalars
    assert {"train/images_per_second", "operating_point/specificity"} <= scalars
    assert any(tag.startswith("lr-") for tag in scalars)
    assert len(events.Scalars("operating_point/threshold")) == 2  # one for each validation
    recall = metrics_of(finished)["test/recall"]["value"]
    assert events.Scalars("test/recall")[-1].value == pytest.approx(recall)
    names = ("roc", "precision_recall", "confusion_matrix", "probabilities", "reliability")
    assert {"inputs/train", "val/worst_errors", "val/worst_errors_heat"} <= images
    assert {f"val/{name}" for name in names} <= images
    assert any(tag.startswith("_hparams_/") for tag in events.summary_metadata)


def test_a_run_returns_its_best_score_and_opens_the_best_checkpoint_twice(varied):
    directory, score, opened = varied
    states = checkpoint_of(directory)["callbacks"].items()
    (state,) = (s for key, s in states if key.startswith("BestCheckpoint"))
    assert score == pytest.approx(float(state["best_model_score"]))
    assert sum(name.endswith("best.ckpt") for name in opened) <= 2


def test_averaged_weights_are_saved_and_tested(varied):
    last = checkpoint_of(varied[0])
    averaged, current = last["state_dict"], last["current_model_state"]
    weights = [key for key in averaged if key.endswith("conv1.weight")]
    assert any(not torch.equal(averaged[key], current[key]) for key in weights)
    best = checkpoint_of(varied[0], "best")["state_dict"]
    assert all(torch.equal(best[key], averaged[key]) for key in averaged)


def test_the_test_and_the_checkpoint_have_test_time_augmentation(varied):
    rows = rows_of(varied[0] / "predictions.csv")
    model = Predictor.load(varied[0] / "checkpoints" / "best.ckpt")
    logits = model.logits([row["path"] for row in rows])
    assert logits == pytest.approx([float(row["logit"]) for row in rows], abs=1e-5)
    assert model.backend.network.n_views == 2


def test_balanced_weight_is_the_ratio_of_the_training_split(varied):
    assert 0.3 < float(checkpoint_of(varied[0])["state_dict"]["pos_weight"]) < 1.0


def test_a_faulty_test_split_is_refused_before_the_fit(train, synthetic, tmp_path):
    root = shutil.copytree(synthetic, tmp_path / "lopsided")
    shutil.rmtree(root / "test" / "NORMAL")
    with pytest.raises(DataError, match="NORMAL"):
        train(f"data.root={root}")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_missing_root_is_refused_before_weights_are_downloaded(train):
    with pytest.raises(DataError, match=r"data\.root=nowhere"):
        train("data.root=nowhere", "model.pretrained=true")


def test_fast_dev_run_leaves_no_checkpoint(train, tmp_path):
    assert train("debug=one_batch") is None
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_sweep_returns_scores_and_does_not_test(cli, synthetic, tmp_path):
    sweep = tmp_path / "sweep"
    words = ("trainer.max_epochs=1", "seed=1", f"hydra.sweep.dir={sweep}")
    done = cli("-m", f"data.root={synthetic}", *words)
    assert done.returncode == 0, done.stderr
    assert read_run_summary(sweep / "0")["score"] > 0
    assert not (sweep / "0" / "metrics.json").exists()


@pytest.mark.slow
def test_bfloat16_trains_and_the_test_is_in_full_precision(train, tmp_path):
    train("trainer.precision=bf16-mixed")
    rows = rows_of(tmp_path / "run" / "predictions.csv")
    model = Predictor.load(tmp_path / "run" / "checkpoints" / "best.ckpt")
    logits = model.logits([row["path"] for row in rows])
    assert logits == pytest.approx([float(row["logit"]) for row in rows], abs=1e-5)


@pytest.mark.slow
def test_a_compiled_model_loads_without_compiling(train, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        train("model.compile=true", "trainer.max_epochs=1")
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    assert not any("_orig_mod" in key for key in torch.load(best, weights_only=True)["state_dict"])
    PneumoniaClassifier.load_from_checkpoint(best, weights_only=True)
