"""Results of a long comparison, saved cell by cell in one JSON file, so that it can be resumed."""

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
"""Shortest interval between two writes of the file, in seconds; a kill loses the cells of at most this time."""


class Cells:
    """Records by their identity: the values of the fields `identity`."""

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
        """Yield the records in `file`, which is written when the block ends, also by an exception; None saves nothing.

        Raises `StoreError` if the file holds anything but records that fulfil `fits`, or another process has locked
        its folder.
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
        """Return all records, in order of insertion."""
        return list(self._records.values())

    def find(self, cell: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the record of a cell, empty if there is none."""
        return self._records.get(self._key(cell), {})

    def keep(self, record: Mapping[str, Any]) -> None:
        """Add a record, or replace that of the same cell."""
        self._records[self._key(record)] = record
        if time.monotonic() - self._written >= SECONDS:
            self.write()

    def clear(self) -> None:
        """Remove all records, also from the file."""
        self._records.clear()
        self.write()

    def write(self) -> None:
        """Write the file, if there is one."""
        if self.file is not None:
            write_json(self.file, [dict(each) for each in self.all])
        self._written = time.monotonic()

    def _key(self, record: Mapping[str, Any]) -> str:
        return json.dumps([record[name] for name in self._fields], sort_keys=True)


def are(content: Any, fits: Callable[[Any], bool]) -> bool:
    """Whether the content of a JSON file is a list of records that fulfil `fits`."""
    return isinstance(content, list) and all(fits(record) for record in content)
