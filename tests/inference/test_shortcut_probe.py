"""The shortcut probe: exact masks, and the AUROC on them."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pneumonia.data.dataset import read_split
from pneumonia.inference.predictor import Predictor
from pneumonia.inference.shortcut_probe import (
    TRANSFORMS,
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


def test_probe_of_a_model(unfinalized_file, synthetic):
    model, split = Predictor.load(unfinalized_file, finalized=False), read_split(synthetic, "train")
    logits = model.logits([str(path) for path in split.paths])
    original, *transformed = probe_shortcuts(model, split, logits)
    assert original.auroc.value == pytest.approx(roc_auc_score(split.labels, logits))
    assert [row.name for row in transformed] == list(TRANSFORMS)
    assert all(row.picture.shape == original.picture.shape for row in transformed)
