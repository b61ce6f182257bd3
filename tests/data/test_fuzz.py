"""Damaged files of every format: an image or one sentence, soon, and not a word besides."""

import warnings
from io import BytesIO

import numpy as np
import pytest
from fuzzing import QUICK, SOAK, changes, damaged, soon
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from pneumonia.data.image_io import read_grey
from pneumonia.errors import DataError

SIDE = 64
SYNTAXES = (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
PATIENT = {"PatientName": "SECRET^JANE", "PatientID": "SECRET", "StudyDescription": "SECRET"}
AWKWARD = (b"\0", b"\xff", b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xd9")


@pytest.fixture(scope="module")
def sound(synthetic, make_dicom) -> list[bytes]:
    """A small radiograph in every format, mode and compression that is read."""
    path = min(synthetic.rglob("*.jpeg"))
    grey = Image.open(path).convert("L").resize((SIDE, SIDE + 3))
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6

    def saved(image: Image.Image, kind: str, **options) -> bytes:
        file = BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    files = [saved(grey.convert(m), "JPEG", exif=exif) for m in ("L", "RGB", "CMYK")]
    files += [saved(grey, "JPEG", progressive=True), path.read_bytes()]
    files += [saved(grey.convert(m), "PNG") for m in ("L", "RGBA", "LA", "P", "1")]
    files += [saved(wide, kind) for kind in ("PNG", "TIFF", "PPM")]
    files += [saved(grey, "PNG", exif=exif)]
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        files.append(saved(grey, "TIFF", compression=compression))
    files += [saved(grey.convert(m), "TIFF") for m in ("RGBA", "P", "1")]
    files += [saved(grey, "WEBP"), saved(grey.convert("RGBA"), "WEBP", lossless=True)]
    files += [saved(grey.convert(m), "BMP") for m in ("L", "RGB", "1")]
    files += [saved(grey, "GIF"), saved(grey, "PPM")]
    pixels = np.asarray(grey)
    deep = pixels.astype(np.int16) * 16 - 2048
    for syntax in SYNTAXES:
        window = {"WindowCenter": -100, "WindowWidth": 900, "PixelPaddingValue": -2048}
        files.append(make_dicom(deep, syntax, BitsStored=12, **window, **PATIENT))
        files.append(make_dicom(pixels, syntax, **PATIENT))
    files.append(make_dicom(pixels, JPEGBaseline8Bit, stream=saved(grey, "JPEG"), **PATIENT))
    return files


def check(content: bytes) -> None:
    refusal = "the image (it"
    with soon():
        try:
            assert read_grey(content).mode == "L"
        except DataError as error:
            refusal = str(error)
            assert refusal.startswith("The image cannot be read (")
    assert "\n" not in refusal
    assert "CRET" not in refusal


def hunt(sound, cases: int, capfd, caplog, **options) -> None:
    @settings(max_examples=cases, **options)
    @given(st.integers(0, len(sound) - 1), changes(AWKWARD))
    def never_anything_else(which, some):
        check(damaged(sound[which], some))

    capfd.readouterr()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        never_anything_else()
    assert not [str(warning.message) for warning in warned]
    assert not [record.getMessage() for record in caplog.records]
    assert capfd.readouterr() == ("", "")


def test_the_sound_files_are_read(sound):
    for content in sound:
        assert np.asarray(read_grey(content)).std() > 5


def test_a_damaged_file_is_an_image_or_one_sentence(sound, capfd, caplog):
    hunt(sound, 200, capfd, caplog, **QUICK)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_thousands_of_damaged_files_are_images_or_one_sentence(sound, capfd, caplog):
    hunt(sound, 5000, capfd, caplog, **SOAK)
