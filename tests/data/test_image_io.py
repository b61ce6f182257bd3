"""From a file to the grey square that the network sees."""

import os
import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from pneumonia.data.image_io import Preprocessing, from_array, read_grey, to_grey
from pneumonia.errors import ConfigError, DataError, sentence

RAMP = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))  # [48, 64], dark to bright


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [("jpeg", mode) for mode in ("L", "RGB", "CMYK", "YCbCr")]
    + [("png", mode) for mode in ("L", "RGB", "RGBA", "LA", "P", "I;16")]
    + [("tiff", mode) for mode in ("L", "RGB", "RGBA", "LA", "P", "I;16", "CMYK")],
)
def test_any_mode_is_read_as_the_same_grey(tmp_path, suffix, mode):
    path = tmp_path / f"x.{suffix}"
    if mode == "I;16":
        picture = Image.fromarray(RAMP.astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(RAMP).convert(mode)
    picture.save(path)
    found = read_grey(path)
    assert found.mode == "L"
    assert np.abs(np.asarray(found).astype(int) - RAMP).max() <= 3


def test_colours_become_their_luminance(tmp_path):
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "red.png")
    assert np.asarray(read_grey(tmp_path / "red.png")).tolist() == [[76] * 4] * 4


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bits_are_scaled_and_not_clipped(tmp_path, suffix):
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"x.{suffix}")
    assert np.asarray(read_grey(tmp_path / f"x.{suffix}")).tolist() == [[0, 0, 1, 128, 255]]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_unknown_range_are_refused(tmp_path, dtype):
    Image.fromarray(np.full((4, 4), 70000, dtype=dtype)).save(tmp_path / "x.tiff")
    with pytest.raises(DataError, match=r"x\.tiff cannot be read as an image \(its pixels"):
        read_grey(tmp_path / "x.tiff")


def test_a_text_file_named_jpeg_is_refused_by_name(tmp_path):
    (tmp_path / "notes.jpeg").write_text("not an X-ray\n")
    with pytest.raises(DataError, match=r"notes\.jpeg cannot be read as an image"):
        read_grey(tmp_path / "notes.jpeg")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("suffix", ["jpeg", "png", "tiff", "bmp"])
def test_a_truncated_file_is_refused_by_name(tmp_path, share, suffix):
    path = tmp_path / f"half.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError) as refusal:
        read_grey(path)
    assert f"{path} cannot be read as an image" in str(refusal.value)
    assert sentence(refusal.value).endswith("replace it or remove it.")


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jpeg .*does not exist"):
        read_grey(tmp_path / "gone.jpeg")


def quarters() -> Image.Image:
    """Wide picture [40, 80]: border columns of 50 and 250 outside a middle square of 100 | 200."""
    pixels = np.empty((40, 80), np.uint8)
    for value, left in zip((50, 100, 200, 250), (0, 20, 40, 60), strict=True):
        pixels[:, left : left + 20] = value
    return Image.fromarray(pixels)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("fit", "row", "column"),
    [
        ("squash", [50, 100, 200, 250], [100, 100, 100, 100]),
        ("pad", [50, 100, 200, 250], [0, 100, 100, 0]),
        ("crop", [100, 100, 200, 200], [100, 100, 100, 100]),
    ],
)
def test_a_wide_image_is_fitted(fit, interpolation, row, column):
    fitted = Preprocessing(32, fit, interpolation)(quarters())
    assert fitted.shape == (32, 32)
    assert fitted.dtype == np.uint8
    assert fitted[16, 4::8].tolist() == row
    assert fitted[4::8, 12].tolist() == column


@pytest.mark.parametrize(
    ("fit", "row", "column"),
    [
        ("squash", [100, 100, 100, 100], [50, 100, 200, 250]),
        ("pad", [0, 100, 100, 0], [50, 100, 200, 250]),
        ("crop", [100, 100, 100, 100], [100, 100, 200, 200]),
    ],
)
def test_a_tall_image_is_fitted_likewise(fit, row, column):
    fitted = Preprocessing(32, fit)(quarters().transpose(Image.Transpose.TRANSPOSE))
    assert fitted[12, 4::8].tolist() == row
    assert fitted[4::8, 16].tolist() == column


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
def test_a_square_of_the_right_size_is_left_alone(fit):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    assert np.array_equal(Preprocessing(32, fit)(Image.fromarray(pixels)), pixels)


