"""What the detector flags, on real X-rays and on what is none: a table. Run by hand:

PNEUMONIA_CHECKPOINT=best.ckpt pytest -m benchmark -s -n 0 tests -k detector

Several checkpoints are joined by a colon; without any, one is trained for a minute.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from kinds import CHANGES, Images, asked, doubtful, faces, strangers, turned
from sklearn.metrics import roc_auc_score

from pneumonia.data.image import Preprocessing, read_grey
from pneumonia.data.phantom import write_phantom
from pneumonia.inference.classifier import Classifier

pytestmark = [pytest.mark.benchmark, pytest.mark.shared]

TEST = "X-rays of test/"
WIDTH = 30


@pytest.mark.timeout(3600)
def test_detection_by_kind(trained_files, shared, phantom_drawings):
    columns = [
        table(Classifier.load(path, "cpu"), shared, phantom_drawings) for path in trained_files
    ]
    names = "".join(f"{name:>32}" for name, _ in columns)
    print(
        f"\n\n{'':{WIDTH}}{'':>7}{names}\n{'kind':{WIDTH}}{'images':>7}"
        + f"{'% flagged':>22}{'AUROC':>10}" * len(columns)
    )
    for kind, (count, *_) in columns[0][1].items():
        cells = "".join(f"{100 * rows[kind][1]:22.1f}{rows[kind][2]:10.4f}" for _, rows in columns)
        print(f"{kind:{WIDTH}}{count:7}{cells}")


@pytest.fixture
def phantom_drawings(tmp_path) -> list[Path]:
    return sorted(write_phantom(tmp_path / "phantom", images=120, workers=1).glob("*/*/*.jpeg"))


Rows = dict[str, tuple[int, float, float]]


def table(classifier: Classifier, shared: Path, drawings: list[Path]) -> tuple[str, Rows]:
    settings = classifier.checkpoint["hyper_parameters"]
    usual, rows = None, {}
    for kind, images in kinds(classifier.preprocessing, shared / "data", drawings):
        scores = asked(classifier, images)
        usual = scores if usual is None else usual
        of = np.repeat([0, 1], [usual.size, scores.size])
        area = roc_auc_score(of, np.concatenate([usual, scores]))
        rows[kind] = (len(images), float(np.mean(scores > classifier.unlike_above)), area)
    return f"{settings['backbone']} {settings['image_size']}", rows


def kinds(fit: Preprocessing, data: Path, drawings: list[Path]) -> Iterator[tuple[str, Images]]:
    """The test images first, which the others are told from."""
    files = sorted((data / "chest_xray/test").glob("*/*"))
    test = np.stack([fit.read(file) for file in files])
    yield TEST, test
    yield from (strangers(fit) | turned(test) | doubtful(test)).items()
    for name, change in CHANGES.items():
        yield f"X-rays {name}", np.stack([fit(change(read_grey(file))) for file in files])
    originals = sorted((data / "originals").glob("*/*"))
    yield "X-rays at full size", np.stack([fit.read(file) for file in originals])
    yield "faces and scraps of 25 pixels", faces(fit)
    yield "phantom's drawings", np.stack([fit.read(file) for file in drawings])
