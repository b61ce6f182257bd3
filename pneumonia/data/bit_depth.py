"""The bit depth of images with more than 8 bits: as the file states, or as the values show."""

import struct
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF file."""

PNG = b"\x89PNG\r\n\x1a\n"
"""First bytes of a PNG file."""

PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
"""The tag of a TIFF file that says which value is white, and the value for 0."""

_DEPTHS = (8, 10, 12, 14, 16)
_BITS, _SAMPLE_FORMAT, _COMPRESSION, _STRIPS = 258, 339, 259, 273
_BLACK_IS_ZERO, _SHORT = 1, 3


def bit_depth(maximum: int, stated: int) -> tuple[int, str | None]:
    """Choose the depth that values are scaled by: many 16-bit files use 12 or 14 bits only.

    Args:
        maximum: The highest value of the image.
        stated: Bits that the file says it uses.

    Returns:
        The stated depth if the maximum exceeds half of it, else the smallest of 8, 10, 12, 14 and
        16 that holds the maximum; and a warning if they differ.
    """
    depth = next(depth for depth in (*_DEPTHS, stated) if maximum < 1 << depth)
    if depth >= stated or maximum >= 1 << (stated - 1):
        return stated, None
    return depth, (
        f"the largest value is {maximum}, below half of the {stated} bits that the file states;"
        f" read as {depth} bits"
    )


def png_bits(content: bytes) -> int:
    """Bits of a channel of a PNG file: the significant ones (chunk sBIT), else those of a sample.

    Args:
        content: The file, at least up to its pixels.
    """
    at = len(PNG)
    while at + 9 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        if kind == b"sBIT" and content[at + 8]:
            return content[at + 8]
        if kind == b"IDAT":
            break
        at += 12 + length
    return content[24] if len(content) > 24 else 0  # noqa: PLR2004  IHDR's bit depth


def open_tiff(content: bytes) -> tuple[Image.Image, int, bool]:
    """Open a TIFF file by its tags, which Pillow ignores in part.

    Args:
        content: The file.

    Returns:
        The image as it is stored, its bits per sample, and whether 0 is white in it.

    Raises:
        ValueError: If its samples are signed, floats, or of a depth other than 8, 12 or 16 bits.
    """
    file = BytesIO(content)
    tags = ImageFileDirectory_v2(content[:16] if _is_big(content) else content[:8])
    directory = tags.next
    file.seek(directory)
    tags.load(file)
    meaning, bits = tags.get(PHOTOMETRIC), tags.get(_BITS, (1,))[0]
    if meaning not in (WHITE_IS_ZERO, _BLACK_IS_ZERO):
        return Image.open(BytesIO(content), formats=("TIFF",)), bits, False
    kind = tags.get(_SAMPLE_FORMAT, (1,))[0]
    if kind != 1:
        kinds = {2: "signed", 3: "floats, of unknown range"}
        raise ValueError(f"its samples are {kinds.get(kind, 'of an unknown format')}")
    if bits not in (8, 12, 16):
        raise ValueError(f"it has {bits} bits per sample, expected 8, 12 or 16")
    inverted = meaning == WHITE_IS_ZERO
    if bits == 12:  # noqa: PLR2004
        return Image.fromarray(_unpack_12_bits(content, tags)), bits, inverted
    if inverted:  # Pillow inverts at some depths and byte orders only
        content = _black_is_zero(content, directory)
    return Image.open(BytesIO(content), formats=("TIFF",)), bits, inverted


def _is_big(content: bytes) -> bool:
    return 43 in content[2:4]  # noqa: PLR2004  BigTIFF


def _unpack_12_bits(content: bytes, tags: ImageFileDirectory_v2) -> NDArray[np.uint16]:
    """Uncompressed strips of rows; each row starts at a whole byte, high bits first."""
    width, height = tags[256], tags[257]
    if tags.get(_COMPRESSION, 1) != 1 or _STRIPS not in tags:
        raise ValueError("its 12-bit samples are compressed or tiled; save it with 16 bits")
    strips = zip(tags[_STRIPS], tags[279], strict=True)
    data = b"".join(content[start : start + count] for start, count in strips)
    length = (12 * width + 7) // 8
    if len(data) < height * length:
        raise ValueError("it is truncated")
    rows = np.frombuffer(data, np.uint8)[: height * length].reshape(height, length)
    rows = np.pad(rows, ((0, 0), (0, -length % 3))).astype(np.uint16)
    first, second, third = rows[:, ::3], rows[:, 1::3], rows[:, 2::3]
    pairs = np.stack([first << 4 | second >> 4, (second & 15) << 8 | third], 2)
    return pairs.reshape(height, -1)[:, :width]


def _black_is_zero(content: bytes, directory: int) -> bytes:
    """The file with PhotometricInterpretation BlackIsZero in its first directory."""
    order, big = ("<" if content[:2] == b"II" else ">"), _is_big(content)
    count, first, size, value = ("Q", 8, 20, 12) if big else ("H", 2, 12, 8)
    (entries,) = struct.unpack_from(order + count, content, directory)
    for at in range(directory + first, directory + first + entries * size, size):
        tag, kind = struct.unpack_from(order + "HH", content, at)
        if tag == PHOTOMETRIC:
            changed = bytearray(content)
            code = order + ("H" if kind == _SHORT else "I")
            struct.pack_into(code, changed, at + value, _BLACK_IS_ZERO)
            return bytes(changed)
    return content