def test_nearest_picks_pixels_where_bilinear_averages():
    stripes = Image.fromarray(np.tile(np.array([0, 200], np.uint8), (64, 32)))
    assert set(np.unique(Preprocessing(16, interpolation="nearest")(stripes))) <= {0, 200}
    averaged = Preprocessing(16, interpolation="bilinear")(stripes)
    assert averaged[:, 1:-1].min() >= 90
    assert averaged[:, 1:-1].max() <= 110


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"image_size": 15}, "data.image_size=15"),
        ({"resize_mode": "stretch"}, "data.resize_mode='stretch'"),
        ({"interpolation": "lanczos"}, "data.interpolation='lanczos'"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings, key):
    with pytest.raises(ConfigError) as refusal:
        Preprocessing(**settings)
    assert key in str(refusal.value)


def test_what_is_transparent_is_black(tmp_path):
    pixels = np.full((8, 8, 4), 200, np.uint8)
    pixels[:, :, 3] = [0] * 4 + [255] * 4
    for mode in ("RGBA", "LA"):
        Image.fromarray(pixels).convert(mode).save(tmp_path / "x.png")
        assert np.asarray(read_grey(tmp_path / "x.png"))[0].tolist() == [0] * 4 + [200] * 4
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([200] * 3 + [90] * 3)
    palette.save(tmp_path / "x.png", transparency=0)
    assert np.asarray(read_grey(tmp_path / "x.png")).tolist() == [[0, 90]]


@pytest.mark.parametrize("side", [20_000, 9_500])
def test_an_enormous_image_is_refused_by_name_before_it_is_decoded(tmp_path, side):
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"  # a header and no pixels: whoever decodes fails otherwise
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))
    with pytest.raises(DataError, match=r"bomb\.png cannot be .*pixel.* (exceeds|are more than)"):
        read_grey(path)


@pytest.fixture
def large(tmp_path):
    """A smooth picture, as radiographs are, with a little noise; [900, 1400]."""
    y, x = np.mgrid[0:900, 0:1400]
    noise = np.random.default_rng(0).normal(0, 3, (900, 1400))
    pixels = 120 + 60 * np.sin(x / 90) * np.cos(y / 70) + 20 * np.sin(x / 11) + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
def test_a_file_a_picture_and_an_array_of_one_image_give_the_same_pixels(
    tmp_path, large, fit, mode
):
    path = tmp_path / "x.jpeg"
    large.convert(mode).save(path, quality=90)
    preprocessing = Preprocessing(64, fit)
    expected = preprocessing.read(path)
    with Image.open(path) as picture:
        assert np.array_equal(preprocessing(to_grey(picture)), expected)
    with Image.open(path) as picture:
        array = np.asarray(picture.convert("L" if mode == "L" else "RGB"))
    if mode != "CMYK":
        assert np.array_equal(preprocessing(from_array(array)), expected)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_a_truncated_jpeg_is_refused_by_name(tmp_path, large, share):
    path = tmp_path / "half.jpeg"
    large.save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"half\.jpeg cannot be read as an image"):
        Preprocessing(64).read(path)


@pytest.mark.parametrize("suffix", ["jpeg", "png", "tiff", "webp", "bmp", "pgm", "gif"])
def test_bytes_give_the_pixels_of_their_file(tmp_path, large, suffix):
    path = tmp_path / f"x.{suffix}"
    large.save(path)
    whole = read_grey(path.read_bytes())
    assert np.array_equal(whole, read_grey(path))
    for settings in ({"image_size": 64}, {"image_size": 224, "resize_mode": "pad"}):
        preprocessing = Preprocessing(**settings)
        assert np.array_equal(preprocessing.read(path.read_bytes()), preprocessing.read(path))
        assert np.array_equal(preprocessing.read(str(path)), preprocessing.read(path))


def test_an_error_about_bytes_names_no_path_unless_it_is_told_one(tmp_path):
    with pytest.raises(DataError) as refusal:
        read_grey(b"no image")
    assert str(refusal.value).startswith("The image cannot be read (it is none of JPEG, PNG")
    with pytest.raises(DataError, match=r"^upload 3 cannot be read as an image \(it is empty\)"):
        Preprocessing().read(b"", name="upload 3")
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"^scan of Monday cannot be read"):
        read_grey(tmp_path / "x.png", name="scan of Monday")


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"]
)
def test_a_picture_of_any_mode_becomes_the_same_grey(mode):
    wide = Image.fromarray(RAMP.astype(np.uint16) * 257)
    picture = wide if mode == "I;16" else Image.fromarray(RAMP).convert(mode)
    assert to_grey(picture).mode == "L"
    apart = np.abs(np.asarray(to_grey(picture)).astype(int) - RAMP)
    assert apart.mean() < 2 if mode != "1" else np.asarray(to_grey(picture)).max() == 255


