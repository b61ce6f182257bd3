"""Synthetic pediatric chest X-rays: a data set in Kaggle's layout that needs no download.

A chest is a sum of soft shapes in anatomical units: it is about two wide, x grows to the patient's
left and y downwards. One random generator draws the patient (build, bones, vessels, disease),
another one the exposure (pose, framing, contrast, noise), independent of the disease.
"""

import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from pneumonia.data.parallel import available_cores, parallel_map
from pneumonia.errors import DataError
from pneumonia.files import atomic_folder
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA

Array = npt.NDArray[np.floating[Any]]
Point = tuple[float, float]
Branch = tuple[float, float, float, float, float]

log = logging.getLogger(__name__)

GRID = 448
"""Side of the square an attenuation map is drawn on, in pixels."""

MIN_IMAGES = 60
"""Smaller data sets have a split without one of the streams."""

_REACH = 1.45  # anatomical units from the middle of the square to its edge
_SCALE = GRID / (2 * _REACH)  # pixels of the square per anatomical unit
_MIN_VESSEL = 0.8  # thickness of the last vessels that branch, pixels
# Centres of the five lobes as seen from the front, in half widths of the chest.
_LOBES = ((-0.43, -0.42), (-0.38, -0.02), (-0.46, 0.32), (0.42, -0.38), (0.50, 0.24))
_TRAIN = 0.78  # fraction of train in what val leaves: 0.76 of 600 images
_GROUPS = (0.42, 0.24, 0.14, 0.10, 0.06, 0.04)  # probabilities of 1 to 6 images of a patient


class _Stream(NamedTuple):
    """One of the four kinds of file names."""

    label: int
    subtype: str
    fraction: float  # of all images
    val: int  # images in val
    before: float  # fraction of the train images whose ids come before those of test
    name: str


_STREAMS = (
    _Stream(PNEUMONIA, "bacterial", 0.375, 5, 0.2, "person{patient}_bacteria_{count}"),
    _Stream(PNEUMONIA, "viral", 0.25, 3, 0.0, "person{patient}_virus_{count}"),
    _Stream(NORMAL, "normal", 0.19, 3, 0.0, "IM-{patient:04d}-{image}"),
    _Stream(NORMAL, "normal", 0.185, 5, 0.1, "NORMAL2-IM-{patient:04d}-{image}"),
)


@dataclass(frozen=True)
class Patient:
    """One chest, and the files of its exposures."""

    key: tuple[int, int, int]  # seed of its random numbers: (seed, stream, patient)
    subtype: str  # one of `pneumonia.labels.SUBTYPES`
    files: tuple[str, ...]  # relative to the root of the data set


def write_synthetic(
    root: str | Path, images: int = 600, seed: int = 0, *, workers: int | None = None
) -> Path:
    """Write a data set of synthetic chest X-rays, all of it or nothing.

    5/8 of the JPEG files are pneumonias, 3 in 5 of these bacterial. The same `images` and `seed`
    give the same bytes with any number of workers.

    Args:
        root: Folder to make; must not exist. Missing parents are made.
        images: Number of images in all splits together, at least `MIN_IMAGES`.
        seed: Seed of all randomness, 0 or more.
        workers: Number of processes; None: one for each core.

    Returns:
        The root, as an absolute path.

    Raises:
        DataError: If `root` exists or cannot be made, `images` or `seed` is too small, or a
            worker process died.
    """
    root = Path(root).expanduser().absolute()
    for name, value, least in (("images", images, MIN_IMAGES), ("seed", seed, 0)):
        if value < least:
            raise DataError(f"{name}={value} must be {least} or more.")
    if os.path.lexists(root):
        raise DataError(f"{root} exists already; delete it or choose another folder.")
    patients = list(plan_images(images, seed))
    try:
        with atomic_folder(root) as folder:
            for name in {str(Path(file).parent) for patient in patients for file in patient.files}:
                (folder / name).mkdir(parents=True)
            draw = partial(_draw_patient, folder)
            for _ in parallel_map(draw, patients, "drawing X-rays", workers or available_cores()):
                pass
    except OSError as error:
        raise DataError(f"{root} cannot be written: {error}. Choose another folder.") from error
    log.info("wrote %d synthetic X-rays to %s", images, root)
    return root


