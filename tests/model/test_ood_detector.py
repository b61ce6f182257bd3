"""The OOD detector passes images like the validation set and flags others."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from ood_images import non_radiographs, rotated_or_inverted

from pneumonia.errors import CheckpointError, EvaluationError
from pneumonia.inference.predictor import Predictor
from pneumonia.model.ood_detector import VIEWS, OODDetector


def bodies(count: int = 120, size: int = 48, seed: int = 0) -> torch.Tensor:
    """Bright bodies with two dark lungs, each slightly different."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    images = []
    for _ in range(count):
        dx, dy, w = random.normal(0, 0.02, 3)
        body = 150 * np.exp(-(((x - 0.5 - dx) / 0.4) ** 4)) * (0.6 + 0.4 * y)
        lungs = sum(
            np.exp(-(((x - c - dx) / (0.1 + w / 2)) ** 2) - ((y - 0.45 - dy) / 0.25) ** 2)
            for c in (0.3, 0.7)
        )
        picture = (body * (1 - 0.7 * lungs) + 20) * random.uniform(0.8, 1.2)
        picture += random.normal(0, 2, picture.shape)
        images.append(np.clip(picture, 0, 255).astype(np.uint8))
    return torch.from_numpy(np.stack(images)).unsqueeze(1)


def embeddings(count: int = 120, size: int = 32, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return 3 + torch.randn(count, size, generator=random)


@pytest.fixture(scope="module")
def detector() -> OODDetector:
    return OODDetector.fit(bodies(), embeddings(), np.arange(120) // 2)


def flagged(detector: OODDetector, images: torch.Tensor, embedding: torch.Tensor | None = None):
    if embedding is None:
        embedding = embeddings(len(images), seed=9)
    return (detector(images, embedding) > detector.threshold).numpy()


def test_new_images_of_the_same_kind_mostly_pass(detector):
    assert flagged(detector, bodies(200, seed=1)).mean() <= 0.05


@pytest.mark.parametrize(
    "change",
    [
        lambda images: 255 - images,
        partial(torch.rot90, dims=(2, 3)),
        torch.zeros_like,
        lambda images: torch.randint_like(images, 0, 256),
    ],
    ids=["inverted", "rotated by 90", "black", "noise"],
)
def test_other_images_are_flagged_whatever_their_embedding(detector, change):
    assert flagged(detector, change(bodies(40, seed=1))).all()


def test_an_unusual_embedding_is_flagged_whatever_its_length(detector):
    images, usual = bodies(40, seed=1), embeddings(40, seed=1)
    assert flagged(detector, images, -usual).all()
    assert (detector.by_view(images, -usual).argmax(1) == VIEWS.index("embedding")).all()
    assert torch.allclose(detector(images, usual), detector(images, 7 * usual), rtol=1e-4)


def test_the_threshold_comes_from_distances_out_of_fold():
    # 20 embeddings of 500 numbers: all fitted images look typical, no new one does.
    images, embedding = bodies(20), embeddings(20, 500)
    detector = OODDetector.fit(images, embedding, np.arange(20))
    fitted = detector.by_view(images, embedding)[:, VIEWS.index("embedding")]
    new = detector.by_view(images, embeddings(20, 500, seed=1))[:, VIEWS.index("embedding")]
    assert fitted.median() < new.median() < detector.threshold


def test_folds_keep_the_images_of_a_patient_together():
    # Ten patients of twelve images: if they count as 120, a new patient looks unusual.
    patients = np.repeat(np.arange(10), 12)
    embedding = embeddings(10, 200)[patients] + 0.1 * embeddings(120, 200)
    new = bodies(40, seed=1), embeddings(40, 200, seed=1)
    by_patient, by_image = (
        OODDetector.fit(bodies(), embedding, groups).by_view(*new)[:, VIEWS.index("embedding")]
        for groups in (patients, np.arange(120))
    )
    assert by_patient.median() < 0.5
    assert by_image.median() > 1.5


def test_batches_and_patient_names_do_not_change_the_detector(detector):
    batches = iter(bodies().split(17))
    again = OODDetector.fit(batches, embeddings(), [f"patient {n // 2:03d}" for n in range(120)])
    assert again.threshold == pytest.approx(detector.threshold, rel=1e-5)
    images, embedding = bodies(9, seed=3), embeddings(9, seed=3)
    assert torch.allclose(again(images, embedding), detector(images, embedding), rtol=1e-4)


def test_constant_embeddings_are_no_obstacle():
    detector = OODDetector.fit(bodies(), torch.ones(120, 16), np.arange(120) // 2)
    new, rounding = bodies(50, seed=1), torch.ones(50, 16) + 1e-6 * torch.randn(50, 16)
    assert flagged(detector, new, rounding).mean() <= 0.06
    assert flagged(detector, 255 - new, rounding).all()


def test_constant_images_give_finite_scores():
    blank = torch.zeros(30, 1, 32, 32, dtype=torch.uint8)
    detector = OODDetector.fit(blank, torch.zeros(30, 4), np.arange(30))
    scores = detector(bodies(5, 32), embeddings(5, 4))
    assert scores.isfinite().all()
    assert (scores > detector.threshold).all()


@pytest.mark.parametrize(
    ("images", "embedding", "patients", "named"),
    [
        (bodies(19), embeddings(19), range(19), "19 images of 19 patients"),
        (bodies(30), embeddings(30), [n % 4 for n in range(30)], "30 images of 4 patients"),
        (bodies(30), embeddings(29), range(30), "embeddings"),
        (bodies(30), embeddings(30) / 0, range(30), "embeddings"),
        (bodies(29), embeddings(30), range(30), "29 images"),
    ],
)
def test_invalid_input_is_refused(images, embedding, patients, named):
    with pytest.raises(EvaluationError, match=named):
        OODDetector.fit(images, embedding, list(patients))


def test_it_survives_a_checkpoint_loaded_with_weights_only(detector, tmp_path):
    torch.save(detector.to_dict(), tmp_path / "file.ckpt")
    again = OODDetector.from_dict(torch.load(tmp_path / "file.ckpt", weights_only=True))
    images, embedding = bodies(9, seed=3), embeddings(9, seed=3)
    assert torch.equal(again(images, embedding), detector(images, embedding))
    assert (again.threshold, again.image_size) == (detector.threshold, detector.image_size)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("threshold", float("nan")),
        ("image_size", 100_000),
        ("views texture", None),
        ("spread", torch.zeros(3)),
        ("centre", torch.ones(2)),
        ("views embedding rest", torch.tensor(float("inf"))),
        ("views embedding directions", torch.ones(3, 32)),
    ],
)
def test_a_damaged_detector_is_refused(detector, key, value):
    values = copy.deepcopy(detector.to_dict())
    *path, last = key.split()
    table = values
    for name in path:
        table = table[name]
    table[last] = value
    with pytest.raises(CheckpointError, match="ood_detector"):
        OODDetector.from_dict(values)


@pytest.mark.slow
@pytest.mark.shared
def test_a_trained_model_passes_xrays_and_flags_other_images(trained_files, shared):
    for path in trained_files:
        model = Predictor.load(path, "cpu")
        preprocessing = model.preprocessing
        files = sorted((shared / "data/chest_xray/test").glob("*/*"))
        xrays = np.stack([preprocessing.read(file) for file in files])

        def fraction(images: np.ndarray, model: Predictor = model) -> float:
            batches = np.array_split(np.ascontiguousarray(images), -(-len(images) // 64))
            scores = np.concatenate([model.backend(batch).ood_score for batch in batches])
            return float(np.mean(scores > model.ood_threshold))

        assert fraction(xrays) <= 0.03
        others = non_radiographs(preprocessing) | rotated_or_inverted(xrays)
        found = {kind: fraction(images) for kind, images in others.items()}
        assert len(found) == 7
        assert min(found.values()) >= 0.95, found
