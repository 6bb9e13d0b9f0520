"""A study's cells as one table, such as methods × compression, with spread, baseline differences and a Pareto front."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeAlias

from secateur.core.errors import InputError
from secateur.core.registry import unknown
from secateur.core.tables import NUMBER, TEXT, Column, Format, Table
from secateur.study.quantities import difference, is_cost, written
from secateur.study.statistics import front, paired, summarise
from secateur.study.summary import REPEATS, Flat, default_value

Values: TypeAlias = tuple[Hashable, ...]
Sample: TypeAlias = Mapping[tuple[Values, Values], Flat]
"""The study cells of one table entry, by the values of the repeating and of the averaged variables."""
Grid: TypeAlias = Mapping[Values, Mapping[Hashable, Sample]]
"""Values of the row variables → value of the column variable → study cells."""


@dataclass(frozen=True)
class Layout:
    """The variables of rows and columns, those that repeat a measurement, and those averaged over."""

    rows: tuple[str, ...]
    columns: str | None
    repeats: tuple[str, ...]
    averaged: tuple[str, ...]

    @classmethod
    def of(cls, variables: Sequence[str], rows: Sequence[str], columns: str | None, one: bool) -> Layout:
        """Assign `variables` to the given `rows` and `columns`, or by default; `one` allows no column variable.

        Raises `InputError` for an unknown or repeated variable, or a column variable with `one`.
        """
        asked = [*rows, *([columns] if columns else [])]
        for name in asked:
            if name not in variables:
                raise InputError(unknown("variable", name, list(variables)))
            if asked.count(name) > 1:
                raise InputError(f"The variable {name} can be in rows or columns once: name it once.")
        if columns and one:
            raise InputError(
                "A front is one of rows: leave --columns out, and its variable is one of the rows, too."
            )
        if not rows:
            usual = [name for name in variables if name not in REPEATS]
            columns = columns or (usual[-1] if len(usual) > 1 and not one else None)
            rows = [name for name in usual if name != columns]
        left = [name for name in variables if name not in (*rows, columns)]
        repeats = tuple(name for name in left if name in REPEATS)
        return cls(tuple(rows), columns, repeats, tuple(name for name in left if name not in REPEATS))

    def grid(self, cells: Sequence[Flat]) -> Grid:
        """Return the cells by row and column."""
        grid: dict[Values, dict[Hashable, dict[tuple[Values, Values], Flat]]] = {}
        for cell in cells:
            head = _key(cell.get(self.columns)) if self.columns else None
            place = grid.setdefault(_keys(cell, self.rows), {}).setdefault(head, {})
            place[_keys(cell, self.repeats), _keys(cell, self.averaged)] = cell
        return grid

    def beside(self, grid: Grid, baseline: str) -> dict[Values, Values]:
        """Return row → the row it is compared with, which differs in its first value alone, the `baseline`.

        Raises `InputError` without row variables, or for a baseline that is no value of the first one.
        """
        if not self.rows:
            raise InputError(
                "There is nothing to compare with a baseline: the study has no variable for rows."
            )
        known = list(dict.fromkeys(str(row[0]) for row in grid))
        if baseline not in known:
            raise InputError(
                f"{unknown(f'value of {self.rows[0]}', baseline, known)} Only finished cells count."
            )
        theirs = {row[1:]: row for row in grid if str(row[0]) == baseline}
        return {row: theirs[row[1:]] for row in grid if str(row[0]) != baseline and row[1:] in theirs}


def pivot(
    cells: Sequence[Flat],
    variables: Sequence[str],
    *,
    rows: Sequence[str] = (),
    columns: str | None = None,
    value: str | None = None,
    baseline: str | None = None,
    against: str | None = None,
) -> Table:
    """Return mean ± deviation of `value` for each combination of the variables `rows` and each value of `columns`.

    The default rows are all variables but `REPEATS` (seed, repeat) and the last of the others, which is the default
    for columns. Of the variables in neither, `REPEATS` are the sample of the deviation; all others are averaged within
    each repetition. `baseline` is a value of the first row variable, compared with all others pair by pair: a column
    has the difference with its 95 % interval. `against` names a cost, such as retrain.nonzero: rows on the Pareto front
    of cost and value are marked. Lower is better for losses, errors, counts, bytes, seconds and costs of unknown names,
    higher for all others.

    Raises `InputError` for an unknown variable, value or number, and without finished cells.
    """
    if not cells:
        raise InputError("No cell is done yet: secateur study run does them.")
    value = value or default_value(cells)
    for name in (value, *([against] if against else [])):
        _check_number(name, cells)
    layout = Layout.of(variables, rows, columns, one=against is not None)
    grid = layout.grid(cells)
    beside = {} if baseline is None else layout.beside(grid, baseline)
    lines = {row: dict[str, Any](zip(layout.rows, map(str, row), strict=True)) for row in grid}
    shown = [Column(name, name.replace("_", " ")) for name in layout.rows]
    for head in dict.fromkeys(head for samples in grid.values() for head in samples):
        place, title = (
            (f"{layout.columns}={head}", f"{layout.columns} {head}") if layout.columns else (value, value)
        )
        shown.append(Column(place, title, written(value), spread=f"{place} std"))
        for row, samples in grid.items():
            lines[row] |= _measured(samples.get(head, {}), value, place)
            if row in beside:
                lines[row] |= _compared(samples.get(head, {}), grid[beside[row]].get(head, {}), value, place)
        if baseline is not None:
            ends = (f"{place} low", f"{place} high")
            title = f"− {baseline} (95 %)"
            shown.append(Column(f"{place} difference", title, difference(value), spread=ends))
    gaps = {column.key for column in shown if column.key.endswith(" difference")}
    if gaps and len(grid) > 1 and not any(gaps & line.keys() for line in lines.values()):
        raise InputError(
            f"No cell differs from one of {baseline} in {layout.rows[0]} alone, or in a repetition that both have."
        )
    if against is not None:
        for row, samples in grid.items():
            lines[row] |= _measured(samples[None], against, against)
        _mark(list(lines.values()), value, against)
        shown += [Column(against, against, NUMBER), Column("front", "front", TEXT)]
    for row, samples in grid.items():
        lines[row]["n"] = _counted(samples.values(), value)
    within = f", each a mean over {', '.join(layout.averaged)}" if layout.averaged else ""
    return Table([*shown, Column("n", f"n{within}", Format(str))], list(lines.values()))


def _measured(sample: Sample, value: str, place: str) -> dict[str, Any]:
    """Return mean and deviation of a number over the repetitions, under the key `place`; {} without any."""
    found = list(_means(_numbers(sample, value)).values())
    if not found:
        return {}
    summary = summarise(found)
    return {place: summary.mean, f"{place} std": summary.deviation}


def _compared(mine: Sample, theirs: Sample, value: str, place: str) -> dict[str, Any]:
    """Return the mean difference of two samples over their common cells, with its interval; {} without any."""
    one, other = _numbers(mine, value), _numbers(theirs, value)
    both = [key for key in one if key in other]
    gap = paired(_means({key: one[key] for key in both}), _means({key: other[key] for key in both}))
    return (
        {}
        if gap is None
        else {f"{place} difference": gap.mean, f"{place} low": gap.low, f"{place} high": gap.high}
    )


def _mark(lines: Sequence[dict[str, Any]], value: str, against: str) -> None:
    """Mark the lines on the Pareto front."""
    known = [line for line in lines if value in line and against in line]
    cost, gain = 1 if is_cost(against, unknown=True) else -1, -1 if is_cost(value) else 1
    marks = front([cost * line[against] for line in known], [gain * line[value] for line in known])
    for line, on in zip(known, marks, strict=True):
        line["front"] = "●" if on else None


def _counted(samples: Iterable[Sample], value: str) -> int | str:
    """Return the number of repetitions of a line's entries, or "fewest–most"."""
    counts = {len(_means(_numbers(sample, value))) for sample in samples} - {0} or {0}
    return min(counts) if len(counts) == 1 else f"{min(counts)}–{max(counts)}"


def _numbers(sample: Sample, value: str) -> dict[tuple[Values, Values], float]:
    return {key: float(cell[value]) for key, cell in sample.items() if cell.get(value) is not None}


def _means(numbers: Mapping[tuple[Values, Values], float]) -> dict[Hashable, float]:
    """Return the mean within each repetition: cells of one seed are one sample."""
    found: dict[Hashable, list[float]] = {}
    for (repeat, _), number in numbers.items():
        found.setdefault(repeat, []).append(number)
    return {repeat: fmean(each) for repeat, each in found.items()}


def _check_number(name: str, cells: Iterable[Flat]) -> None:
    known = list(dict.fromkeys(key for cell in cells for key, each in cell.items() if _is_number(each)))
    if name not in known:
        raise InputError(unknown("number", name, [each for each in known if "." in each]))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _keys(cell: Flat, names: Iterable[str]) -> Values:
    return tuple(_key(cell.get(name)) for name in names)


def _key(value: Any) -> Hashable:
    """Return a scalar as it is, any other value as text."""
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)
