"""Batches of a data set, on the device, in an order determined by (seed, epoch, batch).

Training resumed in mid-epoch gets bit-identical batches, and the shards of several processes together are the
batch of a single process. Pixels are copied to the device as uint8 and become floats there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.data.augment import AUGMENTATIONS
from secateur.data.dataset import Dataset, DatasetInputs, Split, each, positive
from secateur.data.sampling import generator


class Batch(NamedTuple):
    """One process's share of a batch.

    `inputs` are normalised floats [B, C, H, W] or a dict of token tensors [B, T], `labels` int64 [B], both on
    the device; `size` counts the examples of the global batch, over all processes. B can be 0 if there are
    more processes than examples.
    """

    inputs: DatasetInputs
    labels: Tensor
    size: int


class Batches:
    """The batches of one split, epoch after epoch; `len()` counts them, a last partial one included.

    `split` is train or test. `shuffle` (default off) reorders each epoch by `seed` (default 0); `augment` names an
    augmentation (default None: none). Process `rank` of `world` (default 0 of 1) gets a contiguous, near-equal
    share of every batch of `batch_size` examples (default 128). Images have `dtype` (default float32) and, with
    `channels_last`, that memory format. A split of less than a quarter of a GPU's free memory is moved there once.
    Raises `InputError` for arguments out of range, an unknown split, device or augmentation, or an augmentation of
    text.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str = "train",
        batch_size: int = 128,
        *,
        device: torch.device | str = "cpu",
        shuffle: bool = False,
        seed: int = 0,
        augment: str | None = None,
        rank: int = 0,
        world: int = 1,
        channels_last: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Check the arguments and move a split that fits to the GPU."""
        if split not in ("train", "test"):
            raise InputError(f"There is no split named '{split}': choose train or test.")
        if not 0 <= rank < positive("number of processes", world):
            raise InputError(f"Rank {rank} lies outside 0..{world - 1} for {world} process(es).")
        if not dtype.is_floating_point:
            raise InputError(f"Images cannot be normalised as {dtype}: choose a floating-point type.")
        self.dataset = dataset
        self.batch_size = positive("batch size", batch_size)
        self.device = _device(device)
        self.shuffle = shuffle
        self.seed = seed
        self.rank, self.world = rank, world
        self.dtype = dtype
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._augmentation = AUGMENTATIONS[augment] if augment not in (None, "none") else None
        if self._augmentation is not None and dataset.input_shape is None:
            raise InputError(
                f"{dataset.name} is text, which '{augment}' cannot augment: leave the augmentation out."
            )
        # Below float32 the sum is still computed in float32; the batch is rounded once, at the end.
        exact = torch.promote_types(dtype, torch.float32)
        self._affine = dataset.affine(self.device, exact) if dataset.input_shape is not None else None
        self._split = _resident(dataset.train if split == "train" else dataset.test, self.device)

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return -(-len(self._split) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of epoch 0."""
        return self.epoch(0)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch` from number `start` on.

        The order and the augmentation are a pure function of the seed, the epoch and the batch's number.
        Raises `InputError` for a `start` outside 0..len.
        """
        if not 0 <= start <= len(self):
            raise InputError(f"Cannot start at batch {start} of an epoch of {len(self)} batches.")
        order = self._order(epoch) if self.shuffle else None
        return (self._batch(epoch, number, order) for number in range(start, len(self)))

    def _order(self, epoch: int) -> Tensor:
        order = torch.randperm(len(self._split), generator=generator(self.seed, "order", epoch))
        return order.to(self._split.labels.device)

    def _batch(self, epoch: int, number: int, order: Tensor | None) -> Batch:
        first = number * self.batch_size
        size = min(self.batch_size, len(self._split) - first)
        low, high = size * self.rank // self.world, size * (self.rank + 1) // self.world
        rows: slice | Tensor = slice(first + low, first + high)
        if order is not None:
            rows = order[rows]
        inputs = each(lambda tensor: self._sent(tensor[rows]), self._split.inputs)
        labels = self._sent(self._split.labels[rows])
        if isinstance(inputs, dict) or self._affine is None:
            return Batch(inputs, labels, size)
        if self._augmentation is not None:
            shape = (inputs.shape[1], inputs.shape[2], inputs.shape[3])
            draws = self._augmentation.draw(size, shape, generator(self.seed, "augment", epoch, number))
            inputs = self._augmentation.apply(inputs, self._sent(draws[low:high]))
        images = torch.addcmul(
            self._affine[0], inputs.contiguous(memory_format=self._format), self._affine[1]
        )
        return Batch(images.to(self.dtype), labels, size)

    def _sent(self, tensor: Tensor) -> Tensor:
        """Return `tensor` on the device; a copy to a GPU is asynchronous, through pinned memory."""
        if tensor.device == self.device:
            return tensor
        if self.device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=self.device.type == "cuda")


def _device(device: torch.device | str) -> torch.device:
    """Return the device with its index, so that it compares equal to the device of a tensor on it."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError):
        raise InputError(
            f"There is no device '{device}' on this machine: choose cpu or one that it has."
        ) from None


def _resident(split: Split, device: torch.device) -> Split:
    """Move `split` to a GPU if it takes less than a quarter of the free memory."""
    if device.type == "cuda" and split.labels.device.type == "cpu":
        free, _ = torch.cuda.mem_get_info(device)
        if 4 * split.nbytes < free:
            return split.to(device)
    return split
