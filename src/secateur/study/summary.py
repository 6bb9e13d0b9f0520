"""A study's cells as tables: methods × compression, with spread, against a baseline."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, TypeAlias

from secateur.errors import InputError
from secateur.registry import unknown
from secateur.study.conduct import Standing
from secateur.study.quantities import difference, is_cost, written
from secateur.study.statistics import front, paired, summarise
from secateur.tables import NUMBER, PERCENT, TEXT, Column, Format, Table

Flat: TypeAlias = Mapping[str, Any]
"""One finished cell: its variables, and its numbers as "step.number"."""

REPEATS = ("seed", "repeat")
"""Variables that repeat a measurement, unless asked for as rows or columns."""
Pairs: TypeAlias = Mapping[tuple[tuple[Any, ...], tuple[Any, ...]], Flat]
"""Cells of one place of a table by what repeats them, and by the other variables that are not in the table."""


def flat(standing: Standing) -> list[Flat]:
    """Return the finished cells in the study's order.

    Beside what the steps measured there are, for each step that leaves a model, its `compression` (parameters of the
    first model over those of this one that are not zero) and `speedup` (the same of multiply-accumulates); and as
    "end.number" what the last step that has the number says, for cells that differ in how many steps they have.
    """
    return [_flat(cell.values, cell.tasks, standing.done) for cell in standing.finished()]


def _flat(values: Flat, tasks: Mapping[str, str], done: Mapping[str, Flat]) -> Flat:
    found, ends = dict(values), dict[str, Any]()
    first: Flat | None = None
    for step, key in tasks.items():
        numbers = dict(done[key])
        if "nonzero" in numbers:
            first = numbers if first is None else first
            numbers["compression"] = first["parameters"] / max(1, numbers["nonzero"])
            numbers["speedup"] = first["macs"] / max(1, numbers["macs_nonzero"])
        found |= {f"{step}.{name}": value for name, value in numbers.items()}
        ends |= numbers
    return found | {f"end.{name}": value for name, value in ends.items()}


def state(standing: Standing) -> Table:
    """Return every cell of a study with its state and, where it is done, the accuracy its last step measured."""
    done = {id(cell) for cell in standing.finished()}
    rows = []
    for number, cell in enumerate(standing.study.cells):
        found = [standing.done[key] for key in cell.tasks.values() if key in standing.done]
        left = len(cell.tasks) - len(found)
        row = {name: str(value) for name, value in cell.values.items()} | {"number": number}
        row["state"] = "done" if id(cell) in done else f"{left} of {len(cell.tasks)} steps to do"
        tops = [each["top1"] for each in found if each.get("top1") is not None]
        rows.append(row | ({"top1": tops[-1]} if tops and not left else {}))
    columns = [
        Column("number", "cell", Format(str)),
        *(Column(name, name.replace("_", " ")) for name in standing.study.variables),
        Column("state", "state"),
        Column("top1", "top-1", PERCENT),
    ]
    return Table(columns, rows).without_empty_columns()


def default_value(cells: Sequence[Flat]) -> str:
    """Return the accuracy the last step measured. Raises `InputError` where no step measured any."""
    names = [name for cell in cells for name in cell if name.endswith(".top1") and name != "end.top1"]
    if not names:
        raise InputError("No step of the study measures top1: say which number with --value.")
    return names[-1] if all(names[-1] in cell for cell in cells) else "end.top1"


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

    By default rows are all variables but those that repeat (seed) and the last of the others, which makes the columns.
    Of variables that are in neither, `REPEATS` make the deviation; all others are averaged within each repetition.
    `baseline` is the value of the first row variable that all others are compared with, pair by pair: the difference
    stands behind with its 95 % interval. `against` names a cost, such as retrain.nonzero: rows that no other beats in
    cost and value are marked. Less is better of losses, errors, counts, bytes and seconds, of a cost whose name tells
    nothing, too, and more of all others.

    Raises `InputError` for a variable, value or number that there is not.
    """
    if not cells:
        raise InputError("No cell is done yet: secateur study run does them.")
    value = value or default_value(cells)
    for name in (value, *([against] if against else [])):
        _check_number(name, cells)
    rest = [name for name in variables if name not in REPEATS]
    asked = [*rows, *([columns] if columns else [])]
    for name in asked:
        if name not in variables:
            raise InputError(unknown("variable", name, list(variables)))
        if asked.count(name) > 1:
            raise InputError(f"The variable {name} can be in rows or columns once: name it once.")
    if columns and against:
        raise InputError(
            "A front is one of rows: leave --columns out, and its variable is one of the rows, too."
        )
    if not rows:
        columns = columns or (rest[-1] if len(rest) > 1 and against is None else None)
        rows = [name for name in rest if name != columns]
    left = [name for name in variables if name not in (*rows, columns)]
    repeats = [name for name in left if name in REPEATS]
    within = [name for name in left if name not in REPEATS]
    groups: dict[tuple[Any, ...], dict[Any, dict[tuple[tuple[Any, ...], tuple[Any, ...]], Flat]]] = {}
    for cell in cells:
        at = tuple(_key(cell.get(name)) for name in rows), _key(cell.get(columns)) if columns else value
        pairs = groups.setdefault(at[0], {}).setdefault(at[1], {})
        repeat, other = (tuple(_key(cell.get(name)) for name in names) for names in (repeats, within))
        pairs[repeat, other] = cell
    heads = list(dict.fromkeys(head for group in groups.values() for head in group))
    if baseline is not None and not rows:
        raise InputError("There is nothing to compare with a baseline: the study has no variable for rows.")
    if baseline is not None and baseline not in {str(key[0]) for key in groups}:
        raise InputError(
            unknown(f"value of {rows[0]}", baseline, list(dict.fromkeys(str(key[0]) for key in groups)))
        )
    lines = [
        _line(dict(zip(rows, key, strict=True)), key, group, groups, value, columns, baseline, against)
        for key, group in groups.items()
    ]
    places = [_place(value, columns, head) for head in heads]
    if (
        baseline is not None
        and len(groups) > 1
        and not any(f"{place} difference" in line for line in lines for place in places)
    ):
        raise InputError(
            f"No cell differs from one of {baseline} in {rows[0]} alone, or in a repetition that both have."
        )
    shown = [Column(name, name.replace("_", " ")) for name in rows]
    for head, place in zip(heads, places, strict=True):
        title = value if columns is None else f"{columns} {head}"
        shown.append(Column(place, title, written(value), spread=f"{place} std"))
        if baseline is not None:
            ends = (f"{place} low", f"{place} high")
            shown.append(
                Column(f"{place} difference", f"− {baseline} (95 %)", difference(value), spread=ends)
            )
    if against is not None:
        shown += [Column(against, against, NUMBER), Column("front", "front", TEXT)]
        _mark(lines, value, against)
    shown.append(Column("n", f"n, each a mean over {', '.join(within)}" if within else "n", Format(str)))
    return Table(shown, lines)


