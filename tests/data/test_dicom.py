"""From DICOM to the grey levels that a workstation shows, and nothing about the patient."""

import logging
import struct
import sys
import traceback
import warnings
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from formats import SYNTAXES
from imagecodecs import jpeg8_encode
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from pneumonia.data.image_io import read_grey
from pneumonia.errors import DataError

TWELVE = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def levels(content: bytes) -> np.ndarray:
    return np.asarray(read_grey(content))


def table(entries: list[int], first: int = 0, depth: int = 16) -> Sequence:
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, depth]
    item.add_new("LUTData", "US", entries)
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    return Sequence([item])


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.keyword)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_every_encoding_gives_the_same_pixels(make_dicom, syntax, dtype):
    y, x = np.mgrid[0:48, 0:51]
    smooth = (128 + 60 * np.sin(x / 9) + 60 * np.cos(y / 7)).astype(np.int64)
    wide = dtype != np.uint8
    pixels = (smooth * 256 - (32768 if dtype == np.int16 else 0) if wide else smooth).astype(dtype)
    assert np.array_equal(levels(make_dicom(pixels, syntax)), smooth)


def test_a_jpeg_and_the_dicom_file_of_it_give_the_same_pixels(make_dicom, synthetic, tmp_path):
    path = min(synthetic.rglob("*.jpeg"))
    grey = np.asarray(read_grey(path))
    encapsulated = make_dicom(grey, JPEGBaseline8Bit, stream=path.read_bytes())
    for content in (
        encapsulated,
        make_dicom(grey),
        make_dicom(grey, WindowCenter=128, WindowWidth=256),
    ):
        assert np.array_equal(levels(content), grey)
    (tmp_path / "named.jpeg").write_bytes(encapsulated)  # content counts, not the name
    assert np.array_equal(np.asarray(read_grey(tmp_path / "named.jpeg")), grey)


MONO1, INVERSE = {"PhotometricInterpretation": "MONOCHROME1"}, {"PresentationLUTShape": "INVERSE"}


