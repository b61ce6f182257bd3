"""The bit depth of images with more than 8 bits: as the file states, or as the values show."""

import struct
from io import BytesIO

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF file."""

PNG = b"\x89PNG\r\n\x1a\n"
"""First bytes of a PNG file."""

PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
"""The tag of a TIFF file that says which value is white, and the value for 0."""

_DEPTHS = (8, 10, 12, 14, 16)
_BITS, _SAMPLE_FORMAT = 258, 339
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
    if bits == 12 and content.startswith(b"MM"):  # noqa: PLR2004  Pillow cannot read them
        raise ValueError("its samples of 12 bits are big-endian; save it with 16 bits")
    inverted = meaning == WHITE_IS_ZERO
    if inverted:  # Pillow inverts at some depths and byte orders only
        content = _black_is_zero(content, directory)
    return Image.open(BytesIO(content), formats=("TIFF",)), bits, inverted


def _is_big(content: bytes) -> bool:
    return 43 in content[2:4]  # noqa: PLR2004  BigTIFF


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
