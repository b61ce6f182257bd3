"""Damaged images and tables of every kind: a result or one sentence, soon, and nothing else."""

import gc
import re
import warnings
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from formats import SYNTAXES
from fuzzing import cases, changes, damaged, soon, tables
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import JPEGBaseline8Bit

from pneumonia.data.image_io import read_grey
from pneumonia.data.manifest import read_table
from pneumonia.errors import ConfigError, DataError
from pneumonia.tables import read_csv

SIDE = 64
PATIENT = {"PatientName": "SECRET^JANE", "PatientID": "SECRET", "StudyDescription": "SECRET"}
AWKWARD = (b"\0", b"\xff", b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xd9")
LIBTIFF = re.compile(r"(?m)^(tempfile\.tif|_?\w*(TIFF|LZW|Zip|ZIP|PackBits|Fax|JPEG)[^:]*): .*\n")


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
    files += [saved(grey.convert(m), "TIFF") for m in ("RGBA", "P")]
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


@cases(200, 5000)
def test_a_damaged_file_is_an_image_or_one_sentence(sound, some_cases, capfd, caplog):
    for content in sound:
        assert np.asarray(read_grey(content)).std() > 5

    @some_cases
    @given(st.integers(0, len(sound) - 1), changes(AWKWARD))
    def always_an_image_or_a_sentence(which, some):
        refusal = start = "The image cannot be read ("
        with soon():
            try:
                assert read_grey(damaged(sound[which], some)).mode == "L"
            except DataError as error:
                refusal = str(error)
        assert refusal.startswith(start)
        assert not [word for word in ("\n", "CRET") if word in refusal]

    capfd.readouterr()
    gc.collect()  # else files that other tests left open warn in between
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        always_an_image_or_a_sentence()
    assert not [str(warning.message) for warning in warned]
    assert not [record.getMessage() for record in caplog.records]
    out, err = capfd.readouterr()
    assert (out, LIBTIFF.sub("", err)) == ("", "")  # libtiff prints, and cannot be told not to


NAMES = ("path", "label", "split", "patient", "subtype")
CELL = st.one_of(
    st.sampled_from(
        [
            *("NORMAL", "PNEUMONIA", "0", "1", " 1", "normal", "viral", "bacterial", "unknown"),
            *("train", "val", "test", "Test", "", " ", "nan", "None", "\0", "a\0b", "\udcff"),
            *("a.png", "b.png", "./a.png", "../images/a.png", "/a.png", ".", "~", "a.png/", "é"),
            *('"', "a,b", "a\nb", "a\rb", "\ufeff", "x" * 300, "x" * 200_000, "\x1b[2J", "=1+1"),
        ]
    ),
    st.text(max_size=6),
)
HEADER = st.just(list(NAMES)) | st.lists(
    st.sampled_from([*NAMES, " label ", "Path", ""]) | st.text(max_size=5), min_size=1, max_size=7
)
PATIENTS = st.sampled_from([None, "column", "file", r"(\w)", r"(", "", "(a)(b)"])


@cases(200, 20_000)
def test_a_table_of_any_kind_gives_its_images_or_one_sentence(tmp_path, write_images, some_cases):
    names = [f"{letter}.png" for letter in "abcdefgh"]
    write_images(tmp_path, names)
    lines = [",".join(NAMES)]
    for number, name in enumerate(names):
        kind = (("NORMAL", "normal"), ("PNEUMONIA", "viral"))[number % 2]
        lines.append(f"{name},{kind[0]},train,p{number // 4},{kind[1]}")
    whole = "\n".join(lines).encode() + b"\n"
    file = tmp_path / "table.csv"
    file.write_bytes(whole)
    assert len(read_table(file).read("train", "column")) == len(names)

    @some_cases
    @given(tables(whole, HEADER, CELL), PATIENTS)
    def always_images_or_a_sentence(content, patients):
        file.write_bytes(content)
        with soon(), suppress(DataError, ConfigError):
            table = read_table(file)
            assert len(table.rows) == len(read_csv(file).rows)
            samples = table.read("train", patients)
            assert len(samples) == sum(row.split == "train" for row in table.rows)
            assert all(Path(path).is_file() for path in samples.paths)

    always_images_or_a_sentence()