def plan_images(images: int, seed: int) -> Iterator[Patient]:
    """Plan the patients of a data set, in the order of streams and ids.

    Ids start at 1 in every stream; each split of a stream is one block of ids, except that train
    may lie on both sides of test.
    """
    rng = np.random.default_rng(seed)
    train = round(_TRAIN * (images - 16))
    totals = {"train": train, "test": images - 16 - train}
    # Rounding cumulative sums makes every split add up to its total.
    edges = np.cumsum([0.0] + [stream.fraction for stream in _STREAMS])
    for number, stream in enumerate(_STREAMS):
        sizes = {
            split: round(total * edges[number + 1]) - round(total * edges[number])
            for split, total in totals.items()
        }
        before = round(stream.before * sizes["train"])
        blocks = (
            ("train", before),
            ("test", sizes["test"]),
            ("train", sizes["train"] - before),
            ("val", stream.val),
        )
        patient = count = 0
        for split, size in blocks:
            left = size
            while left > 0:
                group = min(left, 1 + int(rng.choice(len(_GROUPS), p=_GROUPS)))
                left -= group
                patient += 1
                nested = group > 1 and rng.binomial(1, 0.3)
                files = []
                for k in range(1, group + 1):
                    count += 1
                    image = f"0001-{k:04d}" if nested and k > 1 else f"{1 if nested else k:04d}"
                    name = stream.name.format(patient=patient, count=count, image=image)
                    files.append(f"{split}/{CLASSES[stream.label]}/{name}.jpeg")
                yield Patient((seed, number, patient), stream.subtype, tuple(files))


def _draw_patient(root: Path, patient: Patient) -> None:
    attenuation = chest(patient.subtype, np.random.default_rng(patient.key))
    for k, file in enumerate(patient.files, start=1):
        rng = np.random.default_rng((*patient.key, k))
        film = Image.fromarray(expose(attenuation, rng))
        film.save(root / file, "JPEG", quality=int(rng.integers(75, 93)))


def chest(subtype: str, rng: np.random.Generator) -> Array:
    """Draw the attenuation map of one patient.

    Args:
        subtype: `normal`, `bacterial` (lobar consolidation in one lung) or `viral` (interstitial
            markings in both).
        rng: Draws the build before the disease: the same seed is the same child in each subtype.

    Returns:
        Attenuation [GRID, GRID], float32: 0 is air outside the body, about 1 is the spine.
    """
    thorax = _Thorax.grow(rng)
    bones = _bones(thorax, rng)
    tissue = _soft_tissue(thorax, rng)
    vessels = _vessels(rng, branches=7) * rng.uniform(0.10, 0.20)
    air, blackness = np.ones_like(thorax.air), rng.uniform(0.50, 0.58)
    if subtype == "bacterial":
        air, vessels = _consolidation(thorax, vessels, rng)
    elif subtype == "viral":
        air, vessels = _interstitial(thorax, vessels, rng)
    lungs = thorax.air * (vessels - blackness * air)
    return np.maximum(tissue + bones + lungs, 0.0).astype(np.float32)


