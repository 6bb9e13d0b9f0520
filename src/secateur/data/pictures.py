"""One picture as 8-bit pixels, the right way up: every reader of images goes through here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from secateur.core.errors import DataError
from secateur.core.extras import need

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION, QUARTER_TURNS = 0x0112, (5, 6, 7, 8)
"""Tag of EXIF, and its values for a picture stored on its side."""
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
SCALED_TO_SIXTEEN_BITS = ("PNG", "PPM")
"""Formats whose pictures of mode "I" hold 16 bits."""
GREY_MODES = frozenset({"L", "1", *SIXTEEN_BITS})


def is_grey(image: Image) -> bool:
    """Whether a picture has one channel."""
    return image.mode in GREY_MODES or (image.mode == "I" and image.format in SCALED_TO_SIXTEEN_BITS)


def upright_size(image: Image) -> tuple[int, int]:
    """Return (width, height) of a picture the right way up, from its header."""
    width, height = image.size
    turned = (
        image.format != "TIFF" and image.getexif().get(ORIENTATION) in QUARTER_TURNS
    )  # Pillow turns TIFF itself
    return (height, width) if turned else (width, height)


def eight_bits(image: Image, mode: str) -> Image:
    """Return a picture in `mode`, "RGB" or "L", turned as its EXIF data say.

    16 bits are scaled to 8, transparency is dropped, and of several frames the first is taken. Raises `DataError` for
    32-bit pixels, whose range no format defines.
    """
    operations = need("PIL.ImageOps", for_="Reading images")
    if image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in SCALED_TO_SIXTEEN_BITS):
        picture = _scaled(image)
    elif image.mode in ("I", "F"):
        raise DataError(
            f"its pixels are 32-bit {'numbers' if image.mode == 'F' else 'integers'} of no known range"
        )
    else:
        picture = image.convert("RGBA") if "transparency" in image.info else image
    orientation = image.getexif().get(ORIENTATION, 1)
    if orientation != 1:
        picture.getexif()[ORIENTATION] = orientation
        picture = operations.exif_transpose(picture)
    return picture.convert(mode)


def _scaled(image: Image) -> Image:
    """Return a picture of 16 bits in 8, rounded: 65535 becomes 255."""
    library = need("PIL.Image", for_="Reading images")
    values = np.asarray(image).astype(np.uint32)
    return library.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))  # type: ignore[no-any-return]
