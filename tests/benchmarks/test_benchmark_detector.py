"""A table of what the OOD detector flags, among real X-rays and other images. Run by hand:

PNEUMONIA_CHECKPOINT=best.ckpt pytest -m benchmark -s -n 0 tests -k detector

Several checkpoints are joined by a colon; without any, one is trained for a minute. The last three
columns show each view alone, at the common threshold.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ood_images import CHANGES, Images, mostly_missed, non_radiographs, rotated_or_inverted
from sklearn.metrics import roc_auc_score

from pneumonia.data.image_io import Preprocessing, read_grey
from pneumonia.data.synthetic import write_synthetic
from pneumonia.inference.predictor import Predictor
from pneumonia.model.ood_detector import VIEWS

pytestmark = [pytest.mark.benchmark, pytest.mark.shared, pytest.mark.timeout(3600)]

SYNTHETIC_IMAGES = 120


def test_detection_by_kind(trained_files, shared, tmp_path):
    synthetic = write_synthetic(tmp_path / "synthetic", images=SYNTHETIC_IMAGES, workers=1)
    for path in trained_files:
        classifier = Predictor.load(path, "cpu")
        settings, bound = classifier.checkpoint["hyper_parameters"], classifier.ood_threshold
        print(f"\n\n{settings['backbone']} at {settings['image_size']} pixels")
        print(f"{'':30}{'images':>8}{'% flagged':>11}{'AUROC':>9}", end="")
        print("".join(f"{view:>11}" for view in VIEWS))
        usual = None
        for kind, images in kinds(classifier.preprocessing, shared / "data", synthetic):
            views = by_view(classifier, images)
            scores = views.max(1)
            usual = scores if usual is None else usual
            truth = np.repeat([0, 1], [usual.size, scores.size])
            area = roc_auc_score(truth, np.concatenate([usual, scores]))
            by_view_flagged = "".join(f"{100 * rate:11.1f}" for rate in (views > bound).mean(0))
            flagged = 100 * np.mean(scores > bound)
            print(f"{kind:30}{len(images):8}{flagged:11.1f}{area:9.4f}{by_view_flagged}")


def by_view(classifier: Predictor, images: Images) -> np.ndarray:
    """Scores [n, 3]; the greatest is the score of the detector."""
    engine, found = classifier.backend, []
    for batch in torch.from_numpy(np.ascontiguousarray(images)).unsqueeze(1).split(64):
        with torch.inference_mode():
            found.append(engine.detector.by_view(batch, engine.network.embed(batch)[1]))
    return torch.cat(found).numpy()


def kinds(fit: Preprocessing, data: Path, synthetic: Path) -> Iterator[tuple[str, Images]]:
    """The test images first, against which the AUROC of the others is measured."""
    files = sorted((data / "chest_xray/test").glob("*/*"))
    test = _read(fit, files)
    yield "X-rays of test/", test
    others = non_radiographs(fit) | rotated_or_inverted(test) | mostly_missed(test)
    yield from others.items()
    for name, change in CHANGES.items():
        yield f"X-rays {name}", np.stack([fit(change(read_grey(file))) for file in files])
    yield "X-rays at full size", _read(fit, sorted((data / "originals").glob("*/*")))
    yield "synthetic X-rays", _read(fit, sorted(synthetic.glob("*/*/*.jpeg")))


def _read(fit: Preprocessing, files: list[Path]) -> Images:
    return np.stack([fit.read(file) for file in files])
