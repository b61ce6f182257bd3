"""From an image file, its bytes, a PIL image or an array to the square that the network sees."""

import os
import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from formats import png_chunk
from PIL import Image

from pneumonia.data.image_io import Preprocessing, from_array, read_grey, to_grey
from pneumonia.errors import ConfigError, DataError

RAMP = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))  # [48, 64], dark to bright


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [("jpeg", mode) for mode in ("L", "RGB", "CMYK")]
    + [("png", mode) for mode in ("RGBA", "LA", "P", "I;16")]
    + [("tiff", "I;16"), ("webp", "RGBA"), ("gif", "P"), ("bmp", "RGB"), ("pgm", "L")],
)
def test_any_format_and_mode_is_read_as_the_same_grey(tmp_path, suffix, mode):
    path = tmp_path / f"x.{suffix}"
    wide = Image.fromarray(RAMP.astype(np.uint16) * 257)
    (wide if mode == "I;16" else Image.fromarray(RAMP).convert(mode)).save(path)
    grey = read_grey(path)
    assert grey.mode == "L"
    assert np.abs(np.asarray(grey).astype(int) - RAMP).mean() < 2
    assert np.array_equal(read_grey(path.read_bytes()), grey)
    with Image.open(path) as image:
        assert np.array_equal(to_grey(image), grey)


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bits_are_scaled_and_not_clipped(tmp_path, suffix):
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"x.{suffix}")
    assert np.asarray(read_grey(tmp_path / f"x.{suffix}")).tolist() == [[0, 0, 1, 128, 255]]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_unknown_range_are_refused(tmp_path, dtype):
    Image.fromarray(np.full((4, 4), 70000, dtype=dtype)).save(tmp_path / "x.tiff")
    with pytest.raises(DataError, match=r"x\.tiff .*its samples"):
        read_grey(tmp_path / "x.tiff")


@pytest.mark.parametrize("fraction", [0.01, 0.99])
@pytest.mark.parametrize("suffix", ["jpeg", "png", "tiff", "bmp"])
def test_a_truncated_file_is_named(tmp_path, fraction, suffix):
    path = tmp_path / f"half.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(fraction * len(whole))])
    with pytest.raises(DataError, match=str(path)):
        read_grey(path)


def test_an_error_names_the_path_or_the_given_name(tmp_path):
    with pytest.raises(DataError, match=r"^The image"):
        read_grey(b"no image")
    with pytest.raises(DataError, match=r"^upload 3 .*it is empty"):
        Preprocessing().read(b"", name="upload 3")
    (tmp_path / "x.jpeg").write_bytes(b"no image")
    with pytest.raises(DataError, match=f"^{tmp_path}/x.jpeg"):
        read_grey(tmp_path / "x.jpeg")
    with pytest.raises(DataError, match=r"gone\.jpeg .*does not exist"):
        read_grey(tmp_path / "gone.jpeg")


def quarters() -> Image.Image:
    """Wide image [40, 80]: border columns of 50 and 250 outside a middle square of 100 | 200."""
    return Image.fromarray(np.repeat(np.array([[50, 100, 200, 250]] * 40, np.uint8), 20, 1))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("mode", "along", "across"),
    [
        ("squash", [50, 100, 200, 250], [100, 100, 100, 100]),
        ("pad", [50, 100, 200, 250], [0, 100, 100, 0]),
        ("crop", [100, 100, 200, 200], [100, 100, 100, 100]),
    ],
)
def test_wide_and_tall_images_are_resized_to_a_square(mode, interpolation, along, across):
    preprocessing = Preprocessing(32, mode, interpolation)
    wide = preprocessing(quarters())
    tall = preprocessing(quarters().transpose(Image.Transpose.TRANSPOSE))
    for square in (wide, tall.T):
        assert (square.shape, square.dtype) == ((32, 32), np.uint8)
        assert square[16, 4::8].tolist() == along
        assert square[4::8, 12].tolist() == across


@pytest.mark.parametrize(
    ("key", "value"),
    [("image_size", 15), ("image_size", 32.0), ("resize_mode", "zoom"), ("interpolation", "box")],
)
def test_a_setting_out_of_range_is_refused(key, value):
    with pytest.raises(ConfigError, match=f"data.{key}={value!r}"):
        Preprocessing(**{key: value})


