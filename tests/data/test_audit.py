"""The audit: no errors for a sound data set, and problems with the files they concern."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from pneumonia.data.audit.checks import AUGMENTATIONS, audit, near_duplicates
from pneumonia.data.audit.report import audit_tables
from pneumonia.data.transforms import Augmentation
from pneumonia.errors import DataError


@pytest.fixture
def copy(synthetic, tmp_path) -> Path:
    return shutil.copytree(synthetic, tmp_path / "set")


def checks(found) -> dict[str, tuple[str, ...]]:
    return {finding.check: finding.files for finding in found.findings}


def shown(found, width: int = 200) -> str:
    console = Console(width=width, file=open(os.devnull, "w"), record=True)  # noqa: PTH123, SIM115
    for part in audit_tables(found):
        console.print(part)
    return console.export_text()


def images(root: Path, folder: str) -> list[Path]:
    return sorted((root / folder).iterdir())


def name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def test_the_synthetic_data_set_has_no_errors(synthetic) -> None:
    found = audit(synthetic)
    assert found.errors == []
    assert not any(overlap.is_error for overlap in found.overlaps)
    assert sum(count.images for count in found.counts) == 60
    assert "counts" in checks(found)  # Kaggle's names, but not its numbers


def test_every_problem_names_its_files(copy) -> None:
    train, test = images(copy, "train/PNEUMONIA"), images(copy, "test/NORMAL")
    normal = images(copy, "train/NORMAL")

    train[0].write_bytes(b"")
    train[1].write_bytes(train[1].read_bytes()[:2000])
    train[2].write_text("a text file named .jpeg")
    shutil.copy(test[0], copy / "train/NORMAL/IM-9001-0001.jpeg")
    with Image.open(test[1]) as image:
        image.resize((300, 300)).save(copy / "train/NORMAL/IM-9002-0001.jpeg", quality=60)
    patient = normal[0].stem.rsplit("-", 1)[0] + "-0099"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(
        copy / f"test/NORMAL/{patient}.jpeg"
    )
    shutil.rmtree(copy / "val/NORMAL")
    (copy / "train/COVID").mkdir()
    (copy / "train/NORMAL/nested").mkdir()
    shutil.copy(normal[3], copy / "train/loose.jpeg")
    shutil.move(train[5], copy / "train/NORMAL" / train[5].name)
    shutil.copy(train[6], copy / "train/PNEUMONIA/a name, of=no 'scheme' é.jpeg")
    shutil.copy(train[6], copy / "train/NORMAL/IM-9003-0001.jpeg")

    found = audit(copy)
    files = checks(found)
    assert set(files["unreadable"]) == {name(copy, path) for path in train[:3]}
    assert set(files["identical across splits"]) == {
        name(copy, test[0]),
        "train/NORMAL/IM-9001-0001.jpeg",
    }
    assert set(files["near-identical across splits"]) == {
        name(copy, test[1]),
        "train/NORMAL/IM-9002-0001.jpeg",
    }
    assert {f"test/NORMAL/{patient}.jpeg", name(copy, normal[0])} <= set(
        files["patient across splits"]
    )
    assert files["empty class"] == ("val/NORMAL",)
    assert set(files["misplaced"]) == {"train/COVID", "train/loose.jpeg", "train/NORMAL/nested"}
    assert files["wrong class"] == (f"train/NORMAL/{train[5].name}",)
    assert files["unknown name"] == ("train/PNEUMONIA/a name, of=no 'scheme' é.jpeg",)
    assert "train/NORMAL/IM-9003-0001.jpeg" in files["identical across classes"]
    text = shown(found)
    for path in (*(path.name for path in train[:3]), "val/NORMAL"):
        assert path in text
    written = json.loads(json.dumps(found.to_dict()))
    assert set(written["unreadable"]) == set(files["unreadable"])
    assert len(written["errors"]) == len(found.errors)


def test_repeats_within_a_split_are_warnings(kaggle) -> None:
    original = images(kaggle, "train/NORMAL")[0]
    shutil.copy(original, original.with_name(original.stem + "-0007.jpeg"))
    shutil.copy(original, original.with_name("IM-7777-0001.jpeg"))
    found = audit(kaggle)
    assert found.errors == []
    assert len(checks(found)["identical in one split"]) == 3


def test_other_folders_are_refused(tmp_path, kaggle) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "void").mkdir()
    for path in (tmp_path / "file", tmp_path / "void", kaggle / "train"):
        with pytest.raises(DataError, match=f"^{path} "):
            audit(path)
    with pytest.raises(DataError, match=f"did you mean {kaggle}"):
        audit(kaggle.parent)


def test_ignored_files_are_named(kaggle) -> None:
    shutil.copytree(kaggle / "val", kaggle / "__MACOSX/val")
    shutil.copytree(kaggle / "val", kaggle / "chest_xray/val")
    (kaggle / "train/NORMAL/.DS_Store").write_text("")
    (kaggle / "train/NORMAL/notes.txt").write_text("")
    shutil.rmtree(kaggle / "test")
    found = audit(kaggle)
    assert found.errors == []
    assert set(checks(found)["ignored"]) == {"chest_xray", "train/NORMAL/notes.txt"}
    assert checks(found)["no split"] == ("test",)


def test_link_loops_and_pipes_are_reported(kaggle) -> None:
    (kaggle / "train/NORMAL/up").symlink_to(kaggle / "train", target_is_directory=True)
    loop = kaggle / "train/NORMAL/IM-0999-0001.jpeg"
    loop.symlink_to(loop)
    (kaggle / "train/NORMAL/IM-0998-0001.jpeg").symlink_to(kaggle / "nowhere.jpeg")
    os.mkfifo(kaggle / "train/NORMAL/IM-0997-0001.jpeg")
    files = checks(audit(kaggle))
    assert files["misplaced"] == ("train/NORMAL/up",)
    assert files["unreadable"] == tuple(f"train/NORMAL/IM-0{n}-0001.jpeg" for n in (997, 998, 999))


def test_unusual_names_are_safe_to_print(kaggle) -> None:
    source = images(kaggle, "train/NORMAL")[0]
    for odd in ("[red]x, y=1 'z' \"q\" ü.png", "bell\x1b[31m\n.png", os.fsdecode(b"\xff\xfe.png")):
        shutil.copy(source, source.with_name(odd))
    found = audit(kaggle)
    text = shown(found)
    assert "[red]x, y=1 'z' \"q\" ü.png" in text
    assert "\x1b[31m" not in text
    assert len(checks(found)["unknown name"]) == 3
    text.encode()
    json.dumps(found.to_dict()).encode()


def test_patients_of_other_names(kaggle, tmp_path, write_images) -> None:
    root = tmp_path / "hospital"
    write_images(root / "train", ["NORMAL/p1_a.png", "NORMAL/p2_a.png", "PNEUMONIA/p3_a.png"])
    write_images(root / "test", ["NORMAL/p1_b.png", "PNEUMONIA/p4_a.png"])
    found = audit(root)
    assert found.errors == []
    assert len(checks(found)["unknown name"]) == 5
    assert all(count.published is None for count in found.counts)
    found = audit(root, patients=r"(p\d+)_")
    assert set(checks(found)["patient across splits"]) == {
        "test/NORMAL/p1_b.png",
        "train/NORMAL/p1_a.png",
    }
    assert audit(root, patients="file").errors == []


def test_shortcuts_of_the_file_are_measured(tmp_path) -> None:
    random = np.random.default_rng(2)
    for label, (mode, size) in {"NORMAL": ("L", (60, 48)), "PNEUMONIA": ("RGB", (60, 30))}.items():
        folder = tmp_path / "train" / label
        folder.mkdir(parents=True)
        for n in range(8):
            pixels = random.integers(0, 256, size[::-1], np.uint8)
            image = Image.fromarray(pixels).convert(mode if n < 4 else "L")
            stem = f"IM-{n:04d}-0001" if label == "NORMAL" else f"person{n}_virus_{n}"
            image.save(folder / f"{stem}.png")
    found = {shortcut.attribute: shortcut for shortcut in audit(tmp_path).shortcuts}
    assert found["colour mode"].auroc == pytest.approx(0.75)
    assert found["colour mode"].flagged
    assert found["width"].auroc == pytest.approx(0.5)
    assert not found["width"].flagged
    assert found["height"].auroc == found["aspect ratio"].auroc == pytest.approx(1.0)


CUES = {
    "sharpness": lambda pixels: np.asarray(
        Image.fromarray(pixels.astype(np.uint8)).reduce(2).resize(pixels.shape)
    ),
    "brightness": lambda pixels: pixels + 40,
    "contrast": lambda pixels: 100 + 0.6 * (pixels - 100),
    "saturated pixels": lambda pixels: np.where(WHERE == "inside", STRIPES, pixels),
    "black border": lambda pixels: np.where(WHERE == "left", 0, pixels),
}
WHERE = np.full((224, 224), "elsewhere")
WHERE[20:28, 20:28], WHERE[:, :2] = "inside", "left"
STRIPES = 255 * (np.arange(224) % 2)  # black inside of an image is no border


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Twelve smooth ones with some noise, of different brightness and contrast."""
    random, found = np.random.default_rng(5), []
    for level, spread in zip(random.permutation(12), range(12), strict=True):
        field = Image.fromarray(random.standard_normal((8, 8)).astype(np.float32))
        smooth = np.asarray(field.resize((224, 224), Image.Resampling.BICUBIC))
        noise = random.standard_normal((224, 224)) / 5
        unit = (smooth - smooth.mean()) / smooth.std() + noise
        found.append((90 + 2 * level + (18 + spread) * unit).clip(20, 200))
    return found


