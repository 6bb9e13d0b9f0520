"""Supermasks: accuracy of networks that are masked at initialisation and not trained."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from pydantic import Field, field_validator
from torch import Tensor

from secateur.core.environment import command_line, environment
from secateur.core.errors import InputError
from secateur.core.options import MACHINE
from secateur.core.progress import track
from secateur.core.registry import Registry
from secateur.core.seeds import seed_of
from secateur.core.tables import COUNT, NUMBER, PERCENT, Column, Table
from secateur.lottery import KEPT, MASK_CRITERIA, MASKED, ask
from secateur.lottery.mask_criteria import SAME_SIGN
from secateur.runs.description import Count, FileRecord, Fraction, is_a
from secateur.runs.run import Run
from secateur.sparsity.targets import prunable
from secateur.steps.base import Context, DataRoot, In, Outcome, Step, Trust, percent, require, step
from secateur.steps.choices import OutputFormat
from secateur.steps.dense import Dense
from secateur.steps.fusing import check_device
from secateur.steps.result_file import Cells
from secateur.training import evaluate
from secateur.training.snapshots import snapshot_path

SUPERMASK_FILE = "supermask.json"
QUESTION = ("criterion", "kept", "masked", "amount")
SUPERMASK_IDENTITY = ("weights", *QUESTION, "settings")
SUPERMASK_COLUMNS = (
    Column("criterion", "Stay"),
    Column("kept", "Become"),
    Column("masked", "The others"),
    Column("amount", "Amount", PERCENT),
    Column("weights_left", "Weights left", COUNT),
    Column("left", "Left", PERCENT),
    Column("top1", "Top-1", PERCENT),
    Column("loss", "Loss", NUMBER),
)

PLAIN_CRITERIA = tuple(name for name, entry in MASK_CRITERIA.items() if not entry.same_sign)
MaskedFraction = Annotated[float, Field(ge=0, le=1)]
Names = tuple[str, ...]


@step("supermask")
class Supermask(Step):
    """Mask a network as it was before its training, and measure it without any training.

    The kept weights are selected by their values before and after the training. RUN must have been trained with
    --snapshots 0it. Results are saved cell by cell, so that the same command resumes an interrupted one.
    """

    run: In
    criteria: Annotated[
        Names,
        Field(
            min_length=1,
            description=f"criteria of the kept weights: {', '.join(PLAIN_CRITERIA)}; each also with {SAME_SIGN}",
        ),
    ] = ("large_final", "large_final_same_sign", "random")
    kept: Annotated[Names, Field(min_length=1, description=f"values of kept weights: {', '.join(KEPT)}")] = (
        "rewind",
        "constant",
    )
    masked: Annotated[
        Names, Field(min_length=1, description=f"values of masked weights: {', '.join(MASKED)}")
    ] = ("zero",)
    amounts: Annotated[
        tuple[MaskedFraction, ...], Field(min_length=1, description="fractions of each layer to mask")
    ] = (0.2, 0.5, 0.8, 0.9)
    layer_rates: Annotated[
        dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]],
        Field(
            description="multiple of the amount for a layer, as output=0.5: a name, a glob, conv, linear, or output, "
            "the last layer"
        ),
    ] = {}
    include: Annotated[
        Names, Field(description="roles to mask: weights, biases, norms, embeddings, outputs, others, all")
    ] = ("weights",)
    keep: Annotated[Names, Field(description="layer to leave alone, by name or glob")] = ()
    layers: Annotated[Names, Field(description="mask only this layer, by name or glob")] = ()
    seed: Annotated[int, Field(ge=0, description="seed of all random draws")] = 0
    test_samples: Annotated[
        int | None, Field(ge=1, description="number of test samples, class-balanced; all when left out")
    ] = None
    out: Annotated[
        str | None,
        Field(min_length=1, description=f"folder to keep {SUPERMASK_FILE} in", json_schema_extra=MACHINE),
    ] = None
    device: Annotated[str, Field(description="cpu, cuda, …", json_schema_extra=MACHINE)] = "cpu"
    data_root: DataRoot = None
    overwrite: Annotated[
        bool, Field(description="measure existing results again", json_schema_extra=MACHINE)
    ] = False
    trust: Trust = False
    format: OutputFormat = "text"

    @field_validator("criteria", "kept", "masked")
    @classmethod
    def _known(cls, names: Names, info: Any) -> Names:
        registries: dict[str, Registry[Any]] = {"criteria": MASK_CRITERIA, "kept": KEPT, "masked": MASKED}
        for name in names:
            registries[info.field_name][name]
        return names

    def perform(self, context: Context) -> Outcome:
        """Measure the missing cells, and show all selected ones."""
        check_device(self.device)
        run = Run.open(context.at(self.run))
        check_origin(run)
        dense = Dense(run, trust=self.trust or context.trust)
        data = run.load_data(root=context.data_root or self.data_root)
        data = data.subset(test=self.test_samples, seed=self.seed)
        model, _ = run.load_model(trust=dense.trust)
        final = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        names = tuple(prunable(model, self.include, self.keep, self.layers))
        put = partial(
            ask, dense.origin("0it"), final, names=names, layer_rates=self.layer_rates,
            fresh=self._fresh(dense), seed=self.seed,
        )  # fmt: skip
        put(max(self.amounts))  # raises for invalid settings before any measurement
        questions = itertools.product(self.criteria, self.kept, self.masked, self.amounts)
        places: list[dict[str, Any]] = [
            dict(zip(QUESTION, question, strict=True)) for question in dict.fromkeys(questions)
        ]
        model.to(self.device)
        about = {"weights": run.weights, "settings": self._settings(run)}
        made = {"command": command_line(), "environment": environment(self.device)}
        file = None if self.out is None else context.at(self.out) / SUPERMASK_FILE
        wanted, now = list[Mapping[str, Any]](), 0
        with Cells.open(file, SUPERMASK_IDENTITY, is_record, "secateur supermask") as cells:
            for place in track(places, "masks", len(places)):
                cell = {**about, "run": run.name, **place}
                record = {} if self.overwrite else cells.find(cell)
                if not record:
                    state, masks = put(**place)
                    left = {"weights_left": masks.total - masks.pruned, "left": 1 - masks.sparsity}
                    # loaded twice, because a tied tensor has a second name that was not masked
                    for part in (state, {name: state[name] for name in names}):
                        model.load_state_dict(part, strict=part is state)
                    record = {**cell, **left, **evaluate(model, data, progress=False), **made}
                    cells.keep(record)
                    now += 1
                wanted.append(record)
        line = (
            f"{now} {'mask' if now == 1 else 'masks'} measured now, {len(wanted) - now} were there already."
        )
        whole = " on the whole test split" if self.test_samples else ""
        trained = f"{run.name} as trained: top-1 {percent(run.history[0]['result'].get('top1'))}{whole}."
        return Outcome((trained, line), Table(SUPERMASK_COLUMNS, wanted), wanted)

    def _fresh(self, dense: Dense) -> dict[str, Tensor] | None:
        """Return newly initialised weights if a treatment needs them, else None."""
        needed = any("fresh" in KEPT[name].needs for name in self.kept)
        return dense.fresh(seed_of("question", "fresh", self.seed)) if needed else None

    def _settings(self, run: Run) -> dict[str, Any]:
        """Return the other settings that determine a result, as read from JSON."""
        own = self.model_dump(
            mode="json", include={"layer_rates", "include", "keep", "layers", "seed", "test_samples"}
        )
        data = {key: value for key, value in run.data.items() if key not in ("root", "download")}
        return dict(json.loads(json.dumps({**own, "data": data})))


def check_origin(run: Run) -> None:
    """Raise `InputError` unless a run is a single training with a snapshot of its initial weights."""
    require(
        len(run.history) == 1,
        f"{run.folder} has gone on to {run.title} since its training: name a run as secateur train left it.",
    )
    if not snapshot_path(run.folder, 0).exists():
        raise InputError(
            f"{run.folder} has not kept the weights it began with: train it with --snapshots 0it."
        )


class QuestionRecord(FileRecord):
    """A cell of supermask.json: the question, and what was measured."""

    weights: str
    criterion: str
    kept: str
    masked: str
    amount: Fraction
    settings: dict[str, Any]
    weights_left: Count
    left: Fraction
    top1: Fraction | None
    top5: Fraction | None
    loss: float | None


def is_record(record: Any) -> bool:
    """Whether a value read from JSON is a cell of this command."""
    return is_a(QuestionRecord, record)
