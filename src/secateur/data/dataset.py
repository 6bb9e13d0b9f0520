"""The `Dataset` type: two splits of decoded tensors, the class names and the normalisation.

Images stay uint8 in memory and become normalised floats batch by batch, so a data set takes a quarter of its
float32 size and its normalisation can be changed later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from secateur.core.errors import DataError, InputError
from secateur.data.sampling import balanced_order, generator

DatasetInputs = Tensor | dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Split:
    """Inputs and labels of one half of a data set.

    `inputs` is a uint8 image tensor [N, C, H, W], or a dict of token tensors, int32 or int64 [N, T] each
    (`input_ids`, `attention_mask`, …); `labels` is int64 [N], counted from 0. Raises `DataError` if they
    don't fit each other.
    """

    inputs: DatasetInputs
    labels: Tensor

    def __post_init__(self) -> None:
        """Check types, lengths and the sign of the labels."""
        labels = self.labels
        if labels.dtype != torch.int64 or labels.dim() != 1:
            raise DataError(f"Labels must be int64 [N], not {_described(labels)}: convert them.")
        if len(labels) == 0:
            raise DataError("A split of the data set holds no examples: give it at least one.")
        if int(labels.min()) < 0:
            raise DataError(
                "Some labels are negative, as in splits whose answers are secret: use a labelled split."
            )
        if isinstance(self.inputs, dict):
            for name, tokens in self.inputs.items():
                if tokens.dtype not in (torch.int32, torch.int64) or tokens.dim() != 2:
                    raise DataError(
                        f"The tokens '{name}' must be int32 or int64 [N, T], not {_described(tokens)}."
                    )
        elif self.inputs.dtype != torch.uint8 or self.inputs.dim() != 4:
            raise DataError(
                f"Images must be uint8 [N, C, H, W], not {_described(self.inputs)}: convert them."
            )
        if not self._tensors() or any(len(tensor) != len(labels) for tensor in self._tensors()):
            lengths = ", ".join(str(len(tensor)) for tensor in self._tensors()) or "no"
            raise DataError(
                f"There are {lengths} inputs for {len(labels)} labels: give each input one label."
            )

    def __len__(self) -> int:
        """Count the examples."""
        return len(self.labels)

    def __repr__(self) -> str:
        """Show the sizes, not the content."""
        shape = "tokens" if isinstance(self.inputs, dict) else "×".join(map(str, self.inputs.shape[1:]))
        return f"Split({len(self)} examples, {shape})"

    @property
    def nbytes(self) -> int:
        """Bytes held by the inputs and the labels."""
        return self.labels.nbytes + sum(tensor.nbytes for tensor in self._tensors())

    def take(self, n: int) -> Split:
        """Return the first `n` examples (at most all) as views. Raises `InputError` for n below 1."""
        return self.select(slice(positive("number of examples", n)))

    def select(self, rows: Tensor | slice) -> Split:
        """Return the examples at `rows`: int64 positions, a boolean mask, or a slice (which gives views)."""
        return Split(each(lambda tensor: tensor[rows], self.inputs), self.labels[rows])

    def to(self, device: torch.device | str) -> Split:
        """Return the split on `device`."""
        return Split(each(lambda tensor: tensor.to(device), self.inputs), self.labels.to(device))

    def _tensors(self) -> list[Tensor]:
        return list(self.inputs.values()) if isinstance(self.inputs, dict) else [self.inputs]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named data set with a training and a test split.

    `classes` are the class names in label order. `mean` and `std` normalise images: one float per channel for
    pixel values scaled to 0..1; both are None for text. `augmentation` (default "none") names the usual entry of
    `AUGMENTATIONS` for these data. Raises `DataError` if the parts don't fit each other.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    augmentation: str = "none"

    def __post_init__(self) -> None:
        """Check that splits, classes and normalisation agree."""
        highest = max(int(split.labels.max()) for split in (self.train, self.test))
        if highest >= len(self.classes):
            raise DataError(
                f"{self.name} has the label {highest} but names only {len(self.classes)} classes."
            )
        train, test = self.train.inputs, self.test.inputs
        if isinstance(train, dict) or isinstance(test, dict):
            if not (isinstance(train, dict) and isinstance(test, dict) and train.keys() == test.keys()):
                raise DataError(f"The training and test split of {self.name} hold different kinds of inputs.")
            if self.mean is not None or self.std is not None:
                raise DataError(
                    f"{self.name} is text, which has no pixels to normalise: leave mean and std None."
                )
            return
        if train.shape[1:] != test.shape[1:]:
            sizes = " and ".join("×".join(map(str, images.shape[1:])) for images in (train, test))
            raise DataError(
                f"The training and test images of {self.name} differ in size ({sizes}): resize one."
            )
        if self.mean is None or self.std is None:
            raise DataError(f"{self.name} needs a mean and a standard deviation per channel.")
        channels = train.shape[1]
        if len(self.mean) != channels or len(self.std) != channels or min(self.std) <= 0:
            raise DataError(
                f"{self.name} needs {channels} means and {channels} positive standard deviations."
            )

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def input_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of an image; None for text."""
        if isinstance(self.train.inputs, dict):
            return None
        return cast(tuple[int, int, int], tuple(self.train.inputs.shape[1:]))

    def example(self, batch: int = 1) -> DatasetInputs:
        """Return the first `batch` inputs of the test split: normalised float32 [batch, C, H, W], or token tensors.

        A shorter split is repeated. Raises `InputError` for a batch below 1.
        """
        rows = torch.arange(positive("batch", batch)) % len(self.test)
        return self.normalised(each(lambda tensor: tensor[rows.to(tensor.device)], self.test.inputs))

    def normalised(self, inputs: DatasetInputs) -> DatasetInputs:
        """Return (pixels / 255 − mean) / std of uint8 images [B, C, H, W], float32; tokens as they are."""
        if isinstance(inputs, dict):
            return inputs
        shift, scale = self.affine(inputs.device)
        return torch.addcmul(shift, inputs, scale)

    def affine(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Return (shift, scale), [C, 1, 1] each, of the normalised image shift + scale · pixels, pixels in 0..255.

        shift = −mean / std and scale = 1 / (255 std), rounded to `dtype`. Raises `InputError` for text.
        """
        if self.mean is None or self.std is None:
            raise InputError(f"{self.name} is text, which has no pixels to normalise.")
        mean, std = (
            torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (self.mean, self.std)
        )
        return (-mean / std).to(device, dtype), (1 / (255 * std)).to(device, dtype)

    def with_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> Dataset:
        """Return the data set with other constants; a single number serves every channel.

        Raises `InputError` for text, a wrong number of constants, or a standard deviation that isn't
        positive.
        """
        if self.input_shape is None:
            raise InputError(
                f"{self.name} is text, which has no pixels to normalise: leave the normalisation out."
            )
        channels = self.input_shape[0]
        full = [tuple(values) * channels if len(values) == 1 else tuple(values) for values in (mean, std)]
        if any(len(values) != channels for values in full):
            raise InputError(
                f"{self.name} has {channels} channel(s): give one mean and one deviation for each."
            )
        if not all(0 < value < float("inf") for value in full[1]):
            raise InputError("A standard deviation of 0 or less cannot normalise: give positive numbers.")
        return replace(self, mean=full[0], std=full[1])

    @property
    def preparation(self) -> dict[str, Any]:
        """What a model trained on these data expects, as JSON: `mean`, `std` (None for text) and `size` [H, W] of its
        images, whose pixels are scaled to 0..1 first, and the names of its `classes`."""
        size = None if self.input_shape is None else list(self.input_shape[1:])
        constants = {
            name: None if own is None else list(own) for name, own in (("mean", self.mean), ("std", self.std))
        }
        return {**constants, "size": size, "classes": list(self.classes)}

    def subset(self, train: int | None = None, test: int | None = None, seed: int = 0) -> Dataset:
        """Return at most `train` and `test` random examples, class-balanced as far as class sizes allow.

        None (the default) keeps a split whole. A smaller subset of the same seed is a prefix of a larger one.
        Raises `InputError` for a size below 1.
        """
        return replace(
            self,
            train=_balanced(self.train, train, generator(seed, "subset", "train")),
            test=_balanced(self.test, test, generator(seed, "subset", "test")),
        )

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits: SHA-256 of shapes, dtypes, labels and the first and last 64 inputs."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            inputs = split.inputs if isinstance(split.inputs, dict) else {"images": split.inputs}
            for name, tensor in (*sorted(inputs.items()), ("labels", split.labels)):
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                ends = (tensor,) if name == "labels" else (tensor[:64], tensor[-64:])
                for part in ends:
                    digest.update(part.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def each(change: Callable[[Tensor], Tensor], inputs: DatasetInputs) -> DatasetInputs:
    """Apply `change` to an image tensor, or to every token tensor."""
    if isinstance(inputs, dict):
        return {name: change(tensor) for name, tensor in inputs.items()}
    return change(inputs)


def positive(what: str, value: int) -> int:
    """Return `value`. Raises `InputError` if it is no whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"The {what} must be a whole number of at least 1, not {value!r}.")
    return value


def pixel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the exact means and standard deviations per channel of uint8 images [N, C, H, W], scaled to 0..1.

    Computed in float64 from a histogram per channel. A constant channel gets the deviation 1.
    """
    counts = torch.zeros(images.shape[1], 256, dtype=torch.float64)
    for part in torch.split(images, 4096):
        counts += torch.stack([channel.flatten().bincount(minlength=256) for channel in part.unbind(1)])
    share = counts / counts.sum(1, keepdim=True)
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ levels
    variance = (share * (levels - mean[:, None]) ** 2).sum(1)
    std = torch.where(variance > 0, variance.sqrt(), 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())


def _balanced(split: Split, n: int | None, stream: torch.Generator) -> Split:
    if n is None:
        return split
    return split.select(
        balanced_order(split.labels.cpu(), stream)[: positive("subset", n)].to(split.labels.device)
    )


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
