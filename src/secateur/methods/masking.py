"""The base class of methods whose state is masks on ordinary weights, changed at intervals and held in between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from secateur.core.errors import InputError
from secateur.methods.base import Method, MethodJob
from secateur.sparsity.masks import Masks


class Masking(Method):
    """Holds masks of the targets; `before_step` and `after_step` of subclasses `change` them."""

    def __init__(self, job: MethodJob, first: Masks | None = None) -> None:
        """Start with the masks `first`, by default with all weights that earlier cuts have left."""
        super().__init__(job)
        self.targets = job.targets()
        whole = Masks({name: torch.ones_like(t, dtype=torch.bool) for name, t in self.targets.items()})
        given = Masks({name: mask for name, mask in job.masks.items() if name in self.targets})
        self._masks = first if first is not None else whole & given.to(next(iter(whole.values())).device)

    @property
    def masks(self) -> Masks:
        """The current cuts."""
        return self._masks

    def attach(self) -> None:
        """Register the method's hooks before those of the masks, so that it sees dense gradients."""
        super().attach()
        self._held = self._masks.hold(self.job.model, self.job.optimizer)

    def change(self, masks: Masks) -> None:
        """Hold these masks from now on."""
        self._masks = masks
        self._held.change(masks.of(self.job.model))

    def zero_gradients(self) -> None:
        """Zero the gradients of cut weights."""
        super().zero_gradients()
        self._held.zero_gradients()

    def release(self) -> None:
        """Release the masks."""
        self._held.remove()

    def state(self) -> dict[str, Any]:
        """Return the masks, one bit per weight."""
        return {"masks": self._masks.pack()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Hold the masks of a state. Raises `InputError` for a state without the masks of a target."""
        shapes = {name: tuple(mask.shape) for name, mask in self._masks.items()}
        try:
            masks = Masks.unpack(state["masks"], shapes)
        except KeyError:
            raise InputError(f"The state holds no masks of the method {self.job.name}.") from None
        self.change(Masks({name: mask.to(self.targets[name].device) for name, mask in masks.items()}))
