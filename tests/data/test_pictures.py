"""Pictures of every kind become 8-bit pixels, the right way up, or one sentence."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from secateur.core.errors import DataError
from secateur.data.images import decode

RAMP = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
EIGHT = torch.tensor(np.round(RAMP / 257).astype(np.int64))


def stored(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("mode", ["L", "RGB", None])
def test_sixteen_bit_grey_is_scaled(form: str, mode: str | None) -> None:
    image = Image.fromarray(RAMP)
    pixels = decode([stored(image.convert("I") if form == "PPM" else image, form)], "here", mode=mode)
    assert pixels.shape == (1, 3 if mode == "RGB" else 1, 8, 8)
    assert (pixels[0].long() - EIGHT).abs().max() <= (1 if form == "PPM" else 0)


def test_big_endian_sixteen_bits() -> None:
    image = Image.frombytes("I;16B", (8, 8), RAMP.astype(">u2").tobytes())
    assert torch.equal(decode([stored(image, "TIFF")], "here")[0, 0].long(), EIGHT)


MARK = np.zeros((4, 6, 3), np.uint8)
MARK[0, 0] = 255  # top left


@pytest.mark.parametrize(
    ("orientation", "corner"),
    {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}.items(),
)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_orientations(form: str, orientation: int, corner: tuple[int, int]) -> None:
    tags = Image.Exif()
    tags[0x0112] = orientation
    large = Image.fromarray(MARK.repeat(16, 0).repeat(16, 1))
    pixels = decode([stored(large, form, exif=tags)], "here")[0, 0]
    assert tuple(pixels.shape) == ((96, 64) if orientation > 4 else (64, 96))
    assert pixels[corner] > 200
    others = {(0, 0), (0, -1), (-1, 0), (-1, -1)} - {corner}
    assert all(pixels[other] < 50 for other in others)


def test_sixteen_bits_on_their_side() -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    pixels = decode([stored(Image.fromarray(RAMP[:, :4].copy()), "PNG", exif=tags)], "here")
    assert torch.equal(pixels[0, 0].long(), EIGHT[:, :4].rot90(-1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_keep_white_and_black(mode: str) -> None:
    image = Image.fromarray(np.repeat([[0, 255]], 8, 0).repeat(4, 1).astype(np.uint8)).convert(mode)
    form = {"CMYK": "JPEG", "YCbCr": "JPEG"}.get(mode, "PNG")
    pixels = decode([stored(image, form, **({"quality": 95} if form == "JPEG" else {}))], "here", mode="RGB")
    assert pixels[0, :, 4, 1].max() < 10
    assert pixels[0, :, 4, -2].min() > 245


def test_a_palette_with_transparency_and_a_first_frame() -> None:
    red, blue = Image.new("RGB", (4, 4), (255, 0, 0)), Image.new("RGB", (4, 4), (0, 0, 255))
    pixels = decode(
        [stored(red, "GIF", save_all=True, append_images=[blue], transparency=0)], "here", mode="RGB"
    )
    assert pixels[0, :, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_thirty_two_bits_are_refused(mode: str) -> None:
    with pytest.raises(DataError, match=r"^Cannot decode image 0 of here \(its pixels are 32-bit"):
        decode([stored(Image.new(mode, (4, 4), 1000), "TIFF")], "here")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF"])
def test_truncated_files_are_refused(form: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    whole = stored(noise, form)
    with pytest.raises(DataError, match=r"^Cannot decode image 0 of here"):
        decode([whole[: len(whole) // 2]], "here")
