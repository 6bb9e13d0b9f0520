"""The state of an unfinished training run, in one file that is replaced atomically."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.core.errors import StoreError
from secateur.core.files import sweep
from secateur.storage.model_files import read_tree, write_tree

CHECKPOINT_FILE = "checkpoint.safetensors"


class Checkpoint:
    """The checkpoint file of a folder and the identity of its training; without a folder nothing is stored.

    `identity` is a JSON value: a checkpoint with another one is refused, not silently continued.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, identity: Mapping[str, Any]) -> None:
        self.path = None if folder is None else Path(folder) / CHECKPOINT_FILE
        self.identity = dict(identity)

    @property
    def exists(self) -> bool:
        """Whether there is a checkpoint of any identity."""
        return self.path is not None and self.path.exists()

    def write(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint by `state` (nested dicts of tensors and JSON values)."""
        if self.path is not None:
            write_tree(self.path, {"identity": self.identity, "state": dict(state)})

    def read(self) -> dict[str, Any] | None:
        """Return the stored state, or None without a checkpoint.

        Raises `StoreError` for a corrupt file or another identity, naming up to three differences.
        """
        if self.path is None or not self.exists:
            return None
        found, state = self._content(self.path)
        differences = _differences(found, self.identity)
        if differences:
            raise StoreError(
                f"{self.path.parent} holds an unfinished training with other settings "
                f"({'; '.join(differences[:3])}): use those to continue it, start over with --overwrite, "
                f"or delete its {CHECKPOINT_FILE}."
            )
        return state

    def found(self) -> Mapping[str, Any] | None:
        """Return the identity stored in the checkpoint; None if there is no readable one."""
        if self.path is None or not self.exists:
            return None
        try:
            return self._content(self.path)[0]
        except StoreError:
            return None

    def fits(self) -> bool:
        """Whether there is a checkpoint of this identity."""
        found = self.found()
        return found is not None and not _differences(found, self.identity)

    def remove(self) -> None:
        """Delete the checkpoint, if there is one, and the temporary files of killed processes."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            sweep(self.path.parent)

    @staticmethod
    def _content(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            tree = read_tree(path)
            return tree["identity"], tree["state"]
        except (StoreError, KeyError) as error:
            reason = str(error).removesuffix(".") if isinstance(error, StoreError) else f"Cannot read {path}"
            raise StoreError(f"{reason}: delete this checkpoint, or start over with --overwrite.") from error


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    """List the differences of two JSON values, as "lr: 0.1, now 0.05"."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [line for key in keys for line in _differences(old.get(key), new.get(key), key)]
    if isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        return [line for one, other in zip(old, new, strict=True) for line in _differences(one, other, name)]
    return [] if old == new else [f"{name}: {_short(old)}, now {_short(new)}"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:39] + "…"
