"""One checkpoint from several runs."""

import shutil
import sys

import numpy as np
import pytest
import torch

from pneumonia import cli
from pneumonia.data.dataset import read_split
from pneumonia.errors import CheckpointError, DataError
from pneumonia.inference.export import export
from pneumonia.inference.predictor import Predictor
from pneumonia.training.ensemble import MEAN, ensemble_checkpoints


@pytest.fixture(scope="module", name="members")
def members_fixture(finished, tmp_path_factory):
    """The checkpoint of a run, and another with other weights and views."""
    folder = tmp_path_factory.mktemp("members")
    first = shutil.copy(finished / "checkpoints/best.ckpt", folder / "a.ckpt")
    content = torch.load(first, weights_only=True)
    torch.manual_seed(0)
    for value in content["state_dict"].values():
        if value.ndim > 1:
            value.add_(value.std() * torch.randn_like(value))
    content["hyper_parameters"]["tta"] = "flip"
    torch.save(content, folder / "b.ckpt")
    return first, folder / "b.ckpt"


@pytest.fixture(scope="module", name="joined")
def joined_fixture(members, synthetic, tmp_path_factory):
    """What `ensemble_checkpoints` made of them: the result, and the file."""
    out = tmp_path_factory.mktemp("joined") / "e.ckpt"
    return ensemble_checkpoints(members, synthetic, out), out


@pytest.fixture(scope="module", name="paths")
def paths_fixture(synthetic):
    return [str(path) for path in read_split(synthetic, "test").paths]


def test_logits_are_the_mean_of_the_members(joined, members, paths):
    result, out = joined
    assert result.n_views == 3
    assert set(result.auroc) == {*map(str, members), MEAN}
    a, b = (Predictor.load(member).logits(paths) for member in members)
    np.testing.assert_allclose(Predictor.load(out).logits(paths), (a + b) / 2, atol=1e-5)
    assert np.abs(a - b).max() > 0.01


def test_it_is_finalized_on_the_validation_split_of_the_members(joined, members):
    point = joined[0].operating_point
    model, member = Predictor.load(joined[1]), Predictor.load(members[0])
    assert model.operating_point == point
    for name in ("n_positive", "n_negative", "policy"):
        assert getattr(point, name) == getattr(member.operating_point, name)
    assert point.auroc == pytest.approx(joined[0].auroc[MEAN]["val"])
    assert model.abstention is not None


def test_it_is_exported_and_explained(joined, paths, tmp_path):
    model = Predictor.load(joined[1])
    exported = Predictor.load(export(joined[1], tmp_path / "e.onnx"))
    for a, b in zip(model.predict(paths), exported.predict(paths), strict=True):
        assert a.probability == pytest.approx(b.probability, abs=1e-4)
    heat = model.explain(paths[0]).heat
    assert np.nanmax(heat) == pytest.approx(1, abs=0.05)


def change(content, key, value):
    *parents, last = key.split("/")
    for parent in parents:
        content = content[parent]
    content[last] = value


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("hyper_parameters/resize_mode", "pad", "resize_mode=pad"),
        ("hyper_parameters/image_size", 64, "image_size=64"),
        ("metadata/data/validation_fingerprint", "0" * 16, "validation images"),
        ("metadata/training/config", "data: [", "best.ckpt"),
        ("metadata/training", {}, "best.ckpt"),
        ("classes", ["NORMAL", "COVID"], "COVID"),
    ],
)
def test_members_that_do_not_belong_together_are_refused(
    members, synthetic, tmp_path, key, value, named
):
    content = torch.load(members[0], weights_only=True)
    change(content, key, value)
    torch.save(content, tmp_path / "c.ckpt")
    with pytest.raises(CheckpointError, match=f"c.ckpt.*{named}"):
        ensemble_checkpoints([members[0], tmp_path / "c.ckpt"], synthetic, tmp_path / "e.ckpt")
    assert not (tmp_path / "e.ckpt").exists()


def test_an_ensemble_of_ensembles_is_refused(joined, members, synthetic, tmp_path):
    with pytest.raises(CheckpointError, match=str(joined[1])):
        ensemble_checkpoints([members[0], joined[1]], synthetic, tmp_path / "e.ckpt")


def test_other_images_are_refused(members, kaggle_once, tmp_path):
    with pytest.raises(DataError, match=f"{kaggle_once}.*a.ckpt"):
        ensemble_checkpoints(members, kaggle_once, tmp_path / "e.ckpt")


@pytest.mark.parametrize("words", [["a"], ["a", "a"], ["a", "b", "--out", "b"]])
def test_the_command_refuses_what_is_no_ensemble(
    members, synthetic, tmp_path, monkeypatch, capsys, words
):
    files = {"a": members[0], "b": members[1]}
    given = ["--data", synthetic, "--out", tmp_path / "e.ckpt"]
    given += [files.get(word, word) for word in words]
    monkeypatch.setattr(sys, "argv", ["pneumonia", "ensemble", *map(str, given)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    assert "Error: " in capsys.readouterr().err
