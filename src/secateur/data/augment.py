"""Augmentation of whole batches, on the device, from random numbers drawn beforehand.

An augmentation has two parts. `draw` makes one row of numbers per image of the *global* batch, on the CPU;
`apply` moves the pixels. A process that holds only some of the images applies only their rows, so the result
does not depend on the number of processes. Padding is 0, which is black before normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from secateur.core.registry import Registry


class Augmentation(Protocol):
    """Entry of `AUGMENTATIONS`: random draws for a batch of images, and their application."""

    @property
    def summary(self) -> str:
        """One line for listings."""
        ...

    def draw(self, size: int, shape: tuple[int, int, int], stream: torch.Generator) -> Tensor:
        """Return the random numbers, int64 [size, k], for `size` images of `shape` (C, H, W)."""
        ...

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Return the augmented images [B, C, H, W], any dtype; `draws` is [B, k] on the same device."""
        ...


@dataclass(frozen=True)
class CropFlip:
    """Zero padding, a random crop to the old size and, with `flip`, a left-right mirror with probability ½.

    The padding is 1/`share` of the image's height on every side, at least one pixel; none for `share` 0.
    """

    summary: str
    share: int = 0
    flip: bool = False

    def padding(self, height: int) -> int:
        """Return the padding in pixels on each side of an image of `height`."""
        return max(1, height // self.share) if self.share else 0

    def draw(self, size: int, shape: tuple[int, int, int], stream: torch.Generator) -> Tensor:
        """Return int64 [size, 3]: the crop's top and left edge in the padded image, and 1 for a mirrored image."""
        offsets = torch.randint(2 * self.padding(shape[1]) + 1, (size, 2), generator=stream)
        mirrored = torch.randint(2, (size, 1), generator=stream)
        return torch.cat([offsets, mirrored], dim=1)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Return `images` [B, C, H, W], any dtype, cropped and mirrored by their rows of `draws` [B, 3]."""
        top, left, mirrored = draws.unbind(1)
        height, width = images.shape[2:]
        if padding := self.padding(height):
            windows = functional.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
            images = windows[torch.arange(len(images), device=images.device), :, top, left]
        if self.flip:
            images = torch.where(mirrored.bool().view(-1, 1, 1, 1), images.flip(3), images)
        return images


AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")
AUGMENTATIONS.add("none", CropFlip("the images as they are"))
AUGMENTATIONS.add("flip", CropFlip("mirror left-right", flip=True))
AUGMENTATIONS.add("shift", CropFlip("crop from a margin of 1/14 of the side (2 of 28 pixels)", share=14))
AUGMENTATIONS.add(
    "crop-flip",
    CropFlip("crop from a margin of 1/8 of the side (4 of 32 pixels), mirror", share=8, flip=True),
)
