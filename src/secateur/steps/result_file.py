"""Results of a long comparison, kept cell by cell in one JSON file, so that it can go on where it was stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from secateur.core.errors import StoreError
from secateur.core.files import locked, read_json, write_json

SECONDS = 1.0
"""At most so often the file is written while cells come fast; what a kill may cost."""


class Cells:
    """Records by what tells one from all others: the values of the fields `identity`."""

    def __init__(
        self, file: Path | None, identity: Sequence[str], found: Sequence[Mapping[str, Any]]
    ) -> None:
        self.file = file
        self._fields = identity
        self._records = {self._key(record): record for record in found}
        self._written = float("-inf")

    @classmethod
    @contextmanager
    def open(
        cls, file: Path | None, identity: Sequence[str], fits: Callable[[Any], bool], command: str
    ) -> Iterator[Cells]:
        """Give the records in `file`, which is written when the block ends, however it does; None keeps nothing.

        Raises `StoreError` where the file holds anything but records that `fits` lets pass, or another process is at
        work.
        """
        if file is None:
            yield cls(None, identity, ())
            return
        with locked(file.parent):
            content = read_json(file) if file.exists() else []
            if not are(content, fits):
                raise StoreError(
                    f"{file} holds something else than results of {command}: choose another --out."
                )
            cells = cls(file, identity, content)
            before = cells.all
            try:
                yield cells
            finally:
                if cells.all != before:
                    cells.write()

    @property
    def all(self) -> list[Mapping[str, Any]]:
        """All records, in the order they came in."""
        return list(self._records.values())

    def find(self, cell: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the record of a cell, empty where there is none."""
        return self._records.get(self._key(cell), {})

    def keep(self, record: Mapping[str, Any]) -> None:
        """Add a record, or replace that of the same cell."""
        self._records[self._key(record)] = record
        if time.monotonic() - self._written >= SECONDS:
            self.write()

    def clear(self) -> None:
        """Forget all records, on disk, too."""
        self._records.clear()
        self.write()

    def write(self) -> None:
        """Write the file anew, where there is one."""
        if self.file is not None:
            write_json(self.file, [dict(each) for each in self.all])
        self._written = time.monotonic()

    def _key(self, record: Mapping[str, Any]) -> str:
        return json.dumps([record[name] for name in self._fields], sort_keys=True)


def are(content: Any, fits: Callable[[Any], bool]) -> bool:
    """Whether what a JSON file holds are records that `fits` lets pass."""
    return isinstance(content, list) and all(fits(record) for record in content)
