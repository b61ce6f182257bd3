"""The meaning of pixel values comes from the file, or from the smallest depth that holds them."""

import io

import numpy as np
import pytest
import tifffile
from formats import png_chunk
from PIL import Image

from pneumonia.data.bit_depth import bit_depth
from pneumonia.data.image_io import from_array, read_grey
from pneumonia.errors import DataError

TWELVE = (np.add.outer(np.arange(45), np.arange(63)) * 4095 // 106).astype(np.uint16)
GREY = (TWELVE >> 4).astype(np.uint8)


def grey(source) -> np.ndarray:
    return np.asarray(read_grey(source))


def tiff(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def png(pixels: np.ndarray, significant: int | None = None) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    content = file.getvalue()
    if significant is None:
        return content
    return content[:33] + png_chunk(b"sBIT", bytes([significant])) + content[33:]  # after IHDR


@pytest.mark.parametrize(
    ("maximum", "stated", "depth", "warned"),
    [
        (255, 8, 8, False),
        (40000, 16, 16, False),
        (16320, 16, 14, True),
        (4080, 16, 12, True),
        (1500, 12, 12, False),
        (1000, 12, 10, True),
    ],
)
def test_the_depth_that_makes_the_most_of_the_values(maximum, stated, depth, warned):
    found, warning = bit_depth(maximum, stated)
    assert (found, warning is not None) == (depth, warned)
    if warned:
        assert str(maximum) in warning
        assert f"{depth} bits" in warning


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_tags_say_which_value_is_white(photometric, byteorder, bits, compression):
    pixels = GREY if bits == 8 else TWELVE << 4
    stored = pixels if photometric == "minisblack" else ~pixels
    options = {"photometric": photometric, "byteorder": byteorder, "compression": compression}
    assert np.array_equal(grey(tiff(stored, **options)), GREY)


@pytest.mark.parametrize(
    ("photometric", "stored"), [("minisblack", TWELVE), ("miniswhite", 4095 - TWELVE)]
)
def test_12_bit_tiff_is_read_by_its_depth(photometric, stored):
    content = tiff(stored, photometric=photometric, bitspersample=12)
    image = read_grey(content)
    assert np.array_equal(np.asarray(image), GREY)
    assert image.info["warnings"] == []


def test_a_16_bit_tiff_of_12_bits_whose_zero_is_white():
    content = tiff(4095 - TWELVE, photometric="miniswhite")
    image = read_grey(content)
    assert np.array_equal(np.asarray(image), GREY)
    assert len(image.info["warnings"]) == 1


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (tiff(TWELVE.astype(np.int16)), "signed"),
        (tiff(TWELVE.astype(np.uint32)), "32 bits"),
        (tiff(TWELVE & 1023, bitspersample=10), "10 bits"),
        (tiff(TWELVE.astype(np.float32)), "floats"),
        (tiff(np.stack([TWELVE] * 3, 2), photometric="rgb"), "16 bits"),
        (png(TWELVE)[:60], "PNG|truncated|damaged|broken|identif"),
    ],
    ids=["signed", "32 bits", "10 bits", "floats", "dark colours", "truncated"],
)
def test_other_samples_are_refused_for_their_reason(content, named):
    with pytest.raises(DataError, match=named):
        read_grey(content)


@pytest.mark.parametrize(
    ("content", "warned"),
    [
        (png(TWELVE), True),
        (png(TWELVE, 12), False),
        (png(TWELVE << 4, 12), False),  # scaled by the writer, as the PNG standard asks
        (png(TWELVE << 2), True),
        (png(TWELVE << 4), False),
    ],
    ids=["12 bits", "12 bits, stated", "12 bits, scaled", "14 bits", "16 bits"],
)
def test_a_16_bit_png_that_is_not_filled_is_the_same_picture(content, warned):
    image = read_grey(content)
    assert np.array_equal(np.asarray(image), GREY)
    assert bool(image.info["warnings"]) == warned


@pytest.mark.parametrize("container", ["array", "PNG", "TIFF", "DICOM"])
@pytest.mark.parametrize("shift", [-4, 0, 2, 4])
def test_one_picture_in_any_container_is_the_same(make_dicom, container, shift):
    pixels = GREY if shift < 0 else TWELVE << shift
    read = {
        "array": lambda: from_array(pixels),
        "PNG": lambda: read_grey(png(pixels)),
        "TIFF": lambda: read_grey(tiff(pixels)),
        "DICOM": lambda: read_grey(make_dicom(pixels)),
    }[container]
    assert np.array_equal(np.asarray(read()), GREY)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_from_0_to_1(dtype):
    array = (GREY / 255).astype(dtype)
    assert np.abs(np.asarray(from_array(array)).astype(int) - GREY).max() <= 1


@pytest.mark.parametrize("wrong", [-0.1, 1.5, 255.0, np.nan, np.inf])
def test_other_floats_are_refused(wrong):
    array = np.zeros((40, 40), np.float32)
    array[3, 4] = wrong
    with pytest.raises(DataError, match="0 to 1"):
        from_array(array)
