"""The picture of an explanation: all of it can be read, and its scale shows what is in it."""

import numpy as np
import pytest

from pneumonia.inference.saliency import CAVEAT, draw, overlay_heat_map
from pneumonia.inference.types import Prediction

SURE = Prediction("x.jpeg", 0.9, "PNEUMONIA", False, False, 0.1, ())
DOUBTFUL = Prediction(
    "x" * 90 + ".jpeg",
    0.5,
    "NORMAL",
    True,
    True,
    9.0,
    (
        "low contrast: its grey levels span 12 of 256",
        "unusual shape: 400 x 1600 pixels, twice as wide as any of the training",
        "far too small: 40 x 40 pixels are enlarged to 224 x 224",
    ),
)


def test_heat_shows_in_proportion_and_not_where_nothing_was_seen():
    image = np.full((2, 2), 100, np.uint8)
    shown = overlay_heat_map(image, np.array([[0, 1], [np.nan, 0.5]], np.float32))
    assert (shown[0, 0] == 100).all()
    assert (shown[1, 0] == 100).all()
    assert not (shown[0, 1] == shown[1, 1]).all()


@pytest.mark.parametrize("shape", [(300, 400), (100, 800), (800, 200)])
@pytest.mark.parametrize("prediction", [SURE, DOUBTFUL], ids=["sure", "doubtful"])
def test_every_word_lies_within_the_picture_and_beside_the_images(prediction, shape):
    heat = np.full(shape, np.nan, np.float32)
    figure = draw(prediction, np.zeros(shape, np.uint8), heat, "Grad-CAM")
    figure.canvas.draw()
    above, below = figure._suptitle, figure._supxlabel
    for text in (above, below):
        box = text.get_window_extent()
        assert box.x0 >= 0 <= box.y0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert below.get_window_extent().y1 <= box.y0
        assert box.y1 <= above.get_window_extent().y0
    assert " ".join(CAVEAT.split()) in " ".join(below.get_text().split())
    doubts = " ".join(above.get_text().split())
    assert ("UNLIKE THE TRAINING DATA: do not use" in doubts) == bool(prediction.is_ood)
    assert all(warning in doubts for warning in prediction.warnings)


def test_both_images_keep_their_aspect():
    figure = draw(SURE, np.zeros((150, 450), np.uint8), np.zeros((150, 450), np.float32), "x")
    figure.canvas.draw()
    for axes in figure.axes[:2]:
        assert axes.bbox.width / axes.bbox.height == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize("grey", [0, 128, 255])
@pytest.mark.parametrize("value", [0, 0.5, 1])
def test_the_scale_shows_a_value_as_it_looks_in_the_picture(grey, value):
    image, heat = np.full((4, 4), grey, np.uint8), np.full((4, 4), value, np.float32)
    figure = draw(SURE, image, heat, "Grad-CAM")
    (bar,) = figure.axes[1].child_axes
    left, right, low, high = bar.images[0].get_extent()
    shown = np.asarray(bar.images[0].get_array())
    assert (left, right, low, high, bar.images[0].origin) == (0, 1, 0, 1, "lower")
    place = shown[round(value * (len(shown) - 1)), round(grey / 255 * (shown.shape[1] - 1))]
    np.testing.assert_allclose(place, figure.axes[1].images[0].get_array()[0, 0], atol=2)


def test_readme_contains_the_caveat_of_heat_maps(pytestconfig):
    readme = (pytestconfig.rootpath / "README.md").read_text(encoding="utf-8")
    assert CAVEAT in " ".join(readme.split())
