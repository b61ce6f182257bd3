"""From a file to the grey square that the network sees."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pneumonia.data.image import Preprocessing, read_grey
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
    grey = read_grey(path)
    assert grey.mode == "L"
    assert np.abs(np.asarray(grey).astype(int) - RAMP).max() <= 3


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


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
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
        ({"fit": "stretch"}, "data.fit='stretch'"),
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


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("side", [20_000, 9_500])
def test_an_enormous_image_is_refused_by_name_before_it_is_decoded(tmp_path, side):
    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

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
@pytest.mark.parametrize("size", [64, 224, 320])
def test_a_jpeg_read_at_a_reduced_size_is_within_a_grey_level(tmp_path, large, size, fit, mode):
    large.convert(mode).save(tmp_path / "x.jpeg", quality=90)
    preprocessing = Preprocessing(size, fit)
    full = preprocessing(read_grey(tmp_path / "x.jpeg")).astype(int)
    assert np.abs(preprocessing.read(tmp_path / "x.jpeg") - full).mean() < 1


@pytest.mark.parametrize(
    ("at_least", "expected"), [(None, 1400), (800, 1400), (450, 700), (9, 175)]
)
def test_a_reduced_size_never_falls_below_what_was_asked(tmp_path, large, at_least, expected):
    large.save(tmp_path / "x.jpeg")
    assert read_grey(tmp_path / "x.jpeg", at_least).width == expected


@pytest.mark.parametrize(
    ("suffix", "settings"),
    [("jpeg", {"image_size": 64, "interpolation": "nearest"}), ("png", {"image_size": 64}),
     ("jpeg", {"image_size": 512})],
)  # fmt: skip
def test_otherwise_every_pixel_is_decoded(tmp_path, large, suffix, settings):
    path = tmp_path / f"x.{suffix}"
    large.save(path)
    preprocessing = Preprocessing(**settings)
    assert np.array_equal(preprocessing.read(path), preprocessing(read_grey(path)))


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_a_truncated_jpeg_read_at_a_reduced_size_is_refused_by_name(tmp_path, large, share):
    path = tmp_path / "half.jpeg"
    large.save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"half\.jpeg cannot be read as an image"):
        Preprocessing(64).read(path)


@pytest.mark.shared
@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
def test_real_originals_read_at_a_reduced_size_are_within_a_grey_level(shared, fit):
    preprocessing = Preprocessing(224, fit)
    for path in sorted((shared / "data/originals").rglob("*.jpeg"))[::4]:
        full = preprocessing(read_grey(path)).astype(int)
        assert np.abs(preprocessing.read(path) - full).mean() < 1


@pytest.mark.shared
def test_real_originals_are_read_as_grey_whatever_their_mode(shared):
    paths = sorted((shared / "data/originals").rglob("*.jpeg"))
    modes = [Image.open(path).mode for path in paths]
    assert (len(paths), modes.count("RGB")) == (68, 4)
    for path in [path for path, mode in zip(paths, modes, strict=True) if mode == "RGB"]:
        grey = read_grey(path)
        assert grey.mode == "L"
        assert np.asarray(grey).std() > 20
