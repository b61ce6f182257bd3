"""The shortcut probe: exact masks, and file attributes that never see their own patient."""

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from pneumonia.data.dataset import read_split
from pneumonia.data.manifest import Manifest
from pneumonia.errors import DataError
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.shortcut_probe import (
    TRANSFORMS,
    attribute_scores,
    blur,
    keep_lungs,
    mask_lungs,
    probe_shortcuts,
)


def test_masks_cover_the_middle_80_percent_and_blurring_keeps_the_mean():
    pixels = np.random.default_rng(0).integers(1, 256, (160, 160), dtype=np.uint8)
    frame = mask_lungs(pixels)
    assert (frame[16:144, 16:144] == 0).all()
    assert (frame == 0).sum() == 128**2
    np.testing.assert_array_equal(frame + keep_lungs(pixels), pixels)
    blurred = blur(pixels)
    assert blurred.shape == pixels.shape
    assert blurred.std() < pixels.std() / 4
    assert blurred.mean() == pytest.approx(pixels.mean(), abs=1)


def write_samples(folder, widths, patients=None) -> Manifest:
    paths, labels = [], np.arange(len(widths)) % 2
    for number, width in enumerate(widths):
        patient = number if patients is None else patients[number]
        paths.append(str(folder / f"p{patient}_{number}.png"))
        Image.new("L", (int(width), 40)).save(paths[-1])
    return Manifest.from_paths(paths, labels, r"^(\w+)_")


def test_attributes_find_a_shortcut_and_no_other(tmp_path):
    leaky = write_samples(tmp_path, [40, 50] * 30)
    assert roc_auc_score(leaky.labels, attribute_scores(leaky)) == 1
    random = write_samples(tmp_path, np.random.default_rng(0).integers(30, 60, 400))
    assert roc_auc_score(random.labels, attribute_scores(random)) == pytest.approx(0.5, abs=0.12)


def test_attributes_are_fitted_to_other_patients(tmp_path):
    """The width tells every patient, and nothing of the class: it must not help."""
    patients = np.arange(120) // 10 * 2 + np.arange(120) % 2
    samples = write_samples(tmp_path, 30 + 7 * patients % 31, patients)
    assert roc_auc_score(samples.labels, attribute_scores(samples)) < 0.8
    few = write_samples(tmp_path, [40] * 20, np.arange(20) % 4)
    assert attribute_scores(few) is None


def test_an_unreadable_file_is_named(tmp_path):
    samples = write_samples(tmp_path, [40, 50] * 10)
    (tmp_path / "p3_3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"p3_3\.png"):
        attribute_scores(samples)


def test_probe_of_a_model(unfinalized_file, synthetic):
    model, split = Predictor.load(unfinalized_file, finalized=False), read_split(synthetic, "train")
    logits = model.logits([str(path) for path in split.paths])
    original, *transformed, attributes = probe_shortcuts(model, split, logits)
    assert original.auroc.value == pytest.approx(roc_auc_score(split.labels, logits))
    assert [row.name for row in transformed] == list(TRANSFORMS)
    assert all(row.picture.shape == original.picture.shape for row in transformed)
    assert attributes.picture is None
    assert 0 <= attributes.auroc.value <= 1