@pytest.mark.parametrize(
    ("pixels", "attributes", "expected"),
    [
        (TWELVE, {}, TWELVE >> 4),
        (TWELVE.astype(np.int16), {"BitsStored": 16}, TWELVE >> 4),
        (TWELVE.astype(np.int16) - 2048, {}, TWELVE >> 4),
        (TWELVE, MONO1, 255 - (TWELVE >> 4)),
        (TWELVE, INVERSE, 255 - (TWELVE >> 4)),
        (TWELVE, {"RescaleSlope": -1, "RescaleIntercept": 4095}, 255 - (TWELVE >> 4)),
        (TWELVE, {"VOILUTSequence": table([i // 16 for i in range(4096)], depth=8)}, TWELVE >> 4),
    ],
)
def test_without_a_window_the_depth_of_the_values_is_the_range(
    make_dicom, pixels, attributes, expected
):
    assert np.array_equal(levels(make_dicom(pixels, **({"BitsStored": 12} | attributes))), expected)


def test_the_entries_of_a_big_endian_table(make_dicom):
    attributes = {"BitsStored": 12, "VOILUTSequence": table([16 * i for i in range(4096)])}
    assert np.array_equal(
        levels(make_dicom(TWELVE, ExplicitVRBigEndian, **attributes)), TWELVE >> 4
    )


WINDOWS = [
    {"WindowCenter": 2000, "WindowWidth": 1000},
    {"WindowCenter": [2000, 500], "WindowWidth": [1, 10]},
    {"WindowCenter": 1000, "WindowWidth": 300, "VOILUTFunction": "SIGMOID"},
    {"WindowCenter": -500, "WindowWidth": 900, "RescaleSlope": 0.5, "RescaleIntercept": -1024},
    {"VOILUTSequence": table([16 * i for i in range(4096)]), "WindowCenter": 9, "WindowWidth": 2},
    {"VOILUTSequence": table([i * i // 256 for i in range(2048)], 1024)},
    {"ModalityLUTSequence": table(list(range(4096))), "WindowCenter": 1000, "WindowWidth": 500},
]


@pytest.mark.filterwarnings("ignore:Applying a VOI LUT on a float")
@pytest.mark.parametrize("attributes", WINDOWS, ids=",".join)
def test_windows_and_tables_agree_with_pydicom(make_dicom, attributes):
    content = make_dicom(TWELVE, BitsStored=12, **attributes)
    dataset = pydicom.dcmread(BytesIO(content))
    shown = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(float)
    low, high = 0, 65535
    if not {"VOILUTSequence", "ModalityLUTSequence"} & set(attributes):
        slope, offset = attributes.get("RescaleSlope", 1), attributes.get("RescaleIntercept", 0)
        low, high = offset, 4095 * slope + offset
    expected = 255 * (shown - low) / (high - low)
    assert np.abs(levels(content) - expected).max() <= 1


@pytest.mark.parametrize(("attributes", "brightest"), [(MONO1, 21), ({}, 234)])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_padding_is_black(make_dicom, syntax, attributes, brightest):
    pixels = np.array([[-2000, 0, 3000, 30000]], np.int16)
    attributes = attributes | {"PixelPaddingValue": -2000}
    grey = levels(make_dicom(pixels, syntax, **attributes))[0]
    assert (grey[0], grey[3]) == (0, brightest)
    ranged = levels(make_dicom(pixels, syntax, **attributes, PixelPaddingRangeLimit=0))[0]
    assert ranged[:2].tolist() == [0, 0]
    assert ranged[2] != 0


EIGHT = np.zeros((4, 6), np.uint8)


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"PixelData": None}, "no pixels"),
        ({"NumberOfFrames": 2}, "2 frames"),
        ({"PhotometricInterpretation": "RGB"}, "PhotometricInterpretation"),
        ({"Rows": 65535, "Columns": 65535}, "Rows and Columns"),
        ({"Rows": 5}, "truncated"),
        ({"BitsAllocated": 32, "BitsStored": 32}, "BitsStored"),
        ({"WindowCenter": 5, "WindowWidth": 0}, "WindowWidth"),
        ({"RescaleSlope": 0, "RescaleIntercept": 1}, "RescaleSlope"),
        ({"VOILUTSequence": table([1, 2, 3], depth=5)}, "lookup table"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_attribute_that_makes_a_file_unusable_is_named(make_dicom, tmp_path, attributes, named):
    (tmp_path / "x.dcm").write_bytes(make_dicom(EIGHT, **attributes))
    with pytest.raises(DataError, match=rf"x\.dcm .*{named}"):
        read_grey(tmp_path / "x.dcm")


def test_a_compression_without_a_decoder_is_named(make_dicom):
    content = make_dicom(EIGHT, MPEG2MPML, stream=b"\xff\xd8\xff\xd9")
    with pytest.raises(DataError, match="MPEG2"):
        read_grey(content)


@pytest.mark.parametrize(
    ("syntax", "bits", "lossless"),
    [
        (JPEGLossless, 8, True),
        (JPEGLosslessSV1, 12, True),
        (JPEGExtended12Bit, 8, False),
        (JPEGExtended12Bit, 12, False),
    ],
)
def test_jpeg_of_archives_is_decoded(make_dicom, syntax, bits, lossless):
    values = np.add.outer(np.arange(40), np.arange(60)) * ((1 << bits) - 1) // 98
    pixels = values.astype(np.uint8 if bits == 8 else np.uint16)
    stream = jpeg8_encode(pixels, lossless=lossless, bitspersample=bits)
    grey = levels(make_dicom(pixels, syntax, stream=stream, BitsStored=bits))
    assert np.abs(grey.astype(int) - (pixels >> (bits - 8))).max() <= (0 if lossless else 2)
    with pytest.raises(DataError, match="truncated"):
        read_grey(make_dicom(pixels, syntax, stream=stream[:-20], BitsStored=bits))
    with pytest.raises(DataError, match="header"):
        read_grey(make_dicom(pixels[:20], syntax, stream=stream, BitsStored=bits))


@pytest.mark.parametrize(
    ("age", "warned"),
    [
        ("006Y", True),
        ("005Y", False),
        ("003W", True),
        ("?", False),
    ],
)
def test_a_patient_of_another_age_is_a_warning(make_dicom, age, warned):
    warnings = read_grey(make_dicom(EIGHT, PatientAge=age)).info["warnings"]
    assert bool(warnings) == warned


@pytest.mark.parametrize(
    "syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless], ids=lambda u: u.keyword
)
@pytest.mark.parametrize("truncated", [True, False])
def test_compressed_pixels_of_another_size_are_refused(make_dicom, syntax, truncated):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)
    stream = pydicom.encaps.get_frame(
        pydicom.dcmread(BytesIO(make_dicom(pixels, syntax))).PixelData, 0, number_of_frames=1
    )
    stream = stream[: len(stream) // 3] if truncated else stream * 1000
    header = np.zeros((40, 40) if truncated else (4, 4), np.uint8)
    with pytest.raises(DataError, match="pixels"):
        read_grey(make_dicom(header, syntax, stream=stream))


def test_an_enormous_jpeg_inside_a_small_header_is_not_decoded(make_dicom):
    file = BytesIO()
    Image.new("L", (64, 64)).save(file, "JPEG")
    stream = bytearray(file.getvalue())
    at = stream.index(b"\xff\xc0")
    stream[at + 5 : at + 9] = struct.pack(">HH", 65000, 65000)
    with pytest.raises(DataError, match="compressed pixels"):
        read_grey(make_dicom(EIGHT, JPEGBaseline8Bit, stream=bytes(stream)))


def test_a_file_that_inflates_without_end_is_refused(make_dicom):
    whole = make_dicom(EIGHT, DeflatedExplicitVRLittleEndian)
    end = 132 + 12 + struct.unpack_from("<I", whole, 132 + 8)[0]
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    chunk = b"\0" * (16 << 20)
    deflated = b"".join(squeeze.compress(chunk) for _ in range(17)) + squeeze.flush()
    with pytest.raises(DataError, match="268,435,456"):
        read_grey(whole[:end] + deflated)


def test_a_file_without_the_dicom_mark_is_refused(make_dicom, tmp_path):
    (tmp_path / "old.dcm").write_bytes(make_dicom(EIGHT)[132:])
    with pytest.raises(DataError, match=r"old\.dcm .*DICM"):
        read_grey(tmp_path / "old.dcm")


def test_a_missing_extra_is_named(make_dicom, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "pneumonia.data.dicom", raising=False)
    monkeypatch.setitem(sys.modules, "pydicom.dataset", None)
    (tmp_path / "x.dcm").write_bytes(make_dicom(EIGHT))
    with pytest.raises(DataError, match=r"x\.dcm .*\[dicom\]: pip install"):
        read_grey(tmp_path / "x.dcm")


def test_every_file_that_pydicom_ships_is_an_image_or_one_sentence():
    folder = Path(pydicom.__file__).parent / "data/test_files"
    refusals = {}
    for path in filter(Path.is_file, folder.rglob("*")):
        try:
            assert read_grey(path).mode == "L"
        except DataError as error:
            refusals[path] = str(error)
    for path, refusal in refusals.items():
        assert refusal.startswith(f"{path} cannot be read as an image (")
        assert "\n" not in refusal


SECRET = "SECRET9^PATIENT"


def planted(make_dicom) -> list[bytes]:
    """DICOM files with a name in them where it belongs, and where it does not."""
    named = {"PatientName": SECRET, "PatientID": SECRET, "PatientComments": SECRET}
    sound = make_dicom(EIGHT, **named, WindowCenter="1234567890", WindowWidth="0987654321")
    secret = SECRET.encode()

    def swap(old: bytes, new: bytes) -> bytes:
        assert sound.count(old) == 1
        return sound.replace(old, new)

    return [
        sound,
        swap(b"1234567890", secret[:10]),
        swap(b"MONOCHROME2 ", secret[:12]),
        swap(b"1.2.840.10008.1.2.1\0", (secret * 2)[:20]),
        sound.replace(b"PN", b"DS").replace(b"LO", b"IS"),
        make_dicom(EIGHT, SpecificCharacterSet=SECRET, **named),
        make_dicom(EIGHT, VOILUTFunction=SECRET, WindowCenter=1, WindowWidth=9, **named),
        make_dicom(EIGHT, JPEGBaseline8Bit, stream=b"\xff\xd8" + secret * 4, **named),
        sound[: sound.index(secret) + 9],
        swap(b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00PN"),
    ]


@pytest.fixture
def _debugging() -> Iterator[None]:
    handlers = list(pydicom.config.logger.handlers)
    pydicom.config.debug(True, default_handler=True)
    yield
    pydicom.config.debug(False, default_handler=False)
    pydicom.config.logger.handlers = handlers


@pytest.mark.usefixtures("_debugging")
def test_no_message_or_log_quotes_the_patient(make_dicom, caplog, capfd):
    files = planted(make_dicom)
    capfd.readouterr()  # what pydicom says of writing them
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    said = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for content in files:
            try:
                read_grey(content)
            except DataError as error:
                chain: BaseException | None = error
                while chain is not None:
                    said += ["".join(traceback.format_exception(chain)), repr(chain)]
                    chain = chain.__cause__ or chain.__context__
    assert len(said) > 8  # several of them are refused
    said += [repr(vars(warning)) for warning in warned]
    said += [record.getMessage() for record in caplog.records]
    said += capfd.readouterr()
    for part in ("SECRET9", "T9^P", "PATIENT"):
        assert not [words for words in said if part in words]
