"""Results of a study in one SQLite file, whose rows are added and never changed.

tasks    key, do, result (JSON), seconds, finished, environment (JSON)
cells    key, study, cell (JSON: the variables), tasks (JSON: step → key), finished; a row for each study of a cell
failures key, do, reason, failed; a row for each failed attempt of a task
plans    study, cells (JSON: their keys), planned; a row for each run of a study with other cells than before
results  a view for other programs: one row for each finished cell of each study's last run, a column for each
         variable and number

pandas.read_sql("select * from results", sqlite3.connect("study.sqlite"))
duckdb.sql("select * from sqlite_scan('study.sqlite', 'results')")
"""

from __future__ import annotations

import datetime
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from secateur.core.environment import environment
from secateur.core.errors import StoreError
from secateur.core.files import make_folder, parse_json

STUDY_FILE = "study.sqlite"
TABLES = """
create table if not exists tasks (
    key text primary key, do text not null, result text not null, seconds real not null, finished text not null,
    environment text not null);
create table if not exists cells (
    key text not null, study text not null, cell text not null, tasks text not null, finished text not null,
    primary key (key, study, cell));
create table if not exists failures (key text not null, do text not null, reason text not null, failed text not null);
create table if not exists plans (study text not null, cells text not null, planned text not null);
"""
COUNTS = ("parameters", "nonzero", "macs", "macs_nonzero")
CURRENT = "(select cells from plans where plans.study = {study} order by rowid desc limit 1)"


class Results:
    """The results of studies in a folder, in `STUDY_FILE`, with its tables made by default (`create`).

    Raises `StoreError`, here and in its methods, for a file that is no such database, or can't be written.
    """

    def __init__(self, folder: Path, create: bool = True) -> None:
        self.path = (make_folder(folder) if create else folder) / STUDY_FILE
        with self._errors():
            self._database = sqlite3.connect(self.path)
            self._check_ours()
            if create:
                self._database.executescript(TABLES)
        self._environment = json.dumps(environment())

    @classmethod
    def existing(cls, folder: Path) -> Results:
        """Open existing results for reading. Raises `StoreError` if there are none."""
        if not (folder / STUDY_FILE).exists():
            raise StoreError(f"{folder} holds no results of a study: run it first, with secateur study run.")
        return cls(folder, create=False)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def task(self, key: str) -> dict[str, Any] | None:
        """Return a task's result, as `tasks`; None without one."""
        return self.tasks([key]).get(key)

    def tasks(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return key → numbers, with "seconds", of those of these tasks that are done."""
        wanted = set(keys)
        with self._errors():
            rows = self._database.execute("select key, result, seconds from tasks").fetchall()
            return {key: {**_record(result), "seconds": float(s)} for key, result, s in rows if key in wanted}

    def failures(self, keys: Sequence[str]) -> dict[str, str]:
        """Return key → reason of the last failure, for those of these tasks that failed."""
        wanted = set(keys)
        with self._errors():
            known = self._database.execute("select 1 from sqlite_master where name = 'failures'").fetchone()
            rows = self._database.execute("select key, reason from failures order by rowid") if known else ()
            return {str(key): str(reason) for key, reason in rows if key in wanted}

    def cells(self, study: str) -> dict[str, dict[str, Any]]:
        """Return the finished cells of a study: key → variables, as named last."""
        query = "select key, cell from cells where study = ? order by rowid"
        with self._errors():
            return {str(key): _object(cell) for key, cell in self._database.execute(query, (study,))}

    def keep_task(self, key: str, do: str, result: Mapping[str, Any], seconds: float) -> None:
        """Add a task's result, if it has none."""
        row = (key, do, json.dumps(result), seconds, _now(), self._environment)
        with self._errors(), self._database:
            self._database.execute("insert or ignore into tasks values (?, ?, ?, ?, ?, ?)", row)

    def keep_failure(self, key: str, do: str, reason: str) -> None:
        """Add a task's failure and its reason."""
        with self._errors(), self._database:
            self._database.execute("insert into failures values (?, ?, ?, ?)", (key, do, reason, _now()))

    def keep_cell(self, key: str, study: str, values: Mapping[str, Any], tasks: Mapping[str, str]) -> None:
        """Add a finished cell."""
        row = (key, study, json.dumps(values), json.dumps(tasks), _now())
        with self._errors(), self._database:
            self._database.execute("insert or ignore into cells values (?, ?, ?, ?, ?)", row)

    def keep_plan(self, study: str, cells: Sequence[str]) -> None:
        """Add the keys of a study's cells, if they differ from its last ones."""
        text = json.dumps(list(cells))
        with self._errors(), self._database:
            last = self._database.execute("select " + CURRENT.format(study="?"), (study,)).fetchone()
            if last != (text,):
                self._database.execute("insert into plans values (?, ?, ?)", (study, text, _now()))

    def show(self, variables: Sequence[str], numbers: Mapping[str, tuple[str, str]]) -> None:
        """Make the view `results`: `numbers` maps each column to its step and number.

        A study without a stored plan, of an earlier version, has all its cells in it.
        """
        columns = ["cells.key", "cells.study"]
        columns += [f"json_extract(cell, {_text(f'$.{_name(v)}')}) as {_name(v)}" for v in variables]
        for column, (step, number) in numbers.items():
            key = f"json_extract(cells.tasks, {_text(f'$.{_name(step)}')})"
            value = (
                "seconds" if number == "seconds" else f"json_extract(result, {_text(f'$.{_name(number)}')})"
            )
            columns.append(f"(select {value} from tasks where tasks.key = {key}) as {_name(column)}")
        plan = CURRENT.format(study="cells.study")
        with self._errors(), self._database:
            self._database.execute("drop view if exists results")
            self._database.execute(
                f"create view results as select {', '.join(columns)} from cells "
                "where rowid in (select max(rowid) from cells group by study, key) "
                f"and cells.key in (select value from json_each(coalesce({plan}, json_array(cells.key))))"
            )

    def _check_ours(self) -> None:
        """Raise `StoreError` for the database of another program."""
        tables = {
            name for (name,) in self._database.execute("select name from sqlite_master where type = 'table'")
        }
        if tables and not {"tasks", "cells"} <= tables:
            raise StoreError(f"{self.path} is the database of another program: choose another --root.")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError, RecursionError) as error:
            raise StoreError(f"Cannot use {self.path} ({error}): choose another --root.") from None


def _object(text: Any) -> dict[str, Any]:
    """Return the mapping in a cell of the file. Raises `ValueError` for anything else."""
    found = parse_json(text)
    if not isinstance(found, dict):
        raise ValueError(f"{text[:40]} is no object of JSON")
    return found


def _record(text: Any) -> dict[str, Any]:
    """Return a task's numbers and texts. Raises `ValueError` for anything else."""
    found = _object(text)
    for name, value in found.items():
        kinds = (
            int | float
            if name in COUNTS
            else int | float | None
            if name == "top1"
            else int | float | str | None
        )
        if not isinstance(value, kinds):
            raise ValueError(f"{name} of a task is {str(value)[:40]!r}")
    return found


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _name(text: str) -> str:
    """Quote a column's name, or a key in a JSON path."""
    return '"' + text.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
