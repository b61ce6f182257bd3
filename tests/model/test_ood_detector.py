"""An image that is no chest X-ray like those of the hold-out is flagged; those are not."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from ood_images import strangers, turned
from torch import nn

from pneumonia.errors import CheckpointError, EvaluationError
from pneumonia.inference.predictor import InferenceModel
from pneumonia.model.network import PneumoniaNetwork
from pneumonia.model.ood_detector import VERSION, VIEWS, Gaussian, OODDetector


def bodies(count: int = 120, size: int = 48, seed: int = 0) -> torch.Tensor:
    """Bright bodies with two dark lungs, each a little different."""
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


def fitted(count: int = 120) -> OODDetector:
    return OODDetector.fit(bodies(count), embeddings(count), np.arange(count) // 2)


@pytest.fixture(scope="module")
def detector() -> OODDetector:
    return fitted()


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
        partial(torch.rot90, k=-1, dims=(2, 3)),
        torch.zeros_like,
        lambda images: torch.full_like(images, 255),
        lambda images: torch.randint_like(images, 0, 256),
    ],
    ids=["inverted", "left side", "right side", "black", "white", "noise"],
)
def test_other_images_are_flagged_whatever_their_embedding(detector, change):
    assert flagged(detector, change(bodies(40, seed=1))).all()


def test_a_usual_image_with_an_unusual_embedding_is_flagged(detector):
    usual, unusual = bodies(40, seed=1), -embeddings(40, seed=1)
    assert flagged(detector, usual, unusual).all()
    worst = detector.by_view(usual, unusual).argmax(1)
    assert (worst == VIEWS.index("embedding")).all()


def test_the_length_of_an_embedding_says_nothing(detector):
    images, embedding = bodies(5, seed=1), embeddings(5, seed=1)
    assert torch.allclose(detector(images, embedding), detector(images, 7 * embedding), rtol=1e-4)


def test_another_brightness_and_contrast_are_the_same_layout(detector):
    images = bodies(40, seed=1)
    other = (images.float() * 0.8 + 30).to(torch.uint8)
    layout = detector.by_view(other, embeddings(40))[:, VIEWS.index("layout")]
    assert (layout > detector.threshold).float().mean() <= 0.05


def test_the_threshold_is_of_images_whose_patient_was_left_out():
    # Twenty embeddings span what a fit to all of them calls usual: nothing would stand out.
    images, embedding = bodies(20), embeddings(20, 500)
    detector = OODDetector.fit(images, embedding, np.arange(20))
    seen = detector.by_view(images, embedding)[:, VIEWS.index("embedding")]
    unseen = detector.by_view(images, embeddings(20, 500, seed=1))[:, VIEWS.index("embedding")]
    assert seen.median() < unseen.median() < detector.threshold


def test_images_of_a_patient_do_not_vouch_for_each_other():
    # Twelve images each of ten patients: taken for 120, a patient never seen looks strange.
    patients = np.repeat(np.arange(10), 12)
    embedding = embeddings(10, 200)[patients] + 0.1 * embeddings(120, 200)
    known = OODDetector.fit(bodies(), embedding, patients)
    unknown = OODDetector.fit(bodies(), embedding, np.arange(120))
    new = bodies(40, seed=1), embeddings(40, 200, seed=1)
    view = VIEWS.index("embedding")
    assert known.by_view(*new)[:, view].median() < 0.5
    assert unknown.by_view(*new)[:, view].median() > 1.5


@pytest.mark.parametrize(("count", "share"), [(30, 1 / 31), (99, 0.01), (150, 0.01)])
def test_a_small_holdout_says_which_share_it_can_show(count, share):
    detector = OODDetector.fit(bodies(count), embeddings(count), np.arange(count) // 2)
    assert detector.share == pytest.approx(share)
    assert detector.images == count
    assert detector.patients == (count + 1) // 2


def test_the_same_holdout_gives_the_same_detector_however_it_is_batched(detector):
    batches = iter(bodies().split(17))
    again = OODDetector.fit(batches, embeddings(), [f"patient {n // 2:03d}" for n in range(120)])
    assert again.threshold == pytest.approx(detector.threshold, rel=1e-5)
    images, embedding = bodies(9, seed=3), embeddings(9, seed=3)
    assert torch.allclose(again(images, embedding), detector(images, embedding), rtol=1e-4)


def test_embeddings_that_are_all_the_same_are_no_obstacle():
    same = torch.ones(120, 16)
    detector = OODDetector.fit(bodies(), same, np.arange(120) // 2)
    new = bodies(50, seed=1)
    rounding = torch.ones(50, 16) + 1e-6 * torch.randn(50, 16)
    assert flagged(detector, new, rounding).mean() <= 0.06
    assert flagged(detector, 255 - new, rounding).all()


def test_images_that_are_all_the_same_give_finite_scores():
    detector = OODDetector.fit(
        torch.zeros(30, 1, 32, 32, dtype=torch.uint8), torch.zeros(30, 4), np.arange(30)
    )
    scores = detector(bodies(5, 32), embeddings(5, 4))
    assert scores.isfinite().all()
    assert (scores > detector.threshold).all()


@pytest.mark.parametrize(
    ("images", "embedding", "patients", "message"),
    [
        (bodies(19), embeddings(19), range(19), "19 images of 19 patients.*at least 20 of 5"),
        (bodies(30), embeddings(30), [n % 4 for n in range(30)], "30 images of 4 patients"),
        (bodies(30), embeddings(29), range(30), r"\(29, 32\) for 30"),
        (bodies(30), embeddings(30)[:, 0], range(30), r"\(30,\) for 30"),
        (bodies(29), embeddings(30), range(30), "29 images for 30 patients"),
        ([], embeddings(30), range(30), "0 images for 30 patients"),
        (bodies(30), embeddings(30) / 0, range(30), "finite numbers"),
    ],
)
def test_what_cannot_be_fitted_is_one_sentence(images, embedding, patients, message):
    with pytest.raises(EvaluationError, match=message):
        OODDetector.fit(images, embedding, list(patients))


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(EvaluationError, match="share"):
        OODDetector.fit(bodies(30), embeddings(30), range(30), share=share)


def test_it_survives_a_checkpoint_loaded_without_code(detector, tmp_path):
    torch.save({"detector": detector.to_dict()}, tmp_path / "file.ckpt")
    values = torch.load(tmp_path / "file.ckpt", weights_only=True)["detector"]
    again = OODDetector.from_dict(values)
    images, embedding = bodies(9, seed=3), embeddings(9, seed=3)
    assert torch.equal(again(images, embedding), detector(images, embedding))
    for name in ("threshold", "share", "images", "patients", "image_size"):
        assert getattr(again, name) == getattr(detector, name)


def test_it_is_small_even_with_a_wide_embedding(tmp_path):
    wide = OODDetector.fit(bodies(40), embeddings(40, 2048), range(40))
    torch.save(wide.to_dict(), tmp_path / "file")
    assert (tmp_path / "file").stat().st_size < 200_000


def drop(values, *keys):
    for key in keys[:-1]:
        values = values[key]
    del values[keys[-1]]


def put(value, values, *keys):
    for key in keys[:-1]:
        values = values[key]
    values[keys[-1]] = value


@pytest.mark.parametrize(
    "damage",
    [
        lambda v: drop(v, "threshold"),
        lambda v: drop(v, "version"),
        lambda v: put(VERSION + 1, v, "version"),
        lambda v: drop(v, "views", "texture"),
        lambda v: drop(v, "views", "layout", "mean"),
        lambda v: put(float("nan"), v, "threshold"),
        lambda v: put("high", v, "threshold"),
        lambda v: put(0.0, v, "share"),
        lambda v: put(0, v, "image_size"),
        lambda v: put(None, v, "views"),
        lambda v: put([1.0, 1.0, 1.0], v, "spread"),
        lambda v: put(torch.zeros(3), v, "spread"),
        lambda v: put(torch.ones(2), v, "centre"),
        lambda v: put(torch.tensor(float("inf")), v, "views", "embedding", "rest"),
        lambda v: put(torch.tensor(-1.0), v, "views", "embedding", "rest"),
        lambda v: put(torch.ones(7), v, "views", "embedding", "mean"),
        lambda v: put(torch.ones(32, dtype=torch.float64), v, "views", "embedding", "mean"),
        lambda v: put(torch.ones(3, 32), v, "views", "embedding", "directions"),
    ],
)
def test_a_damaged_detector_is_refused(detector, damage):
    values = copy.deepcopy(detector.to_dict())
    damage(values)
    with pytest.raises(CheckpointError, match="detector"):
        OODDetector.from_dict(values)


def test_a_gaussian_of_full_rank_is_the_mahalanobis_distance():
    random = np.random.default_rng(0)
    cloud = random.normal(size=(200, 5)) @ random.normal(size=(5, 5))
    new = random.normal(size=(10, 5))
    gaussian = Gaussian.fit(torch.from_numpy(cloud), 4)
    offset = new - cloud.mean(0)
    expected = np.einsum("ij,jk,ik->i", offset, np.linalg.inv(np.cov(cloud.T, bias=True)), offset)
    assert np.allclose(gaussian(torch.from_numpy(new).float()).numpy(), expected, rtol=1e-3)


def test_more_features_than_images_give_the_covariance_of_the_same_definition():
    random = np.random.default_rng(0)
    cloud = torch.from_numpy(random.normal(size=(12, 30)))
    gaussian = Gaussian.fit(cloud, 4)
    found, vectors = np.linalg.eigh(np.cov(cloud.numpy().T, bias=True))
    rest = found[:-4].sum() / 26
    covariance = vectors[:, -4:] * found[-4:] @ vectors[:, -4:].T + rest * (
        np.eye(30) - vectors[:, -4:] @ vectors[:, -4:].T
    )
    offset = random.normal(size=(5, 30))
    expected = np.einsum("ij,jk,ik->i", offset, np.linalg.inv(covariance), offset)
    new = torch.from_numpy(offset + cloud.numpy().mean(0)).float()
    assert np.allclose(gaussian(new).numpy(), expected, rtol=1e-3)


class Both(nn.Module):
    """A network and its detector as one graph."""

    def __init__(self, network: PneumoniaNetwork, detector: OODDetector) -> None:
        super().__init__()
        self.network = network
        self.detector = detector

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, embedding = self.network.embed(images)
        return logits, self.detector(images, embedding)


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "size"), [("test_resnet", 100), ("test_vit", 160)])
def test_it_exports_in_one_graph_with_its_network(backbone, size, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    network = PneumoniaNetwork(backbone, image_size=size).eval()
    images = bodies(40, size)
    with torch.no_grad():
        embedding = network.embed(images)[1]
    both = Both(network, OODDetector.fit(images, embedding, range(40))).eval()
    file = str(tmp_path / "both.onnx")
    batch = {0: torch.export.Dim("batch", min=1)}
    torch.onnx.export(
        both, (images[:2],), file, dynamo=True, opset_version=18, dynamic_shapes=(batch,),
        input_names=["images"], verbose=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(file)
    new = torch.cat([bodies(3, size, seed=1), torch.randint(0, 256, (4, 1, size, size)).byte()])
    new[0] = 0
    for some in (new, new[:1]):
        with torch.no_grad():
            expected = both(some)
        for ours, theirs in zip(expected, session.run(None, {"images": some.numpy()}), strict=True):
            # A score of 1 is the spread of the hold-out: a ten-thousandth of it is nothing.
            assert np.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.shared
def test_of_a_trained_model_xrays_pass_and_what_is_none_or_lies_on_its_side_is_flagged(
    trained_files, shared
):
    for path in trained_files:
        classifier = InferenceModel.load(path, "cpu")
        fit = classifier.preprocessing
        files = sorted((shared / "data/chest_xray/test").glob("*/*"))
        test = np.stack([fit.read(file) for file in files])

        def share(images: np.ndarray, classifier: InferenceModel = classifier) -> float:
            batches = np.array_split(np.ascontiguousarray(images), -(-len(images) // 64))
            scores = np.concatenate([classifier.backend(batch).ood_score for batch in batches])
            return float(np.mean(scores > classifier.ood_threshold))

        assert share(test) <= 0.03
        found = {kind: share(some) for kind, some in (strangers(fit) | turned(test)).items()}
        assert len(found) == 9
        assert min(found.values()) >= 0.95, found
