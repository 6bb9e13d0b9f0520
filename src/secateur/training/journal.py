"""The training log: one JSON object a line, appended as epochs end.

Rows hold what a run computed and nothing of when or how fast, so that an interrupted and continued run leaves the
same file, byte for byte, as an undisturbed one. On resuming, the file is cut back to the checkpoint's length.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from secateur.errors import MissingExtraError, StoreError
from secateur.files import make_folder, os_errors, write_text

FILE = "metrics.jsonl"
Row = dict[str, Any]


class Journal:
    """Rows of one run, kept in memory and, given a folder, in its `metrics.jsonl`.

    `context` (such as {"step": 0, "do": "train"}) starts every row.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, context: Mapping[str, Any] | None = None, tensorboard: bool = False
    ) -> None:
        self.rows: list[Row] = []
        self._context = dict(context or {})
        self._path = None if folder is None else make_folder(folder) / FILE
        self._mirror = _tensorboard(folder) if tensorboard and folder is not None else None

    def write(self, **values: Any) -> Row:
        """Append a row; floats keep nine significant digits, infinities and NaN become null."""
        row = {**self._context, **{name: _plain(value) for name, value in values.items()}}
        self.rows.append(row)
        if self._path is not None:
            with os_errors(f"write {self._path}"), self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
        if self._mirror is not None:
            self._mirror(row)
        return row

    @staticmethod
    def reset(folder: str | os.PathLike[str], rows: list[Row]) -> None:
        """Make `rows` the whole log of `folder`."""
        write_text(Path(folder) / FILE, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))

    @property
    def length(self) -> int:
        """Bytes written so far."""
        return self._path.stat().st_size if self._path is not None and self._path.exists() else 0

    def rewind(self, length: int, rows: list[Row]) -> None:
        """Go back to the state in which the file was `length` bytes long and held these rows of this run."""
        self.rows = list(rows)
        if self._path is not None and self._path.exists():
            with os_errors(f"write {self._path}"):
                os.truncate(self._path, length)


def read_journal(folder: str | os.PathLike[str]) -> list[Row]:
    """Return the rows in a run folder's log, none where there is no log. Raises `StoreError` for a broken line."""
    path = Path(folder) / FILE
    if not path.exists():
        return []
    rows = []
    with os_errors(f"read {path}"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                raise StoreError(f"Cannot read {path}: line {number} is not JSON; delete that line.") from None
    return rows


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value


def _tensorboard(folder: str | os.PathLike[str]) -> Callable[[Row], None]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("tensorboard", "tensorboard", "Writing TensorBoard files") from None
    writer = SummaryWriter(str(Path(folder) / "tensorboard"))  # type: ignore[no-untyped-call]

    def mirror(row: Row) -> None:
        for name, value in row.items():
            if isinstance(value, float):
                writer.add_scalar(f"{row.get('do', 'train')}/{name}", value, row["iteration"])  # type: ignore[no-untyped-call]
        writer.flush()  # type: ignore[no-untyped-call]

    return mirror
