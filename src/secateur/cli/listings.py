"""Lists of what there is: models, data sets, criteria, compensations, methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.text import Text
from rich.tree import Tree

from secateur import data, models
from secateur.cli.output import show
from secateur.compensation import COMPENSATIONS, Compensation
from secateur.core.options import options_of
from secateur.core.tables import COUNT, Column, Table
from secateur.criteria import CRITERIA
from secateur.methods import METHODS
from secateur.steps import Outcome
from secateur.steps.extra_options import meanings

ListingFormatOption = Annotated[
    str, typer.Option("--format", help="text, json, csv or markdown", metavar="TEXT")
]


def list_models(format: ListingFormatOption = "text") -> None:
    """List the models --model knows."""
    rows = [
        {
            "name": row.name,
            "input": "×".join(map(str, row.input_shape)) if row.input_shape else None,
            "parameters": row.parameters,
            "summary": row.summary,
        }
        for row in models.names()
    ]
    columns = [
        Column("name", "Model"),
        Column("input", "Default input"),
        Column("parameters", "Parameters", COUNT),
        Column("summary", "Description"),
    ]
    show(Outcome(table=Table(columns, rows), record=rows), format)


def list_datasets(format: ListingFormatOption = "text") -> None:
    """List the data sets --data knows."""
    rows = [{"name": name, "summary": summary} for name, summary in data.names()]
    columns = [Column("name", "Data"), Column("summary", "Description")]
    show(Outcome(table=Table(columns, rows), record=rows), format)


MOMENTS = {"before": "before training", "after": "after training", "any": "any"}


def list_criteria(format: ListingFormatOption = "text") -> None:
    """List the criteria --criterion knows."""
    rows = [
        {
            "name": criterion.name,
            "summary": criterion.summary,
            "granularities": ", ".join(sorted(criterion.granularities)),
            "moment": MOMENTS[criterion.moment],
            "data": "labelled samples"
            if criterion.needs_labels
            else "samples"
            if criterion.needs_data
            else "none",
            "cost": criterion.cost,
            "options": ", ".join(f"{name}={value}" for name, value in criterion.options.items()) or None,
            "paper": criterion.paper,
        }
        for criterion in CRITERIA.values()
    ]
    columns = [
        Column("name", "Criterion"),
        Column("summary", "Score"),
        Column("granularities", "Granularity"),
        Column("moment", "Moment"),
        Column("data", "Data"),
        Column("cost", "Cost"),
        Column("options", "Options"),
        Column("paper", "Paper"),
    ]
    show(Outcome(table=Table(columns, rows), record=rows, tree=_tree("criteria", columns, rows)), format)


def compensations() -> list[dict[str, Any]]:
    """Return the rows of the list of compensations: one for each function a name stands for."""
    return [
        {
            "name": compensation.name,
            "summary": (inspect.getdoc(compensation.functions[elements]) or "").partition("\n")[0],
            "granularities": ", ".join(_kinds(compensation, elements)),
            "data": "samples" if compensation.needs_data else "none",
            "options": options_of(compensation.functions[elements]),
        }
        for compensation in COMPENSATIONS.values()
        for elements in meanings(compensation).values()
    ]


def _kinds(compensation: Compensation, elements: str) -> list[str]:
    """Return the kinds of granularity that a compensation serves by the function it has for some elements."""
    function = compensation.functions[elements]
    return sorted(kind for kind in compensation.granularities if compensation.function(kind) is function)


def list_compensations(format: ListingFormatOption = "text") -> None:
    """List the compensations --compensation of prune knows."""
    rows = [
        {**row, "options": ", ".join(f"{name}={value}" for name, value in row["options"].items()) or None}
        for row in compensations()
    ]
    columns = [
        Column("name", "Compensation"),
        Column("summary", "Compensation of the cut"),
        Column("granularities", "Granularity"),
        Column("data", "Data"),
        Column("options", "Options"),
    ]
    show(Outcome(table=Table(columns, rows), record=rows, tree=_tree("compensations", columns, rows)), format)


def list_methods(format: ListingFormatOption = "text") -> None:
    """List the methods --method of train and retrain knows."""
    rows = [
        {
            "name": entry.name,
            "summary": entry.summary,
            "amount": entry.make.amount,
            "counts": entry.make.counts if entry.make.amount != "none" else None,
            "options": ", ".join(f"{name}={value}" for name, value in entry.options.items()) or None,
            "paper": entry.paper,
        }
        for entry in METHODS.values()
    ]
    columns = [
        Column("name", "Method"),
        Column("summary", "Description"),
        Column("amount", "Amount"),
        Column("counts", "Of"),
        Column("options", "Options"),
        Column("paper", "Paper"),
    ]
    show(Outcome(table=Table(columns, rows), record=rows, tree=_tree("methods", columns, rows)), format)


def _tree(title: str, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> Tree:
    """Draw rows that are too long for a table: the first two columns, and below them what the others say."""
    name, summary, *others = (column.key for column in columns)
    width = max(len(column.title) for column in columns[2:])
    root = Tree(Text(title))
    for row in rows:
        branch = root.add(Text.assemble((str(row[name]), "bold"), f"  {row[summary]}"))
        for key, column in zip(others, columns[2:], strict=True):
            if row[key] is not None:
                branch.add(Text(f"{column.title:<{width}}  {row[key]}"))
    return root


LISTING_COMMANDS: dict[str, Callable[..., None]] = {
    "models": list_models,
    "datasets": list_datasets,
    "criteria": list_criteria,
    "compensations": list_compensations,
    "methods": list_methods,
}
