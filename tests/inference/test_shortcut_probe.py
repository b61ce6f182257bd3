"""The shortcut probe: exact masks, and file attributes that never see their own patient."""

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from pneumonia.data.dataset import read_split
from pneumonia.data.manifest import Manifest
from pneumonia.inference.predictor import InferenceModel
from pneumonia.inference.shortcut_probe import (
    attribute_scores,
    black_centre,
    blurred,
    only_centre,
    probe_shortcuts,
)


def test_masks_are_what_they_say():
    pixels = np.random.default_rng(0).integers(1, 256, (160, 160), dtype=np.uint8)
    frame, centre = black_centre(pixels), only_centre(pixels)
    assert (frame[16:144, 16:144] == 0).all()
    assert (frame == 0).sum() == 128**2
    np.testing.assert_array_equal(frame + centre, pixels)
    soft = blurred(pixels)
    assert soft.shape == pixels.shape
    assert soft.std() < pixels.std() / 4
    assert soft.mean() == pytest.approx(pixels.mean(), abs=1)


def samples(tmp_path, sizes, patients=None) -> Manifest:
    paths, labels = [], []
    for number, (label, size) in enumerate(sizes):
        name = f"{patients[number]}_{number}.png" if patients else f"{number}.png"
        Image.new("L", size).save(tmp_path / name)
        paths.append(str(tmp_path / name))
        labels.append(label)
    return Manifest.identified(paths, labels, r"^(\w+)_" if patients else "file")


def test_attributes_find_a_shortcut_and_no_other(tmp_path):
    random = np.random.default_rng(0)
    leaky = [(i % 2, (40 + 10 * (i % 2), 40)) for i in range(60)]
    found = samples(tmp_path, leaky)
    assert roc_auc_score(found.labels, attribute_scores(found)) == 1
    blind = [(i % 2, (int(random.integers(30, 60)), 40)) for i in range(400)]
    found = samples(tmp_path, blind)
    assert roc_auc_score(found.labels, attribute_scores(found)) == pytest.approx(0.5, abs=0.12)


def test_attributes_need_patients_to_leave_out(tmp_path):
    few = [(i % 2, (40, 40)) for i in range(20)]
    found = samples(tmp_path, few, [f"p{i % 4}" for i in range(20)])
    assert attribute_scores(found) is None


def test_probe_of_a_model(model_file, synthetic):
    classifier, split = InferenceModel.load(model_file), read_split(synthetic, "train")
    logits = classifier.logits([str(path) for path in split.paths])
    rows = probe_shortcuts(classifier, split, logits)
    assert rows[0].auroc.value == pytest.approx(roc_auc_score(split.labels, logits))
    assert [row.name for row in rows][1:4] == [
        "lung field blacked out",
        "only the lung field",
        "blurred",
    ]
    assert "80%" in rows[1].geometry
    assert "cross-validated by patient" in rows[-1].geometry
