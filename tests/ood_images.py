"""Images for the OOD detector, by kind: non-radiographs, and X-rays that were changed."""

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import skimage
import sklearn
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from pneumonia.data.image_io import Preprocessing, read_grey

Images = np.ndarray
"""uint8 [n, S, S], as a network sees them."""

_PICTURES = ((skimage, "data"), (sklearn, "datasets/images"), (mpl, "mpl-data/sample_data"))
_SCANNED = {"page.png", "text.png"}


def non_radiographs(preprocessing: Preprocessing) -> dict[str, Images]:
    """Images other than radiographs, all to be flagged; the same at every call."""
    random, side = np.random.default_rng(0), preprocessing.image_size
    return {
        "photographs and textures": _stack(map(preprocessing, _photographs(random))),
        "pages of text": _stack(map(preprocessing, _pages(random))),
        "noise": _stack(_noise(random, side)),
        "blank": _stack(_blank(random, side)),
    }


def rotated_or_inverted(images: Images) -> dict[str, Images]:
    """X-rays as no viewer displays them, all to be flagged."""
    return {
        "X-rays inverted": 255 - images,
        "X-rays rotated by 90": np.rot90(images, 1, (1, 2)),
        "X-rays rotated by 270": np.rot90(images, -1, (1, 2)),
    }


def mostly_missed(images: Images) -> dict[str, Images]:
    """X-rays that should be flagged, and mostly are not."""
    return {
        "X-rays rotated by 180": np.rot90(images, 2, (1, 2)),
        "X-rays mirrored": images[:, :, ::-1],
    }


def _shift(image: Image.Image) -> Image.Image:
    moved = Image.new("L", image.size)
    moved.paste(image, (round(0.06 * image.width), 0))
    return moved


def _compress(image: Image.Image) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=30)
    return Image.open(content).convert("L")


def _crop(fraction: float) -> Callable[[Image.Image], Image.Image]:
    def crop(image: Image.Image) -> Image.Image:
        x, y = image.width * fraction / 2, image.height * fraction / 2
        return image.crop((round(x), round(y), round(image.width - x), round(image.height - y)))

    return crop


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "rotated by 5 degrees": lambda image: image.rotate(5, Image.Resampling.BILINEAR),
    "rotated by 10 degrees": lambda image: image.rotate(10, Image.Resampling.BILINEAR),
    "a tenth cropped away": _crop(0.1),
    "a fifth cropped away": _crop(0.2),
    "shifted by 6%": _shift,
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(image.width / 200)),
    "compressed again": _compress,
}
"""Changes after which an X-ray is still valid; black where nothing is left."""


def _stack(images: Iterable[np.ndarray]) -> Images:
    return np.stack([np.clip(image, 0, 255).astype(np.uint8) for image in images])


def _crops(picture: Image.Image, random: np.random.Generator, count: int) -> Iterator[Image.Image]:
    yield picture
    width, height = picture.size
    for _ in range(count):
        scale = random.uniform(0.3, 0.9)
        w, h = int(width * scale), int(height * scale)
        x, y = random.integers(0, width - w + 1), random.integers(0, height - h + 1)
        yield picture.crop((x, y, x + w, y + h))


def _photographs(random: np.random.Generator) -> Iterator[Image.Image]:
    """Every picture in the installed packages, and four crops of each."""
    for package, folder in _PICTURES:
        for path in sorted((Path(package.__file__).parent / folder).iterdir()):
            if path.suffix in {".png", ".jpg"} and path.name not in _SCANNED:
                yield from _crops(read_grey(path), random, 4)


def _pages(random: np.random.Generator) -> Iterator[Image.Image]:
    """Two scanned pages with crops, and drawn ones, dark on light or reverse."""
    for name in sorted(_SCANNED):
        yield from _crops(read_grey(Path(skimage.__file__).parent / "data" / name), random, 9)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    for number in range(40):
        paper = int(random.integers(200, 256))
        page = Image.new("L", (600, 800), paper)
        size = int(random.integers(10, 60))
        margin = int(random.integers(10, 90))
        words = ["".join(random.choice(letters, random.integers(1, 11))) for _ in range(800)]
        per_line = max(1, (600 - 2 * margin) // (3 * size))
        lines = [" ".join(words[at : at + per_line]) for at in range(0, len(words), per_line)]
        ImageDraw.Draw(page).multiline_text(
            (margin, margin), "\n".join(lines), 20, ImageFont.load_default(size)
        )
        yield Image.fromarray(255 - np.asarray(page)) if number % 4 == 3 else page


def _noise(random: np.random.Generator, side: int) -> Iterator[np.ndarray]:
    """Uniform, Gaussian, and salt and pepper."""
    shape = (side, side)
    for _ in range(20):
        yield random.uniform(0, 255, shape)
        yield random.normal(random.uniform(60, 200), random.uniform(5, 60), shape)
        salt = random.uniform(0.02, 0.4)
        yield random.choice([0, 128, 255], shape, p=[salt / 2, 1 - salt, salt / 2])


def _blank(random: np.random.Generator, side: int) -> Iterator[np.ndarray]:
    for level in np.linspace(0, 255, 25):
        yield np.full((side, side), level)
        yield random.normal(level, random.uniform(0.5, 4), (side, side))