@pytest.fixture
def write_classes(tmp_path, pictures):
    """Writes the same pictures into both classes, those of PNEUMONIA with a change."""

    def write(change) -> Path:
        for label, pixels_of in {"NORMAL": lambda pixels: pixels, "PNEUMONIA": change}.items():
            folder = tmp_path / "train" / label
            folder.mkdir(parents=True, exist_ok=True)
            for n, pixels in enumerate(pictures):
                image = Image.fromarray(np.rint(pixels_of(pixels)).astype(np.uint8))
                image.save(folder / f"{n}.png")
        return tmp_path

    return write


@pytest.mark.parametrize("cue", CUES)
def test_a_cue_of_the_pixels_is_found_alone(cue, write_classes) -> None:
    found = {s["attribute"]: s for s in audit(write_classes(CUES[cue])).to_dict()["shortcuts"]}
    assert found[cue]["auroc"] > 0.95
    assert found[cue]["flagged"]
    assert found[cue]["augmentation"]
    assert [name for name in CUES if found[name]["flagged"]] == [cue]
    assert found["aspect ratio"]["auroc"] == 0.5


def test_only_readable_training_images_count_as_shortcuts(write_classes) -> None:
    root = write_classes(lambda pixels: pixels)
    train = images(root, "train/NORMAL")
    for split, change in {"val": 0, "test": 255}.items():
        for label in ("NORMAL", "PNEUMONIA"):
            (root / split / label).mkdir(parents=True)
            picture = Image.new("L", (8, 8), change * (label == "NORMAL"))
            picture.save(root / split / label / "1.png")
    (root / "train/NORMAL/damaged.png").write_bytes(train[0].read_bytes()[:500])
    for label in ("NORMAL", "PNEUMONIA"):
        Image.new("L", (224, 224)).save(root / "train" / label / "uniform.png")
    found = audit(root)
    assert checks(found)["unreadable"] == ("train/NORMAL/damaged.png",)
    assert {s.attribute for s in found.shortcuts} == set(AUGMENTATIONS)
    assert all(s.auroc == 0.5 for s in found.shortcuts)
    assert "sharpness" in shown(found)