def test_premultiplied_opacity_is_on_black_too():
    pixels = np.full((2, 2, 4), (200, 200, 200, 128), np.uint8)
    straight = Image.fromarray(pixels)
    for picture in (straight.convert("RGBa"), straight.convert("LA").convert("La")):
        assert np.abs(np.asarray(to_grey(picture)).astype(int) - 100).max() <= 2


@pytest.mark.parametrize(
    ("suffix", "mode", "options"),
    [("jpeg", mode, {}) for mode in ("L", "RGB", "CMYK")]
    + [("png", mode, {}) for mode in ("L", "RGBA", "LA", "P", "I;16")]
    + [("tiff", "L", {}), ("webp", "RGBA", {}), ("gif", "P", {}), ("jpeg", "L", {"exif": 8})],
)
def test_a_file_that_pillow_opened_gives_what_the_file_gives(tmp_path, suffix, mode, options):
    picture = Image.fromarray(RAMP)
    picture = (
        Image.fromarray(RAMP.astype(np.uint16) * 200) if mode == "I;16" else picture.convert(mode)
    )
    if options:
        exif = Image.Exif()
        exif[0x0112] = options["exif"]
        options = {"exif": exif}
    picture.save(tmp_path / f"x.{suffix}", **options)
    with Image.open(tmp_path / f"x.{suffix}") as opened:
        assert np.array_equal(to_grey(opened), read_grey(tmp_path / f"x.{suffix}"))


def test_arrays_follow_the_rules_of_files(tmp_path):
    random = np.random.default_rng(0)
    for shape, dtype in [
        ((5, 7), np.uint8),
        ((5, 7), np.uint16),
        ((5, 7, 3), np.uint8),
        ((5, 7, 4), np.uint8),
    ]:
        array = random.integers(0, np.iinfo(dtype).max, shape, dtype)
        Image.fromarray(array).save(tmp_path / "x.png")
        assert np.array_equal(from_array(array), read_grey(tmp_path / "x.png"))
    big_endian = np.array([[0, 256, 65535]], ">u2")
    assert np.asarray(from_array(big_endian)).tolist() == [[0, 1, 255]]


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((4, 4), bool), "array of bool, which has no grey levels"),
        (np.zeros((4, 4), np.float32), "array of float32, which has a range that cannot be known"),
        (
            np.zeros((4, 4), np.int64),
            r"array of int64 and shape \[4, 4\], expected uint8 or uint16",
        ),
        (np.zeros((4, 4, 2), np.uint8), r"shape \[4, 4, 2\]"),
        (np.zeros((4, 4, 3), np.uint16), r"uint16 and shape \[4, 4, 3\]"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"shape \[1, 4, 4, 3\]"),
        (np.zeros((0, 4), np.uint8), r"shape \[0, 4\]"),
        ([[1, 2]], "is a list, expected a numpy array"),
    ],
)
def test_an_array_that_is_no_picture_is_refused_with_the_reason(array, reason):
    with pytest.raises(DataError, match=reason):
        from_array(array)


def test_what_is_no_pil_image_is_refused():
    with pytest.raises(DataError, match="is a str, expected a PIL image"):
        to_grey("x.png")


FLAT = np.kron(np.array([[10, 90, 170], [50, 130, 240]]), np.ones((16, 16), int))


