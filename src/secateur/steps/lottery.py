"""Iterative pruning with rewinding and its baselines; each level is a run folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from secateur.core.errors import StoreError
from secateur.core.files import locked, sweep
from secateur.core.options import MACHINE
from secateur.core.progress import track
from secateur.lottery import STARTS, Course, PlannedTraining, order, plan
from secateur.lottery.order import check_finetune, check_shuffled
from secateur.runs.run import RUN_FILE, Run
from secateur.sparsity.granularity import parse
from secateur.steps.base import (
    ARGUMENT,
    SAMPLES,
    Context,
    DataRoot,
    Outcome,
    Overwrite,
    Step,
    Trust,
    identities,
    identity,
    require,
    step,
)
from secateur.steps.choices import OutputFormat
from secateur.steps.dense import Dense
from secateur.steps.lottery_levels import Trained, common, difference, folder_of, levels_in
from secateur.steps.lottery_records import (
    LOTTERY_FILE,
    dense_record,
    draw,
    gathered,
    keep,
    level_record,
    read,
    table,
)
from secateur.steps.measuring import open_runs
from secateur.steps.ticket import Ticket, TicketChoice, options_of_criteria
from secateur.steps.train import Retrain

PLANNED = (
    *("rate", "levels", "left", "layer_rates"),
    *("granularity", "criterion", "scope", "include", "keep", "layers"),
)
"""The fields that determine the levels of a search."""


def _names(*, leads: bool) -> str:
    """Return the names of the starts that lead, or of the others."""
    return ", ".join(name for name, start in STARTS.items() if start.leads == leads)


@step("lottery")
class Lottery(Step, TicketChoice):
    """Look for lottery tickets: cut, rewind and train again, level by level, with baselines beside it.

    Takes runs of secateur train, one for each seed. Every level is a run folder; an interrupted search is resumed.
    """

    runs: Annotated[
        tuple[str, ...],
        Field(
            min_length=1,
            description="run folders of dense trainings that differ in their seeds; globs work too",
            json_schema_extra=ARGUMENT,
        ),
    ]
    out: Annotated[
        str,
        Field(
            min_length=1, description="folder for the run folders of the levels", json_schema_extra=MACHINE
        ),
    ]
    rate: Annotated[
        float | None,
        Field(gt=0, lt=1, description="fraction of the remaining weights cut per level; 0.2 when left out"),
    ] = None
    levels: Annotated[int | None, Field(ge=1, description="number of levels")] = None
    left: Annotated[
        float | None,
        Field(gt=0, lt=1, description="fraction of the weights, or units, left by the last level"),
    ] = None
    one_shot: Annotated[bool, Field(description="cut every level from the dense model at once")] = False
    starts: Annotated[
        tuple[str, ...],
        Field(
            min_length=1,
            description=f"starts of the levels: {_names(leads=True)}; and, with the masks of the first of these, "
            f"{_names(leads=False)}",
        ),
    ] = ("weights",)
    finetune: Annotated[
        int | None,
        Field(ge=0, description="epochs for the start none; those of the dense training when left out"),
    ] = None
    charts: Annotated[
        str | None, Field(description="folder to write charts to, as SVG and PNG", json_schema_extra=MACHINE)
    ] = None
    data_root: DataRoot = None
    overwrite: Overwrite = False
    trust: Trust = False
    format: OutputFormat = "text"

    @classmethod
    def extra_options(cls) -> Mapping[str, str | None]:
        """Return the options of all criteria."""
        return options_of_criteria()

    @field_validator("starts")
    @classmethod
    def _starts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        list(order(value, 1))
        return value

    @model_validator(mode="after")
    def _fits(self) -> Lottery:
        check_finetune(self.starts, self.finetune)
        check_shuffled(self.starts, self.granularity)
        return self

    def perform(self, context: Context) -> Outcome:
        """Make the missing levels, and show all."""
        denses = self._denses(context)
        model, _ = denses[0].run.load_model(trust=denses[0].trust)
        rate, levels = plan(model, **self._planned(denses[0], context))
        jobs = list(order(self.starts, len(levels), self.one_shot))
        inner = replace(context, taken={} if context.taken is None else context.taken)
        out = context.at(self.out).absolute()
        require(not (out / RUN_FILE).exists(), f"{out} is a run folder: choose another --out for the levels.")
        work = [(dense, job) for dense in denses for job in jobs]
        own, made = [dense_record(dense) for dense in denses], 0
        with locked(out):
            sweep(out)
            for dense, job in track(work, "levels", len(work)):
                ticket = self._ticket(out, dense, job, rate, levels[job.number - 1])
                level, fresh = self._level(ticket, dense, job, inner)
                own.append(level_record(level))
                made += fresh
            names = {record["run"] for record in own}
            others = [level for level in levels_in(out) if level.run.name not in names]
            earlier = read(out / LOTTERY_FILE)
            keep(gathered(own, others, earlier), out / LOTTERY_FILE)
        alike = [level for level in others if self._alike(level, denses[0], ticket, jobs)]
        records = gathered(own, alike, earlier)
        if self.charts is not None:
            draw(records, context.at(self.charts))
        levels_now = "level" if made == 1 else "levels"
        line = (
            f"{context.at(self.out)}: {made} {levels_now} trained now, {len(work) - made} were there already."
        )
        beside = f" Shown beside them: {len(alike)} of other calls with these settings." if alike else ""
        return Outcome((line + beside,), table(records), records)

    def _planned(self, dense: Dense, context: Context) -> dict[str, Any]:
        """Return the arguments of `secateur.lottery.plan`."""
        planned = {name: getattr(self, name) for name in PLANNED}
        if parse(self.granularity).removes:
            root = context.data_root or self.data_root
            planned["example_inputs"] = dense.run.load_data(root=root).example(SAMPLES)
        return planned

    def _denses(self, context: Context) -> list[Dense]:
        """Return the dense trainings. Raises `InputError` for other runs, or if more than their seeds differ."""
        denses = []
        for run in open_runs(self.runs, context):
            steps = context.past(run)
            require(
                len(steps) == 1,
                f"{run.folder} is {' → '.join(each['do'] for each in steps)}: name the run as its training left it.",
            )
            denses.append(Dense(run, trust=self.trust or context.trust))
        first, names = denses[0], Counter(dense.run.name for dense in denses)
        seeds = Counter(dense.config.seed for dense in denses)
        for dense in denses:
            name, others = dense.run.name, _but_seed(dense)
            require(
                names[name] == 1, f"There are {names[name]} runs called {name}: give each a name of its own."
            )
            differing = [key for key, value in _but_seed(first).items() if others.get(key) != value]
            require(
                not differing,
                f"{first.run.folder} and {dense.run.folder} were trained with other settings "
                f"({', '.join(differing)}): give runs that differ in their seeds only.",
            )
            require(
                dense is first or seeds[dense.config.seed] == 1,
                f"{dense.run.folder} is not the only run of seed {dense.config.seed}: a repetition is no other sample.",
            )
            for start in map(STARTS.__getitem__, self.starts):
                if "origin" in start.needs:
                    dense.check_snapshot(self.rewind_to)
                elif start.training == "rewound":
                    dense.moment(self.rewind_to)
        return denses

    def _ticket(self, out: Path, dense: Dense, job: PlannedTraining, rate: float, level: float) -> Ticket:
        """Return the step that makes the ticket of a level."""

        def folder(start: str, number: int) -> str:
            return str(out / folder_of(dense.run.name, start, number, self.one_shot))

        return Ticket(
            run=str(dense.run.folder.absolute()) if job.parent is None else folder(*job.parent),
            out=folder(job.start, job.number),
            origin=str(dense.run.folder.absolute()),
            rate=rate,
            level=level,
            start=job.start,
            seed=dense.config.seed,
            data_root=self.data_root,
            trust=self.trust,
            **{name: getattr(self, name) for name in TicketChoice.model_fields},
        )

    def _level(
        self, ticket: Ticket, dense: Dense, job: PlannedTraining, context: Context
    ) -> tuple[Trained, bool]:
        """Return a level, made if missing, and whether it was made now."""
        folder = Path(ticket.out)
        planned = [*context.past(Run.open(ticket.run)), ticket.identity()]
        at = len(planned) - 1
        self._make_ticket(ticket, planned, context)
        training = self._training(folder, dense, job.start, Run.open(folder).history[at]["result"])
        fresh = len(Run.open(folder).history) == at + 1
        if not fresh:
            fresh = self._make_ticket(ticket, [*planned, training.identity()], context)
        if not fresh:
            Run.open(folder).check_model()
        training.perform(context)
        return Trained(Run.open(folder), at, dense.run.name, self.one_shot), fresh

    def _make_ticket(self, ticket: Ticket, planned: list[dict[str, Any]], context: Context) -> bool:
        """Make the ticket of a level, and return whether other content of its folder was replaced.

        Raises `StoreError` if the folder holds anything but the planned level, unless --overwrite.
        """
        folder = Path(ticket.out)
        begun = (folder / RUN_FILE).exists()
        other = difference(identities(Run.open(folder)), planned) if begun else ""
        if other and not self.overwrite:
            raise StoreError(
                f"{folder} holds another level, {other}: replace it with --overwrite, which keeps all levels that are "
                "as asked for, or choose another --out."
            )
        anew = self.overwrite and (bool(other) or not begun)
        ticket.model_copy(update={"overwrite": anew}).perform(context)
        return bool(other)

    def _training(self, folder: Path, dense: Dense, start: str, cut: Mapping[str, Any]) -> Retrain:
        """Return the step that trains a level; `cut` is the result of its ticket."""
        macs, left = cut["macs"]
        course = Course(dense.config, dense.per_epoch, macs / max(1, left), self.rewind_to, self.finetune)
        return Retrain(
            run=str(folder),
            data_root=self.data_root,
            overwrite=self.overwrite,
            trust=self.trust,
            **course.settings(STARTS[start].training).model_dump(),
        )

    def _alike(self, level: Trained, dense: Dense, ticket: Ticket, jobs: list[PlannedTraining]) -> bool:
        """Whether a level of another call is comparable with this call's: only seed, start and level may differ."""
        if level.settings != (_but_seed(dense), common(ticket.identity())) or level.start not in STARTS:
            return False
        if level.start not in self.starts:
            return True
        chain = {job.parent[0] for job in jobs if job.start == level.start and job.parent} or {*self.starts}
        *before, _ = [start for start, _, _ in level.rounds]
        return {*before} <= chain and all(
            training == common(self._training(level.run.folder, dense, start, cut).identity())
            for start, cut, training in level.rounds
        )


def _but_seed(dense: Dense) -> dict[str, Any]:
    """Return the fields that determine a dense training, without its seed."""
    return common(identity("train", dense.run.history[0]["config"]))
