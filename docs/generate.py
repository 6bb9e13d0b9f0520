"""Generate the tables of the documentation from the code.

In docs/**/*.md, the text between `<!-- options: COMMAND -->` and `<!-- end -->` is replaced by the table of the
command's options, and the text between `<!-- list: NAME -->` and `<!-- end -->` by the table `LISTS[NAME]`. With
--check nothing is written, and the exit code is 1 if a page is out of date. With --new a page is started for a
criterion, a compensation or a method, and entered in the index.

    python docs/generate.py [--check]
    python docs/generate.py --new criterion NAME
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import typer
from new_page import CALLS, new_page

from secateur import CRITERIA, METHODS, SCOPES, data, models
from secateur.cli.app import app
from secateur.cli.listings import compensations
from secateur.core.errors import InputError
from secateur.core.tables import COUNT, Column, Table
from secateur.data import AUGMENTATIONS
from secateur.lottery import KEPT, MASK_CRITERIA, MASKED, STARTS
from secateur.proxies import PROXIES
from secateur.pruning.allocate_units import SPREADS
from secateur.steps import STEPS
from secateur.training.optimizers import OPTIMIZERS
from secateur.training.schedules import SCHEDULES

DOCS = Path(__file__).parent
PLACE = re.compile(r"(<!-- (options|list): (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
MACHINE = "Options of the machine and the output, which are not part of the identity of a run:"


def options(command: str) -> str:
    """Return the options of `command`, those of a step's machine and output in a second table."""
    fields = STEPS[command].model_fields if command in STEPS else {}
    machine = {name for name, field in fields.items() if field.json_schema_extra}
    parameters = [
        each for each in {**COMMANDS, **OF_GROUPS}[command].params if not getattr(each, "hidden", False)
    ]
    aside = [entry for entry in parameters if entry.name in machine and not entry.required]
    first = [entry for entry in parameters if entry not in aside]
    if all(entry.required for entry in first):
        return _options(parameters, recipe=bool(fields))
    return f"\n\n{MACHINE}\n\n".join(_options(part, recipe=bool(fields)) for part in (first, aside) if part)


def _options(parameters: Iterable[Any], recipe: bool) -> str:
    columns = [Column("option", "Option"), Column("default", "Default"), Column("help", "Meaning")]
    if recipe:
        columns.insert(1, Column("key", "In a recipe"))
    return Table(columns, [_option(entry) for entry in parameters]).markdown()


def _option(parameter: Any) -> dict[str, Any]:
    text, _, default = (parameter.help or "").removesuffix("]").partition(" [default: ")
    if not default and parameter.default not in (None, False):
        default = str(parameter.default)
    metavar = "" if getattr(parameter, "is_flag", False) else f" {parameter.metavar or 'TEXT'}"
    names = [f"{name}{metavar}" for name in (*parameter.opts, *parameter.secondary_opts)]
    named = parameter.opts[0].startswith("-")
    return {
        "option": " ".join(f"`{name}`" for name in names) if named else f"`{parameter.metavar}`",
        "key": f"`{parameter.name}`",
        "default": "required" if parameter.required else f"`{default}`" if default else None,
        "help": text.removesuffix("."),
    }


def _models() -> Table:
    columns = [
        Column("name", "Model"),
        Column("input", "Default input"),
        Column("parameters", "Parameters", COUNT),
        Column("summary", "Description"),
        Column("paper", "Paper"),
    ]
    rows = [
        {**vars(row), "name": f"`{row.name}`", "input": "×".join(map(str, row.input_shape or ())) or None}
        for row in models.names()
    ]
    return Table(columns, [{**row, "paper": row["paper"] or None} for row in rows])


def _criteria() -> Table:
    columns = [
        Column("name", "Criterion"),
        Column("summary", "Score"),
        Column("granularities", "Granularities"),
        Column("moment", "Moment"),
        Column("data", "Data"),
        Column("cost", "Cost"),
        Column("options", "Options"),
        Column("paper", "Paper"),
    ]
    rows = [
        {
            "name": f"`{entry.name}`",
            "summary": entry.summary.removesuffix("."),
            "granularities": ", ".join(sorted(entry.granularities)),
            "moment": entry.moment,
            "data": "labelled" if entry.needs_labels else "samples" if entry.needs_data else "–",
            "cost": entry.cost,
            "options": ", ".join(f"`{name}={value}`" for name, value in entry.options.items()) or None,
            "paper": entry.paper,
        }
        for entry in CRITERIA.values()
    ]
    return Table(columns, rows)


def _compensations() -> Table:
    columns = [
        Column("name", "Compensation"),
        Column("summary", "Compensation of the cut"),
        Column("granularities", "Granularities"),
        Column("data", "Data"),
        Column("options", "Options"),
    ]
    rows = [
        {
            **row,
            "name": f"`{row['name']}`",
            "summary": row["summary"].removesuffix("."),
            "data": "–" if row["data"] == "none" else row["data"],
            "options": ", ".join(f"`{name}={value}`" for name, value in row["options"].items()) or None,
        }
        for row in compensations()
    ]
    return Table(columns, rows)


def _methods() -> Table:
    columns = [
        Column("name", "Method"),
        Column("summary", "Description"),
        Column("amount", "Amount"),
        Column("counts", "Counted elements"),
        Column("options", "Options"),
        Column("paper", "Paper"),
    ]
    rows = [
        {
            "name": f"`{entry.name}`",
            "summary": entry.summary.removesuffix("."),
            "amount": entry.make.amount,
            "counts": entry.make.counts if entry.make.amount != "none" else None,
            "options": ", ".join(f"`{name}={value}`" for name, value in entry.options.items()) or None,
            "paper": entry.paper,
        }
        for entry in METHODS.values()
    ]
    return Table(columns, rows)