@pytest.mark.parametrize("suffix", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, FLAT),
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
def test_a_picture_is_turned_as_viewers_show_it(tmp_path, suffix, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(FLAT.astype(np.uint8)).save(path, exif=exif)
    for source in (path, path.read_bytes()):
        found = np.asarray(read_grey(source)).astype(int)
        assert found.shape == upright.shape
        assert np.abs(found - upright).max() <= 8


def test_a_damaged_note_on_a_sound_picture_is_passed_over(tmp_path, recwarn):
    Image.fromarray(RAMP).save(tmp_path / "x.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff junk")
    assert np.array_equal(read_grey(tmp_path / "x.png"), RAMP)
    assert not recwarn.list


@pytest.mark.parametrize(("suffix", "frames"), [("gif", 12), ("png", 3), ("webp", 2), ("tiff", 12)])
def test_moving_and_stacked_pictures_are_refused_by_name(tmp_path, suffix, frames):
    random = np.random.default_rng(0)
    first, *rest = (
        Image.fromarray(random.integers(0, 256, (8, 8), np.uint8)) for _ in range(frames)
    )
    path = tmp_path / f"x.{suffix}"
    first.save(path, save_all=True, append_images=rest)
    with pytest.raises(
        DataError, match=rf"x\.{suffix} .*\(it has {frames} frames; give one image\)"
    ):
        read_grey(path)
    with Image.open(path) as opened, pytest.raises(DataError, match="frames; give one image"):
        to_grey(opened)


def test_of_a_camera_file_the_photograph_is_read(tmp_path, large):
    large.save(tmp_path / "x.jpeg", "MPO", save_all=True, append_images=[large.resize((70, 45))])
    large.save(tmp_path / "y.jpeg")
    with Image.open(tmp_path / "x.jpeg") as opened:
        assert (opened.format, opened.n_frames) == ("MPO", 2)
    assert np.array_equal(read_grey(tmp_path / "x.jpeg"), read_grey(tmp_path / "y.jpeg"))


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PCX", "SGI", "TGA", "JPEG2000", "PDF"])
def test_other_formats_are_never_opened(tmp_path, kind):
    Image.fromarray(RAMP).save(tmp_path / "x.png", kind)
    with pytest.raises(
        DataError, match="it is none of JPEG, PNG, TIFF, BMP, WEBP, PPM, GIF and DICOM"
    ):
        read_grey(tmp_path / "x.png")


def refused_at_once(path, reason: str) -> None:
    start = time.monotonic()
    with pytest.raises(DataError, match=reason):
        read_grey(path)
    assert time.monotonic() - start < 0.5


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    (tmp_path / "folder.jpeg").mkdir()
    refused_at_once(tmp_path / "folder.jpeg", r"folder\.jpeg .*\(it is a folder\)")
    refused_at_once("/dev/zero", "it is not a regular file")
    os.mkfifo(tmp_path / "pipe.jpeg")
    refused_at_once(tmp_path / "pipe.jpeg", r"pipe\.jpeg .*it is not a regular file")
    (tmp_path / "empty.jpeg").touch()
    refused_at_once(tmp_path / "empty.jpeg", r"empty\.jpeg .*it is empty")


def test_a_huge_file_is_refused_at_once(tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 30)
    refused_at_once(tmp_path / "huge.png", "its 1,073,741,824 bytes are more than the 268,435,456")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_file_that_may_not_be_read_says_so(tmp_path):
    (tmp_path / "x.png").write_bytes(b"x")
    (tmp_path / "x.png").chmod(0)
    refused_at_once(tmp_path / "x.png", r"\(Permission denied\)")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_text_that_inflates_without_end_is_refused_soon(tmp_path):
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * (200 << 20)))
    file = BytesIO()
    Image.fromarray(RAMP).save(file, "PNG")
    whole = file.getvalue()
    (tmp_path / "x.png").write_bytes(whole[:33] + bomb + whole[33:])
    with pytest.raises(DataError, match=r"x\.png cannot be read as an image"):
        read_grey(tmp_path / "x.png")


@pytest.mark.parametrize("count", [0xFFFFFFFF, 0x7FFFFFFF, 1 << 20])
def test_absurd_tags_are_refused_or_passed_over_soon(tmp_path, count):
    file = BytesIO()
    Image.fromarray(RAMP).save(file, "TIFF", compression="tiff_lzw")
    whole = bytearray(file.getvalue())
    start = struct.unpack_from("<I", whole, 4)[0]
    for entry in range(struct.unpack_from("<H", whole, start)[0]):
        broken = bytearray(whole)
        struct.pack_into("<I", broken, start + 2 + 12 * entry + 4, count)
        begin = time.monotonic()
        with suppress(DataError):
            read_grey(bytes(broken))
        assert time.monotonic() - begin < 2


def test_decoding_threads_print_no_warning_and_leave_others_theirs(tmp_path, recwarn):
    Image.fromarray(RAMP).save(tmp_path / "x.tiff")
    broken = (tmp_path / "x.tiff").read_bytes()[:-9]

    def refuse(_: int) -> None:
        with pytest.raises(DataError):
            read_grey(broken)

    shown = warnings.showwarning
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(refuse, range(200)))
    assert warnings.showwarning is shown
    assert not recwarn.list
    with pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", UserWarning, stacklevel=1)


@pytest.mark.shared
def test_real_originals_are_read_as_grey_whatever_their_mode(shared):
    paths = sorted((shared / "data/originals").rglob("*.jpeg"))
    modes = [Image.open(path).mode for path in paths]
    assert (len(paths), modes.count("RGB")) == (68, 4)
    for path in [path for path, mode in zip(paths, modes, strict=True) if mode == "RGB"]:
        found = read_grey(path)
        assert found.mode == "L"
        assert np.asarray(found).std() > 20