def test_transparent_pixels_are_black(tmp_path):
    pixels = np.full((1, 2, 4), 200, np.uint8)
    pixels[:, :, 3] = [0, 255]
    for mode in ("RGBA", "LA"):
        Image.fromarray(pixels).convert(mode).save(tmp_path / "x.png")
        assert np.asarray(read_grey(tmp_path / "x.png")).tolist() == [[0, 200]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([200] * 3 + [90] * 3)
    palette.save(tmp_path / "x.png", transparency=0)
    assert np.asarray(read_grey(tmp_path / "x.png")).tolist() == [[0, 90]]
    half = Image.fromarray(np.full((2, 2, 4), (200, 200, 200, 128), np.uint8))
    for image in (half.convert("RGBa"), half.convert("LA").convert("La")):
        assert np.abs(np.asarray(to_grey(image)).astype(int) - 100).max() <= 2


LARGE = Image.fromarray(RAMP).resize((1400, 900))


def test_arrays_follow_the_rules_of_files(tmp_path):
    random = np.random.default_rng(0)
    for shape, dtype in (((5, 7), np.uint16), ((5, 7, 3), np.uint8), ((5, 7, 4), np.uint8)):
        array = random.integers(0, np.iinfo(dtype).max, shape, dtype)
        Image.fromarray(array).save(tmp_path / "x.png")
        assert np.array_equal(from_array(array), read_grey(tmp_path / "x.png"))
    big_endian = np.array([[0, 256, 65535]], ">u2")
    assert np.asarray(from_array(big_endian)).tolist() == [[0, 1, 255]]


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((4, 4), np.bool_), ((40, 40, 2), np.uint8), ((4, 4, 3), np.uint16), ((0, 4), np.uint8)],
)
def test_other_arrays_are_refused(shape, dtype):
    with pytest.raises(DataError, match="expected"):
        from_array(np.zeros(shape, dtype))


FLAT = np.kron(np.array([[10, 90, 170], [50, 130, 240]]), np.ones((16, 16), int))


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (2, FLAT[:, ::-1]),
        (3, FLAT[::-1, ::-1]),
        (4, FLAT[::-1]),
        (5, FLAT.T),
        (6, np.rot90(FLAT, -1)),
        (7, FLAT[::-1, ::-1].T),
        (8, np.rot90(FLAT)),
        (77, FLAT),
    ],
)
def test_an_image_is_turned_upright_by_its_exif_orientation(tmp_path, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("x.jpeg", "x.png"):
        Image.fromarray(FLAT.astype(np.uint8)).save(tmp_path / name, exif=exif)
        grey = np.asarray(read_grey(tmp_path / name)).astype(int)
        assert grey.shape == upright.shape
        assert np.abs(grey - upright).max() <= 8


def test_damaged_metadata_of_a_sound_image_is_ignored(tmp_path, recwarn):
    Image.fromarray(RAMP).save(tmp_path / "x.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff junk")
    assert np.array_equal(read_grey(tmp_path / "x.png"), RAMP)
    assert not recwarn.list


@pytest.mark.parametrize("suffix", ["gif", "tiff"])
def test_several_frames_are_refused(tmp_path, suffix):
    random = np.random.default_rng(0)
    first, *rest = (Image.fromarray(random.integers(0, 256, (8, 8), np.uint8)) for _ in range(12))
    path = tmp_path / f"x.{suffix}"
    first.save(path, save_all=True, append_images=rest)
    with pytest.raises(DataError, match=rf"x\.{suffix} .*12 frames"):
        read_grey(path)
    with Image.open(path) as image, pytest.raises(DataError, match="frames"):
        to_grey(image)


def test_the_first_image_of_a_camera_file_is_read(tmp_path):
    LARGE.save(tmp_path / "x.jpeg", "MPO", save_all=True, append_images=[LARGE.resize((70, 45))])
    LARGE.save(tmp_path / "y.jpeg")
    assert np.array_equal(read_grey(tmp_path / "x.jpeg"), read_grey(tmp_path / "y.jpeg"))


@pytest.mark.parametrize("kind", ["EPS", "PDF"])
def test_other_formats_are_never_opened(tmp_path, kind):
    Image.fromarray(RAMP).save(tmp_path / "x.png", kind)
    with pytest.raises(DataError, match=r"x\.png .*JPEG, PNG"):
        read_grey(tmp_path / "x.png")


def assert_refused_soon(source, name: str, seconds: float = 0.5) -> None:
    start = time.monotonic()
    with pytest.raises(DataError, match=name):
        read_grey(source)
    assert time.monotonic() - start < seconds


def test_folders_pipes_devices_and_empty_or_huge_files_are_refused_soon(tmp_path):
    (tmp_path / "folder.jpeg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpeg")
    (tmp_path / "empty.jpeg").touch()
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 30)
    for path in (*tmp_path.iterdir(), "/dev/zero"):
        assert_refused_soon(path, str(path))


def test_an_enormous_image_is_refused_before_it_is_decoded():
    header = struct.pack(">IIBBBBB", 9_500, 9_500, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")  # no pixels
    assert_refused_soon(bomb, "pixels")


def test_text_that_inflates_without_end_is_refused_soon():
    bomb = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * (200 << 20)))
    Image.fromarray(RAMP).save(png := BytesIO(), "PNG")
    assert_refused_soon(png.getvalue()[:33] + bomb + png.getvalue()[33:], "The image", 2)


def test_decoding_threads_print_no_warning_and_other_code_keeps_its_own(tmp_path, recwarn):
    Image.fromarray(RAMP).save(tmp_path / "x.tiff")
    broken = (tmp_path / "x.tiff").read_bytes()[:-9]
    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(read_grey, broken) for _ in range(200)]
    assert all(isinstance(result.exception(), DataError) for result in results)
    assert not recwarn.list
    warnings.warn("mine", UserWarning, stacklevel=1)
    assert len(recwarn.list) == 1
