"""Decoding of images into one uint8 tensor, in threads and within half of the available memory."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from secateur.core.errors import DataError
from secateur.core.extras import need
from secateur.core.progress import bar
from secateur.data.dataset import Split
from secateur.data.pictures import eight_bits, is_grey, upright_size

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
Encoded = bytes | str | os.PathLike[str]
DEFAULT_SIZE = 224
GIB = 2**30


def decode(items: Sequence[Encoded], origin: str, size: int | None = None, mode: str | None = None) -> Tensor:
    """Decode image files (paths) or their contents (bytes) to uint8 [N, C, H, W].

    With a `size`, the shorter side is scaled to it (bilinear) and the centre cropped to a square. None (the
    default) keeps a size common to all images and brings images of several sizes to 224. `mode` is "RGB" (three
    channels) or "L" (one); None takes L if every image is greyscale and RGB otherwise. `origin` names the images
    in error messages.

    Raises `DataError` for an image that can't be decoded, naming it, and for more images than half of the
    available memory holds.
    """
    height = width = size
    if size is None or mode is None:
        headers = _in_threads(
            lambda number: _header(items[number], number, origin), len(items), "reading headers"
        )
        grey, sizes = all(header[0] for header in headers), {header[1] for header in headers}
        mode = mode or ("L" if grey else "RGB")
        if size is None and len(sizes) == 1:
            width, height = next(iter(sizes))
        elif size is None:
            size = height = width = DEFAULT_SIZE
    assert height is not None
    assert width is not None
    images = torch.empty(reserved(len(items), 3 if mode == "RGB" else 1, height, width), dtype=torch.uint8)
    pixels = images.permute(0, 2, 3, 1).numpy()

    def fill(number: int) -> None:
        pixels[number] = _decoded(items[number], number, origin, size, str(mode))

    _in_threads(fill, len(items), "decoding images")
    return images


def resized(split: Split, size: int) -> Split:
    """Return the image split as uint8 [N, C, size, size]: shorter side scaled (bilinear), centre cropped.

    Raises `DataError` for more images than half of the available memory holds.
    """
    need("torchvision", for_="Scaling images")
    from torchvision.transforms import functional

    assert isinstance(split.inputs, Tensor)
    images = torch.empty(reserved(len(split), split.inputs.shape[1], size, size), dtype=torch.uint8)
    for target, part in zip(torch.split(images, 4096), torch.split(split.inputs, 4096), strict=True):
        target.copy_(functional.center_crop(functional.resize(part, [size], antialias=True), [size, size]))
    return Split(images, split.labels)


def reserved(count: int, channels: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Return the shape [N, C, H, W]. Raises `DataError` if it exceeds half of the available memory."""
    needed, available = count * channels * height * width, available_memory()
    if 2 * needed > available:
        raise DataError(
            f"{count:,} images of {height}×{width} pixels take {needed / GIB:.1f} GiB of memory, more than "
            f"half of the {available / GIB:.1f} GiB available: choose a smaller size or fewer images."
        )
    return count, channels, height, width


def available_memory() -> int:
    """Return the available memory in bytes; the physical memory, else `sys.maxsize`, on systems without the figure."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize


def _header(item: Encoded, number: int, origin: str) -> tuple[bool, tuple[int, int]]:
    """Return whether an image is grey, and its (width, height), from its header."""
    with _opened(item, number, origin) as image:
        return is_grey(image), upright_size(image)


def _decoded(item: Encoded, number: int, origin: str, size: int | None, mode: str) -> np.ndarray:
    """Return the pixels, uint8 [H, W, C]."""
    need("torchvision", for_="Scaling images")
    from torchvision.transforms import functional

    with _opened(item, number, origin) as image:
        picture = eight_bits(image, mode)
        if size is not None and picture.size != (size, size):
            picture = functional.center_crop(functional.resize(picture, [size]), [size, size])
        return np.atleast_3d(np.asarray(picture))


@contextmanager
def _opened(item: Encoded, number: int, origin: str) -> Iterator[Image]:
    """Open an image; any failure becomes a `DataError` that names it."""
    library = need("PIL.Image", for_="Reading images")
    try:
        with library.open(io.BytesIO(item) if isinstance(item, bytes) else item) as image:
            yield image
    except Exception as error:  # decoders answer corrupt files with exceptions of every type
        name = f"image {number} of {origin}" if isinstance(item, bytes) else os.fspath(item)
        raise DataError(f"Cannot decode {name} ({error}): repair or remove it.") from error


def _in_threads(work: Callable[[int], T], count: int, title: str, chunk: int = 256) -> list[T]:
    """Return [work(0), …, work(count − 1)], computed by as many threads as there are cores."""
    starts = range(0, count, chunk)
    with bar(title, len(starts)) as running, ThreadPoolExecutor(os.cpu_count()) as pool:
        results: list[T] = []
        for part in pool.map(
            lambda start: [work(n) for n in range(start, min(start + chunk, count))], starts
        ):
            results += part
            running.advance()
    return results