def test_near_duplicates_are_joined_through_others() -> None:
    bits = np.random.default_rng(4).integers(0, 256, (5, 72), np.uint8)
    bits[3] = bits[0]
    bits[3, :5] ^= 0xFF  # 40 bits away
    bits[4] = bits[3]
    bits[4, 5:10] ^= 0xFF  # 80 from the first, 40 from the fourth
    prints = [row.tobytes() for row in bits]
    assert sorted(near_duplicates([*prints, prints[1]])) == [[0, 3, 4], [1, 5]]


@pytest.mark.slow
@pytest.mark.shared
def test_real_images_have_no_errors(shared) -> None:
    found = audit(shared / "data/chest_xray")
    assert found.errors == []
    assert [overlap.kind for overlap in found.overlaps] == ["identical"] * 24
    flagged = {
        shortcut.attribute: shortcut.auroc for shortcut in found.shortcuts if shortcut.flagged
    }
    assert set(flagged) == {"bytes", "sharpness", "black border", "contrast"}
    assert flagged["sharpness"] == pytest.approx(0.80, abs=0.01)


def test_every_image_with_a_guessed_bit_depth_is_named(kaggle) -> None:
    names = sorted((kaggle / "train/NORMAL").iterdir())[:5]
    for number, path in enumerate(names):
        pixels = np.arange(24 * 16, dtype=np.uint16).reshape(16, 24) * (8 + number % 2)
        Image.fromarray(pixels).save(path, "PNG")
    (finding,) = (found for found in audit(kaggle).findings if found.check == "content")
    assert set(finding.files) == {f"train/NORMAL/{path.name}" for path in names}
    assert "bits" in finding.message


def test_every_shortcut_names_settings_that_exist():
    settings = {name for names in AUGMENTATIONS.values() for name in names}
    assert settings <= {field.name for field in dataclasses.fields(Augmentation)}
