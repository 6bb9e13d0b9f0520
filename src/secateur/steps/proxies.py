"""Zero-cost proxies of many networks, and their rank correlation with accuracies."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator
from torch import nn

from secateur import models, proxies
from secateur.core.environment import command_line, environment
from secateur.core.errors import ModelError
from secateur.core.options import MACHINE
from secateur.core.progress import track
from secateur.core.seeds import seed_of
from secateur.data import Dataset
from secateur.data.dataset import each
from secateur.models import nasbench201
from secateur.proxies import PROXIES, NetworkScores
from secateur.steps.base import Context, Outcome, Step, require, step
from secateur.steps.choices import DataChoice, OutputFormat, build_for, check_model_args
from secateur.steps.fusing import check_device
from secateur.steps.proxy_tables import (
    PARTS,
    by_network,
    by_proxy,
    canonical,
    is_cell,
    is_record,
    read_accuracies,
    read_cells,
    told,
)
from secateur.steps.result_file import Cells

PROXIES_FILE = "proxies.json"
PROXY_IDENTITY = ("name", "settings")


@step("proxies")
class Proxies(Step, DataChoice):
    """Guess how good networks will be before they are trained.

    Scores every network by zero-cost proxies on one batch. With accuracies of trained networks, the rank correlation of
    each proxy is computed. Scores are saved after every network, so that the same command resumes an interrupted one.
    """

    models: Annotated[
        tuple[str, ...],
        Field(description="networks, such as resnet20 vgg11_bn, or cells such as '|…|+|…|…|+|…|…|…|'"),
    ] = ()
    model_args: Annotated[
        dict[str, Any],
        AfterValidator(check_model_args),
        Field(description="argument of every network's factory, as name=value"),
    ] = {}
    nasbench201: Annotated[
        int | None, Field(ge=1, description="number of cells of NAS-Bench-201, drawn by the seed")
    ] = None
    cells: Annotated[
        str | None,
        Field(description="JSON file of the cells, a list or an object's keys; all when no number is given"),
    ] = None
    proxies: Annotated[tuple[str, ...], Field(min_length=1, description="proxies to score by")] = tuple(
        PROXIES
    )
    batch: Annotated[int, Field(ge=1, description="training samples to score on, class-balanced")] = 64
    seed: Annotated[int, Field(ge=0, description="seed of initial weights, samples and cells")] = 0
    accuracies: Annotated[
        str | None,
        Field(description="JSON file of accuracies by network, to compare with", json_schema_extra=MACHINE),
    ] = None
    out: Annotated[
        str | None,
        Field(min_length=1, description=f"folder to keep {PROXIES_FILE} in", json_schema_extra=MACHINE),
    ] = None
    device: Annotated[str, Field(description="cpu, cuda, …", json_schema_extra=MACHINE)] = "cpu"
    overwrite: Annotated[
        bool, Field(description="compute existing scores again", json_schema_extra=MACHINE)
    ] = False
    format: OutputFormat = "text"

    @field_validator("proxies")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(PROXIES[name].name for name in names)

    def perform(self, context: Context) -> Outcome:
        """Score the missing networks, and show the selected ones."""
        check_device(self.device)
        names = self._networks(context)
        accuracies = None if self.accuracies is None else read_accuracies(context.at(self.accuracies))
        require(
            accuracies is None or bool(accuracies.keys() & set(names)),
            f"{self.accuracies} holds no accuracy of the networks asked for: give a file of theirs.",
        )
        rows, fresh = self._rows(context, names)
        if not any(row.scores for row in rows):
            raise ModelError(next(iter(rows[0].reasons.values())))
        rows = proxies.voted(rows, self.proxies)
        found = None if accuracies is None else proxies.correlations(rows, accuracies)
        table = by_network(rows, self.proxies) if found is None else by_proxy(rows, self.proxies, found)
        record = {"networks": [vars(row) for row in rows], "correlations": found}
        line = f"{fresh} network{'s' * (fresh != 1)} scored now, {len(rows) - fresh} were there already."
        return Outcome((*told(rows), line), table, record)

    def _rows(self, context: Context, names: Sequence[str]) -> tuple[list[NetworkScores], int]:
        """Return a row for each network, and the number scored now."""
        data = self.load_data(context)
        chosen = data.subset(train=self.batch, seed=self.seed).train
        inputs = each(lambda tensor: tensor.to(self.device), data.normalised(chosen.inputs))
        batch = (inputs, chosen.labels.to(self.device))
        alone, rows, fresh = proxies.with_voters(self.proxies), [], 0
        file = None if self.out is None else context.at(self.out) / PROXIES_FILE
        with Cells.open(file, PROXY_IDENTITY, is_record, "secateur proxies") as cells:
            for name in track(names, "networks", len(names)):
                cell = {"name": name, "settings": self._settings(context)}
                record = {} if self.overwrite else cells.find(cell)
                held = NetworkScores(name, *(dict(record.get(part, {})) for part in PARTS))
                lacking = [p for p in alone if p not in held.scores and p not in held.reasons]
                if lacking:
                    build = partial(self._build, name, data)
                    (row,) = proxies.stream(iter([(name, build)]), lacking, batch, self.seed)
                    for part in PARTS:
                        getattr(held, part).update(getattr(row, part))
                    made = {part: getattr(held, part) for part in PARTS}
                    cells.keep(
                        {**cell, **made, "command": command_line(), "environment": environment(self.device)}
                    )
                    fresh += 1
                rows.append(held.of(alone))
        return rows, fresh

    def _networks(self, context: Context) -> list[str]:
        """Return the names of the networks. Raises `InputError` for an unknown one, or if there is none."""
        names = [canonical(name) for name in self.models]
        for name in names:
            context.check_code(name)
            if ":" not in name and not is_cell(name):
                models.MODELS[name]
        if self.cells is not None:
            drawn = read_cells(context.at(self.cells))
            count = len(drawn) if self.nasbench201 is None else self.nasbench201
            require(
                count <= len(drawn),
                f"{self.cells} holds {len(drawn)} cells: draw at most so many of them, not {count}.",
            )
            names += (
                drawn
                if self.nasbench201 is None
                else random.Random(seed_of("cells", self.seed)).sample(drawn, count)
            )
        elif self.nasbench201 is not None:
            names += [nasbench201.written(cell) for cell in nasbench201.draw(self.nasbench201, self.seed)]
        require(bool(names), "Say which networks: --models NAME …, --nasbench201 NUMBER, or --cells FILE.")
        return list(dict.fromkeys(names))

    def _build(self, name: str, data: Dataset) -> nn.Module:
        arguments = {"arch": name, **self.model_args} if is_cell(name) else self.model_args
        known = "nasbench201" if is_cell(name) else name
        model = build_for(known, arguments, data)
        return model.to(self.device)

    def _settings(self, context: Context) -> dict[str, Any]:
        """Return the settings that determine the scores, as read from JSON."""
        data = {
            key: value
            for key, value in self.data_arguments(context).items()
            if key not in ("root", "download")
        }
        about = {"data": data, "batch": self.batch, "seed": self.seed, "model_args": self.model_args}
        return dict(json.loads(json.dumps(about)))
