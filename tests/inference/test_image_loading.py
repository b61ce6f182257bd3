"""Which files of a folder are predicted, and what is said of the others."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.fileset import FileSet
from pydicom.uid import generate_uid

from pneumonia.errors import DataError
from pneumonia.inference.image_loading import list_images

GREY = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))


@pytest.fixture
def folder(tmp_path, make_dicom) -> Path:
    """Images under names of the field, and files without an image."""
    root = tmp_path / "export"
    (root / "below" / ".hidden").mkdir(parents=True)
    for name in ("a.jpg", "b.jfif", "c.jpe", "no suffix", "scan.0001", "below/d.JPEG"):
        Image.fromarray(GREY).save(root / name, "JPEG")
    for name in ("1.2.276.0.7230010.3.1.4.1.1", "IMG00001.IMA", "e.dcm", "CR.1.2.276.0.7"):
        (root / name).write_bytes(make_dicom(GREY))
    (root / "broken.png").write_bytes(b"not a picture")
    (root / "report.dcm").write_bytes(make_dicom(GREY, Rows=None, PixelData=None))
    (root / "notes.txt").write_text("BM is how a bitmap starts")
    (root / "BMI").write_text("BM is how a bitmap starts")
    (root / "Thumbs.db").write_bytes(b"\xff\xd8\xff")
    (root / ".DS_Store").write_bytes(b"x")
    return root


IMAGES = {
    *("a.jpg", "b.jfif", "c.jpe", "no suffix", "scan.0001", "d.JPEG", "broken.png", "e.dcm"),
    *("1.2.276.0.7230010.3.1.4.1.1", "IMG00001.IMA", "CR.1.2.276.0.7"),
}
OTHERS = {"report.dcm", "notes.txt", "BMI", "Thumbs.db", ".DS_Store", ".hidden"}


def names(paths: list[str]) -> set[str]:
    return {Path(path).name for path in paths}


def test_images_are_found_by_content_and_all_other_files_are_counted(folder):
    found, skipped = list_images([str(folder)])
    assert names(found) == IMAGES
    assert names(skipped) == OTHERS
    assert len(found) + len(skipped) == len(IMAGES) + len(OTHERS)


def test_a_skipped_file_is_named_and_no_failure(predict, folder, tmp_path, capsys):
    (folder / "broken.png").unlink()
    assert predict(folder, "--out", tmp_path / "o.csv") == 0
    assert f"Skipped {len(OTHERS)} files" in capsys.readouterr().err


def test_a_file_without_pixels_that_is_named_itself_is_an_error(predict, folder, tmp_path):
    assert predict(folder / "report.dcm", "--out", tmp_path / "o.csv") == 1


def test_a_cd_with_a_dicomdir_is_predicted(predict, make_dicom, tmp_path):
    attributes = {"PatientID": "1", "PatientName": "x", "StudyDate": "20200101", "StudyID": "1"}
    attributes |= {"StudyTime": "120000", "StudyInstanceUID": generate_uid(), "Modality": "CR"}
    attributes |= {"SeriesInstanceUID": generate_uid(), "SeriesNumber": 1, "InstanceNumber": 1}
    (tmp_path / "one.dcm").write_bytes(make_dicom(GREY, **attributes))
    disc = FileSet()
    disc.add(tmp_path / "one.dcm")
    disc.write(tmp_path / "cd")
    found, skipped = list_images([str(tmp_path / "cd")])
    assert len(found) == 1
    assert names(skipped) == {"DICOMDIR"}
    assert predict(tmp_path / "cd", "--out", tmp_path / "o.csv") == 0


def test_links_are_followed_once(folder, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/linked").symlink_to(folder)
    (tmp_path / "set/one.jpg").symlink_to(folder / "a.jpg")
    (folder / "loop").symlink_to(tmp_path / "set")
    found, _ = list_images([str(tmp_path / "set")])
    assert names(found) == IMAGES | {"one.jpg"}


def test_a_folder_without_images_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataError, match=tmp_path.name):
        list_images([str(tmp_path)])