def expose(attenuation: Array, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Take one radiograph of what `chest` drew: pose, framing, exposure, blur, grain, marker.

    Returns:
        Grey levels [H, W], uint8, bone bright and air dark; W is 288..360 and W/H 1.0..1.4.
    """
    width = int(rng.integers(288, 361))
    height = max(256, round(width / rng.uniform(1.0, 1.4)))
    film = np.asarray(_pose(attenuation, width, height, rng))
    film = film + 0.03 * _noise(rng, 3, film.shape)  # scatter: a slow drift across the plate
    low, high = np.quantile(film, (0.02, 0.995))  # a technician aims at the same greys
    low, high = low + rng.uniform(-0.12, 0.06), high + rng.uniform(-0.08, 0.22)
    grey = np.clip((film - low) / (high - low), 0.0, 1.0) ** rng.uniform(0.65, 1.35)
    grey = rng.uniform(0.0, 0.05) + rng.uniform(0.82, 0.97) * grey
    grain = rng.standard_normal(film.shape, np.float32)
    grey = 255.0 * (grey + rng.uniform(0.006, 0.025) * (0.5 + grey) * grain)
    picture = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    # The side marker, near the patient's right shoulder.
    spot = rng.uniform(0.02, 0.12) * width, rng.uniform(0.03, 0.35) * height
    font = ImageFont.load_default(float(rng.uniform(12, 22)))
    if rng.binomial(1, 0.8):
        ImageDraw.Draw(picture).text(spot, "R", fill=int(rng.integers(200, 256)), font=font)
    return np.asarray(picture)


@dataclass(frozen=True)
class _Thorax:
    """The frame of one patient, in which everything else is placed."""

    x: Array  # [GRID, GRID], distance to the right of the midline, in anatomical units
    y: Array  # [GRID, GRID], distance below the middle of the chest
    half: float  # half width of the rib cage at its widest
    wall: Array  # [GRID, 1], half width of the rib cage at each height
    floor: Array  # [1, GRID], height of the diaphragm at each column
    heart: Array  # [GRID, GRID], how much heart a ray crosses, 0 to 1
    air: Array  # [GRID, GRID], how much lung a ray crosses, 0 to 1

    @classmethod
    def grow(cls, rng: np.random.Generator) -> "_Thorax":
        """Draw the build: width and taper of the cage, depth of the breath, heart, lungs."""
        axis = np.linspace(-_REACH, _REACH, GRID, dtype=np.float32)
        x, y = axis[None, :], axis[:, None]
        half, top, widest = rng.uniform(0.74, 0.86), rng.uniform(-0.82, -0.74), 0.45
        rise = np.clip((widest - y) / (widest - top), 0, 1)
        wall = half * (1 - rise ** rng.uniform(2.2, 2.9)) ** 0.5 - 0.05 * np.maximum(y - widest, 0)

        breath = rng.uniform(0.30, 0.46)
        lower = rng.uniform(0.03, 0.09) * _step(x, 0.3)  # the liver lifts the right dome
        dome = rng.uniform(0.7, 1.3) * (np.abs(x) - 0.45 * half) ** 2
        floor = breath + lower + dome

        root = 0.12 + 0.05 * np.maximum(y, 0)
        outline = _step(wall - np.abs(x) - 0.04, 0.05) * _step(floor - y, 0.04)
        outline = outline * _step(np.abs(x) - root, 0.10)
        depth = np.sqrt(np.clip(1 - (x / np.maximum(wall, 0.05)) ** 2, 0, 1))

        size = rng.uniform(0.88, 1.10) * half
        centre, radii = (0.17 * size, 0.17), (0.60 * size, 0.46 * size)
        heart = _ellipse(x, y, centre, radii, rng.uniform(0.5, 0.9))
        heart = _step(heart, 0.10) * (1 - _step(y - floor, 0.1))
        air = outline * (0.55 + 0.45 * depth) * (1 - 0.75 * heart)
        x, y = np.broadcast_arrays(x, y)
        return cls(x, y, half, wall, floor, heart, air)


def _soft_tissue(thorax: _Thorax, rng: np.random.Generator) -> Array:
    """Body wall, shoulders and arms, belly, heart, windpipe and a child's large thymus."""
    x, y, half = thorax.x, thorax.y, thorax.half
    flesh = rng.uniform(0.08, 0.18)
    neck, shoulder = 0.30, _step(y + rng.uniform(0.78, 0.88), 0.35)
    side = neck + (half + flesh - neck) * shoulder
    body = np.sqrt(np.clip(1 - (x / side) ** 2, 0, 1)) * rng.uniform(0.55, 0.65)

    lift = rng.uniform(-0.5, 0.9)  # arms from hanging down to raised beside the head
    for sign in (-1, 1):
        joint = (sign * (half + 0.06), -0.66)
        reach = lift + rng.uniform(-0.15, 0.15)
        hand = (joint[0] + sign * 0.9 * math.cos(reach), joint[1] - 0.9 * math.sin(reach))
        away = _capsule(x, y, joint, hand)
        body = np.maximum(body, 0.40 * np.sqrt(np.clip(1 - (away / 0.21) ** 2, 0, 1)))
        body = body + 0.22 * _tube(away, 0.055)

    belly = _step(y - thorax.floor, 0.05) * _step(half + 0.05 - np.abs(x), 0.15)
    gas = rng.uniform(0.08, 0.22), rng.uniform(0.08, 0.20)
    bubble = _step(_ellipse(x, y, (0.42, 0.68), gas), 0.06)
    belly = 0.16 * belly * (1 - rng.uniform(0.0, 0.9) * bubble)

    thymus = rng.uniform(0.14, 0.27) * _step(-0.05 - y, 0.4) + 0.10 * _step(y + 0.1, 0.3)
    middle = _step(thymus - np.abs(x - 0.02), 0.09) * _step(y + 0.75, 0.3)
    trachea = _step(0.045 - np.abs(x + 0.01), 0.03) * _step(-0.18 - y, 0.08)
    centre = 0.20 * np.maximum(thorax.heart, middle) - 0.13 * trachea
    return np.asarray(body + belly + centre, np.float32)


def _bones(thorax: _Thorax, rng: np.random.Generator) -> Array:
    """Spine, collar bones, shoulder blades and the front and back halves of the ribs."""
    x, y, half, wall = thorax.x, thorax.y, thorax.half, np.maximum(thorax.wall, 0.05)
    out = np.abs(x) / wall
    pitch = rng.uniform(0.150, 0.175)
    caged = _step(1.02 - out, 0.04) * _step(y + 0.80, 0.08)

    # All ribs of a kind are one curve repeated down the cage: the phase tells them apart.
    sweep = rng.uniform(0.16, 0.30)
    back = (y - sweep * out**2 + 0.12 * np.sin(np.pi * np.clip(out, 0, 1)) + 0.7) / pitch
    front = (y + rng.uniform(0.30, 0.45) * (out - 0.7) + 0.25 * (1 - out) ** 2 + 0.7) / pitch
    rear = _tube((np.mod(back, 1) - 0.5) * pitch, 0.042) * _step(out - 0.1, 0.1)
    fore = _tube((np.mod(front, 1) - 0.5) * pitch, 0.038) * _step(out - 0.42, 0.25)
    fade = 1 - 0.6 * _step(y - thorax.floor, 0.15)
    ribs = caged * fade * (rng.uniform(0.18, 0.30) * rear + rng.uniform(0.08, 0.15) * fore)
    rim = np.exp(-(((np.abs(x) - wall + 0.02) / 0.025) ** 2))  # ribs seen end-on at the wall
    rim = rim * (0.5 + 0.5 * np.cos(2 * np.pi * back)) * _step(y + 0.6, 0.3)

    bend = rng.uniform(-0.02, 0.02) * np.sin(2.2 * y + rng.uniform(0, 6))
    disc = np.mod(y / (0.85 * pitch), 1)
    vertebra = _step(0.42 - np.abs(disc - 0.5), 0.16) * 0.6 + 0.4
    pedicle = np.exp(-(((np.abs(x - bend) - 0.055) / 0.02) ** 2 + ((disc - 0.35) / 0.15) ** 2))
    spine = _step(0.10 - np.abs(x - bend), 0.04) * (vertebra + 0.35 * pedicle)

    rest = np.zeros_like(x)
    drop = rng.uniform(-0.10, 0.05)
    for sign in (-1, 1):
        start, end = (sign * 0.11, -0.63), (sign * 0.92 * half, -0.74 - drop)
        wave = 0.04 * np.sin(2 * np.pi * (sign * x - 0.11) / half)
        rest = rest + 0.34 * _tube(_capsule(x, y + wave, start, end), 0.038)
        blade = _ellipse(x, y, (sign * (half + 0.02), -0.36), (0.13, 0.30), -sign * 0.3)
        rest = rest + 0.07 * _step(blade, 0.05)
    return np.asarray(ribs + 0.16 * rim + rng.uniform(0.05, 0.12) * spine + rest, np.float32)


def _vessels(rng: np.random.Generator, branches: int) -> Array:
    """The bronchovascular trees of both lungs [GRID, GRID], 0..1, thinning outwards."""
    canvas = Image.new("L", (GRID, GRID))
    pen = ImageDraw.Draw(canvas)
    for sign in (-1, 1):
        for angle in np.linspace(-1.25, 1.35, branches) + rng.normal(0, 0.15, branches):
            start = sign * 0.20, rng.uniform(-0.12, 0.08), float(angle), 5.0, 0.16
            for x, y, heading, thick, length in _grow(start, rng):
                x1, y1 = x + sign * length * math.cos(heading), y + length * math.sin(heading)
                line = [(v + _REACH) * _SCALE for v in (x, y, x1, y1)]
                pen.line(line, fill=int(70 + 35 * thick), width=max(1, round(thick)))
    return np.asarray(canvas.filter(ImageFilter.GaussianBlur(1.2)), np.float32) / 255


def _grow(branch: Branch, rng: np.random.Generator) -> Iterator[Branch]:
    """Yield (x, y, heading, thickness, length) of a branch and all its branches."""
    stack = [branch]
    while stack:
        x, y, heading, thick, length = stack.pop()
        yield x, y, heading, thick, length
        if thick > _MIN_VESSEL:
            x += math.copysign(length * math.cos(heading), x)
            y += length * math.sin(heading)
            turns = rng.normal(0, 0.30, 1 + rng.binomial(1, 0.55))
            stack += [(x, y, heading + float(t), 0.72 * thick, 0.9 * length) for t in turns]


def _consolidation(
    thorax: _Thorax, vessels: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Fill part of one or two lobes of one lung; vessels disappear, airways stay open."""
    first = int(rng.integers(len(_LOBES)))
    side = [i for i, (x, _) in enumerate(_LOBES) if x * _LOBES[first][0] > 0 and i != first]
    lobes = [first, *rng.permutation(side)[: rng.binomial(1, 0.25)]]
    open_air = np.ones_like(thorax.x)
    for i in lobes:
        x, y = (thorax.half * v + rng.normal(0, 0.04) for v in _LOBES[i])
        radii = rng.uniform(0.20, 0.42), rng.uniform(0.20, 0.38)
        inside = _ellipse(thorax.x, thorax.y, (x, y), radii, rng.uniform(-0.6, 0.6))
        ragged = inside + 0.05 * _noise(rng, 14) + 0.02 * _noise(rng, 40)
        opacity = _step(ragged, rng.uniform(0.10, 0.30)) * (1 + 0.12 * _noise(rng, 30))
        open_air = open_air * (1 - np.clip(rng.uniform(0.55, 1.0) * opacity, 0, 1))
    filled = 1 - open_air
    return open_air, vessels * (1 - 1.6 * filled)


def _interstitial(thorax: _Thorax, vessels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Thicken airways and septa of both lungs: streaks from the hila, a net, some haze."""
    severity = rng.uniform(0.5, 1.0)
    hila = np.hypot(np.abs(thorax.x) - 0.30, thorax.y)
    weight = rng.uniform(0.25, 0.6) + np.exp(-((hila / rng.uniform(0.30, 0.50)) ** 2))
    # The zero crossings of smooth noise are thin closed curves: a net of septa.
    net = sum(np.exp(-((_noise(rng, cells) / 0.35) ** 2)) for cells in (18, 32)) - 0.65
    streaks = _vessels(rng, branches=12)
    marks = severity * weight * (0.17 * net + 0.16 * streaks)
    haze = severity * weight * rng.uniform(0.0, 0.14)
    return 1 - haze, vessels + marks


def _pose(attenuation: Array, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Rotate, shift, stretch and frame a chest onto a film of width by height pixels."""
    turn = math.radians(min(max(rng.normal(0, 3), -8), 8))
    span = rng.uniform(1.75, 2.35)  # anatomical units across the film
    step = span / width * GRID / (2 * _REACH)  # not _SCALE: the last bit differs
    tall = step * rng.uniform(0.92, 1.08)
    a, b = step * math.cos(turn), -tall * math.sin(turn)
    d, e = step * math.sin(turn), tall * math.cos(turn)
    cx = GRID / 2 + _SCALE * rng.uniform(-0.10, 0.10)
    cy = GRID / 2 + _SCALE * rng.uniform(-0.14, 0.06)
    c, f = cx - a * width / 2 - b * height / 2, cy - d * width / 2 - e * height / 2
    source = Image.fromarray(attenuation)
    return source.transform(
        (width, height), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BICUBIC
    )


def _step(distance: Array, width: float) -> Array:
    """A soft edge: 0 to 1 as a signed distance passes through 0 within `width`."""
    t = np.clip(distance / width + 0.5, 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _ellipse(x: Array, y: Array, centre: Point, radii: Point, turn: float = 0.0) -> Array:
    """Approximate signed distance to the edge of a rotated ellipse; positive inside."""
    (cx, cy), (rx, ry) = centre, radii
    cos, sin = math.cos(turn), math.sin(turn)
    u = ((x - cx) * cos + (y - cy) * sin) / rx
    v = ((y - cy) * cos - (x - cx) * sin) / ry
    return np.asarray((1 - np.hypot(u, v)) * min(radii))


def _capsule(x: Array, y: Array, start: Point, end: Point) -> Array:
    """Distance to the straight line from `start` to `end`."""
    (x0, y0), (x1, y1) = start, end
    along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2)
    along = np.clip(along, 0, 1)
    return np.asarray(np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0)))


def _tube(distance: Array, radius: float) -> Array:
    """Path length across a hollow bone: bright cortex at both edges, paler marrow."""
    outer = np.sqrt(np.clip(1 - (distance / radius) ** 2, 0, 1))
    inner = np.sqrt(np.clip(1 - (distance / (0.75 * radius)) ** 2, 0, 1))
    return np.asarray(outer - 0.45 * inner)


def _noise(rng: np.random.Generator, cells: int, shape: tuple[int, ...] = (GRID, GRID)) -> Array:
    """Smooth noise of unit scale with about `cells` bumps across an array of `shape`."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
    return np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))