def _proxies() -> Table:
    columns = [
        Column("name", "Proxy"),
        Column("summary", "Score of a network"),
        Column("data", "Data"),
        Column("options", "Options"),
        Column("paper", "Paper"),
    ]
    rows = [
        {
            "name": f"`{entry.name}`",
            "summary": entry.summary.removesuffix("."),
            "data": "samples" if entry.needs_data else "–",
            "options": ", ".join(f"`{name}={value}`" for name, value in entry.options.items()) or None,
            "paper": entry.paper,
        }
        for entry in PROXIES.values()
    ]
    return Table(columns, rows)


def _starts() -> Table:
    columns = [
        Column("name", "Start"),
        Column("summary", "Initial state of a level"),
        Column("leads", "Leads"),
        Column("paper", "Paper"),
    ]
    rows = [
        {
            "name": f"`{entry.name}`",
            "summary": entry.summary.removesuffix("."),
            "leads": "yes" if entry.leads else None,
            "paper": entry.paper,
        }
        for entry in STARTS.values()
    ]
    return Table(columns, rows)


def _pairs(title: str, entries: Iterable[tuple[str, str]]) -> Table:
    rows = [{"name": f"`{name}`", "summary": summary} for name, summary in entries]
    return Table([Column("name", title), Column("summary", "Description")], rows)


def _summarised(title: str, things: Mapping[str, Any]) -> Table:
    return _pairs(title, ((name, thing.summary.removesuffix(".")) for name, thing in things.items()))


def _documented(title: str, things: Mapping[str, Any]) -> Table:
    return _pairs(title, ((name, _first_line(thing)) for name, thing in things.items()))


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0].removesuffix(".")


COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OF_GROUPS = {
    f"{name}-{own}": inner
    for name, command in COMMANDS.items()
    for own, inner in getattr(command, "commands", {}).items()
}
"""Subcommands by group and name, such as study-run."""
LISTS: Mapping[str, Callable[[], Table]] = {
    "models": _models,
    "datasets": lambda: _pairs("Data", data.names()),
    "criteria": _criteria,
    "compensations": _compensations,
    "methods": _methods,
    "proxies": _proxies,
    "starts": _starts,
    "mask-criteria": lambda: _summarised(
        "Criterion", {name: entry for name, entry in MASK_CRITERIA.items() if not entry.same_sign}
    ),
    "kept-weights": lambda: _summarised("Kept weights", KEPT),
    "masked-weights": lambda: _summarised("Masked weights", MASKED),
    "scopes": lambda: Table(
        [Column("name", "Scope"), Column("summary", "Distribution"), Column("paper", "Paper")],
        [
            {"name": f"`{scope.name}`", "summary": scope.summary, "paper": scope.paper}
            for scope in SCOPES.values()
        ],
    ),
    "unit-scopes": lambda: _documented("Scope", SPREADS),
    "augmentations": lambda: _pairs("Augmentation", ((name, a.summary) for name, a in AUGMENTATIONS.items())),
    "optimizers": lambda: _documented("Optimiser", OPTIMIZERS),
    "schedules": lambda: _documented("Schedule", SCHEDULES),
    "commands": lambda: Table(
        [Column("name", "Command"), Column("summary", "Description")],
        [
            {
                "name": f"[{name}](commands/{name}.md)",
                "summary": command.help.partition("\n")[0].removesuffix("."),
            }
            for name, command in COMMANDS.items()
        ],
    ),
}


def filled(text: str) -> str:
    """Return the text of a page with all its tables regenerated."""

    def content(match: re.Match[str]) -> str:
        kind, name = match[2], match[3]
        table = options(name) if kind == "options" else LISTS[name]().markdown()
        return f"{match[1]}\n{table}\n\n{match[4]}"

    return PLACE.sub(content, text)


def stale() -> list[Path]:
    """Return the pages that are out of date."""
    pages = sorted(DOCS.rglob("*.md"))
    return [page for page in pages if filled(text := page.read_text(encoding="utf-8")) != text]


def start(kind: str, name: str) -> None:
    """Start a new page and say what comes next; a mistake is one sentence and exit code 2."""
    try:
        if kind not in CALLS:
            raise InputError(f"There are no pages of a '{kind}': choose {', '.join(CALLS)}.")
        steps = new_page(DOCS, kind, name)
    except InputError as error:
        print(f"docs/generate.py: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"docs/methods/{name}.md is there, and in the index. Next:")
    for number, step in enumerate(steps, start=1):
        print(f"{number}. {step}")


def main() -> None:
    """Write the pages, list those out of date, or start a new one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 where a page is stale"
    )
    parser.add_argument(
        "--new",
        nargs=2,
        metavar=("KIND", "NAME"),
        help=f"start the page of a {', '.join(CALLS)}; KIND is one of these",
    )
    given = parser.parse_args()
    if given.new is not None:
        start(*given.new)
        return
    check = given.check
    pages = stale()
    for page in pages:
        if not check:
            page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"{page.relative_to(DOCS.parent)}: {'not up to date' if check else 'updated'}")
    sys.exit(1 if check and pages else 0)


if __name__ == "__main__":
    main()
