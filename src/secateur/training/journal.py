"""The training log: one JSON object per line, appended as epochs end.

Rows hold results and no times, so that a resumed run leaves the same file, byte for byte, as an uninterrupted one:
on resuming, the file is cut back to its state at the checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from secateur.core.errors import StoreError
from secateur.core.extras import need
from secateur.core.files import make_folder, os_errors, parse_json, read_text, write_bytes

METRICS_FILE = "metrics.jsonl"
MetricsRow = dict[str, Any]


class Journal:
    """Rows of one training, kept in memory and, with a `folder`, appended to its `metrics.jsonl`.

    `context` (such as {"step": 0, "do": "train"}) starts every row. With `tensorboard` (default off) the rows are
    also written as TensorBoard files, each training in its own folder below `tensorboard`. Raises
    `MissingExtraError` without TensorBoard.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        context: Mapping[str, Any] | None = None,
        tensorboard: bool = False,
    ) -> None:
        self.rows: list[MetricsRow] = []
        self._context = dict(context or {})
        self._path = None if folder is None else make_folder(folder) / METRICS_FILE
        self._before = len(self._bytes())
        name = "-".join(str(self._context[key]) for key in ("step", "do") if key in self._context) or "train"
        self._mirror = (
            _tensorboard(Path(folder) / "tensorboard" / name) if tensorboard and folder is not None else None
        )

    def write(self, **values: Any) -> MetricsRow:
        """Append and return a row; floats are rounded to nine significant digits, infinities and NaN become null."""
        row = {**self._context, **{name: _plain(value) for name, value in values.items()}}
        self.rows.append(row)
        if self._path is not None:
            with os_errors(f"write {self._path}"), self._path.open("ab") as file:
                file.write(_lines([row]))
        if self._mirror is not None:
            self._mirror(row)
        return row

    def tree(self) -> dict[str, Any]:
        """Return the state for `restore`: the length in bytes of the file before this training, and its rows."""
        return {"before": self._before, "rows": self.rows}

    def restore(self, tree: Mapping[str, Any]) -> None:
        """Restore a state from `tree`, in memory and in the file."""
        self.rows, self._before = list(tree["rows"]), tree["before"]
        if self._path is not None:
            write_bytes(self._path, self._bytes()[: self._before] + _lines(self.rows))
        if self._mirror is not None:
            for row in self.rows:
                self._mirror(row)

    @staticmethod
    def reset(folder: str | os.PathLike[str], rows: Sequence[MetricsRow]) -> None:
        """Replace the log of `folder` by `rows`."""
        write_bytes(Path(folder) / METRICS_FILE, _lines(rows))

    def _bytes(self) -> bytes:
        if self._path is None or not self._path.exists():
            return b""
        with os_errors(f"read {self._path}"):
            return self._path.read_bytes()


def read_journal(folder: str | os.PathLike[str]) -> list[MetricsRow]:
    """Return the rows of a run folder's log; [] without a log.

    An unterminated last line, as a crash leaves it, is skipped. Raises `StoreError` for any other line that is no JSON
    object.
    """
    path = Path(folder) / METRICS_FILE
    with os_errors(f"read {path}"):
        if not path.exists():
            return []
    *lines, _ = read_text(path).split("\n")
    return [_row(path, number, line) for number, line in enumerate(lines, start=1)]


def _row(path: Path, number: int, line: str) -> MetricsRow:
    row: Any = None
    with suppress(ValueError, RecursionError):
        row = parse_json(line)
    if not isinstance(row, dict):
        raise StoreError(f"Cannot read {path}: line {number} is no row in JSON; delete that line.")
    return row


def _lines(rows: Sequence[MetricsRow]) -> bytes:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value


def _tensorboard(folder: Path) -> Callable[[MetricsRow], None]:
    """Return a function that adds a row's floats to new TensorBoard files in `folder`."""
    library = need("torch.utils.tensorboard", extra="tensorboard", for_="Writing TensorBoard files")
    shutil.rmtree(folder, ignore_errors=True)
    with os_errors(f"write {folder}"):
        writer = library.SummaryWriter(str(folder))

    def mirror(row: MetricsRow) -> None:
        for name, value in row.items():
            if isinstance(value, float):
                writer.add_scalar(name, value, row["iteration"])
        writer.flush()

    return mirror