def _place(value: str, columns: str | None, head: Any) -> str:
    """Return what a column is called in CSV and JSON: the number or, of several columns, the variable's value."""
    return value if columns is None else f"{columns}={head}"


def _line(
    names: dict[str, Any],
    key: tuple[Any, ...],
    group: Mapping[Any, Pairs],
    groups: Mapping[tuple[Any, ...], Mapping[Any, Pairs]],
    value: str,
    columns: str | None,
    baseline: str | None,
    against: str | None,
) -> dict[str, Any]:
    line: dict[str, Any] = {name: str(each) for name, each in names.items()}
    counts = set()
    for head, pairs in group.items():
        found, place = _numbers(pairs, value), _place(value, columns, head)
        if not found:
            continue
        summary = summarise(list(_means(found).values()))
        counts.add(summary.n)
        line |= {place: summary.mean, f"{place} std": summary.deviation}
        if against is not None and (costs := _numbers(pairs, against)):
            line[against] = summarise(list(_means(costs).values())).mean
        if baseline is not None and str(key[0]) != baseline:
            other = next((g for k, g in groups.items() if (str(k[0]), *k[1:]) == (baseline, *key[1:])), {})
            theirs = _numbers(other.get(head, {}), value)
            both = [key for key in found if key in theirs]
            mine, others = (_means({key: each[key] for key in both}) for each in (found, theirs))
            gap = paired(mine, others)
            if gap is not None:
                line |= {f"{place} difference": gap.mean, f"{place} low": gap.low, f"{place} high": gap.high}
    ends = sorted({min(counts), max(counts)}) if counts else [0]
    line["n"] = ends[0] if len(ends) == 1 else "–".join(map(str, ends))
    return line


def _mark(lines: Sequence[dict[str, Any]], value: str, against: str) -> None:
    """Mark the lines that no other beats."""
    known = [line for line in lines if value in line and against in line]
    cost, gain = 1 if is_cost(against, unknown=True) else -1, -1 if is_cost(value) else 1
    marks = front([cost * line[against] for line in known], [gain * line[value] for line in known])
    for line, on in zip(known, marks, strict=True):
        line["front"] = "●" if on else None


Numbers: TypeAlias = Mapping[tuple[tuple[Any, ...], tuple[Any, ...]], float]


def _numbers(pairs: Pairs, value: str) -> Numbers:
    return {key: float(cell[value]) for key, cell in pairs.items() if cell.get(value) is not None}


def _means(numbers: Numbers) -> dict[Hashable, float]:
    """Return the mean within each repetition: what shares a seed is no sample of its own."""
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


def _key(value: Any) -> Any:
    """Return a value that can be a key."""
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)
