"""Synthetic X-rays: the layout, patients and pixels of the data set, and its reproducibility."""

import hashlib
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from pneumonia.data import synthetic as module
from pneumonia.data.patients import identify_patients
from pneumonia.data.synthetic import GRID, chest, plan_images, write_synthetic
from pneumonia.errors import DataError
from pneumonia.labels import SUBTYPES

STREAMS = {"bacteria", "virus", "NORMAL2-IM", "IM"}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("synthetic") / "set", 80, seed=3, workers=1)


@pytest.fixture(scope="module")
def films(root) -> dict[Path, np.ndarray]:
    return {path: np.asarray(Image.open(path)) for path in sorted(root.rglob("*.jpeg"))}


def patient_of(path: Path | str) -> tuple[str, int]:
    """The stream and number; refused if the name contradicts the class folder."""
    (found,) = identify_patients([str(path)], [int("/PNEUMONIA/" in str(path))])
    return found.stream, found.number


def digest(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.jpeg"))
    }


class TestLayout:
    def test_has_the_folders_and_names_of_kaggle(self, root, films):
        files = [path for path in root.rglob("*") if path.is_file()]
        assert len(files) == len(films) == 80
        folders = Counter(str(path.parent.relative_to(root)) for path in files)
        assert set(folders) == {
            f"{s}/{c}" for s in ("train", "val", "test") for c in ("NORMAL", "PNEUMONIA")
        }
        assert folders["val/NORMAL"] == folders["val/PNEUMONIA"] == 8
        assert {patient_of(path)[0] for path in films} == STREAMS
        assert any(re.fullmatch(r".*IM-\d{4}-\d{4}-\d{4}\.jpeg", path.name) for path in films)

    def test_each_split_has_all_streams_from_the_smallest_set_on(self):
        for images in (module.MIN_IMAGES, 61, 97):
            files = [file for patient in plan_images(images, seed=0) for file in patient.files]
            assert len(files) == len(set(files)) == images
            found = {(file.split("/")[0], patient_of(file)[0]) for file in files}
            assert found == {(s, stream) for s in ("train", "val", "test") for stream in STREAMS}


def test_patients_have_blocks_of_ids_that_each_stream_counts_on_its_own():
    plan = list(plan_images(600, seed=0))
    splits = defaultdict(dict)
    for patient in plan:
        assert 1 <= len(patient.files) <= 6
        ((stream, number),) = {patient_of(file) for file in patient.files}
        (splits[stream][number],) = {file.split("/")[0] for file in patient.files}
    assert max(len(patient.files) for patient in plan) > 2
    assert set(splits) == STREAMS
    for split_of in splits.values():
        assert list(split_of) == list(range(1, len(split_of) + 1))
        test = [number for number, split in split_of.items() if split == "test"]
        assert test == list(range(test[0], test[-1] + 1))
    # Keyed on the number alone, patients would seem to leak, as in the real set.
    assert any(len({split_of.get(n) for split_of in splits.values()}) > 1 for n in range(1, 20))


class TestPixels:
    def test_are_grey_and_well_exposed_at_plausible_sizes(self, films):
        for path, film in films.items():
            height, width = film.shape  # two dimensions: one channel
            assert 256 <= height <= 360
            assert 288 <= width <= 360
            assert film.std() > 20, path
            assert np.mean(film == 255) < 0.1, path

    def test_disease_is_added_to_the_same_child(self):
        """The rest of the body is equal, so only the lungs differ between the classes."""
        well, *sick = (chest(subtype, np.random.default_rng(5)) for subtype in SUBTYPES)
        assert well.shape == (GRID, GRID)
        assert well.dtype == np.float32
        for ill in sick:
            changed = ill != well
            assert 0.01 < changed.mean() < 0.5
            assert not changed[:, :20].any()
            assert not changed[-40:].any()

    def test_no_simple_property_predicts_the_class(self, films):
        labels = [path.parent.name == "PNEUMONIA" for path in films]
        measures = {
            "mean intensity": [film.mean() for film in films.values()],
            "contrast": [film.std() for film in films.values()],
            "width": [film.shape[1] for film in films.values()],
            "height": [film.shape[0] for film in films.values()],
            "aspect": [film.shape[1] / film.shape[0] for film in films.values()],
            "bytes": [path.stat().st_size for path in films],
        }
        for name, scores in measures.items():
            assert 0.30 < roc_auc_score(labels, scores) < 0.70, name


def test_bytes_depend_on_seed_and_number_only(root, synthetic, tmp_path):
    again = write_synthetic(tmp_path / "again", 60, workers=2)
    assert digest(synthetic) == digest(again)
    assert not set(digest(root).values()) & set(digest(again).values())
    assert len(set(digest(root).values())) == 80


class TestRefusals:
    def test_existing_root_is_left_untouched(self, tmp_path):
        root = tmp_path / "mine"
        root.mkdir()
        (root / "thesis.txt").write_text("years of work")
        before = list(tmp_path.rglob("*"))
        with pytest.raises(DataError, match=f"^{re.escape(str(root))} exists already"):
            write_synthetic(root, 60)
        assert list(tmp_path.rglob("*")) == before

    def test_parent_that_is_a_file(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match=re.escape(str(tmp_path / "file" / "set"))):
            write_synthetic(tmp_path / "file" / "set", 60)

    @pytest.mark.parametrize("setting", [{"images": 59}, {"seed": -1}], ids=str)
    def test_numbers_out_of_range_are_named(self, tmp_path, setting):
        ((name, value),) = setting.items()
        with pytest.raises(DataError, match=f"{name}={value}"):
            write_synthetic(tmp_path / "set", **setting)
        assert not list(tmp_path.iterdir())


class TestInterruption:
    def test_leaves_nothing(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "expose", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_synthetic(tmp_path / "set", 60, workers=1)
        assert not list(tmp_path.iterdir())

    def test_kill_leaves_no_root_and_next_run_succeeds(self, tmp_path):
        root = tmp_path / "set"
        script = (
            "from pneumonia.data.synthetic import write_synthetic\n"
            f"write_synthetic({str(root)!r}, 2000, workers=2)"
        )
        run = subprocess.Popen([sys.executable, "-c", script])
        deadline = time.monotonic() + 60
        while not list(tmp_path.rglob("*.jpeg")) and time.monotonic() < deadline:
            time.sleep(0.05)
        run.kill()
        run.wait()
        assert not root.exists()
        assert list(tmp_path.rglob("*.jpeg"))
        write_synthetic(root, 60, workers=1)
        assert len(list(root.rglob("*.jpeg"))) == 60
        settled = len(list(tmp_path.rglob("*.jpeg")))
        time.sleep(1)
        assert len(list(tmp_path.rglob("*.jpeg"))) == settled, "workers outlived their parent"
