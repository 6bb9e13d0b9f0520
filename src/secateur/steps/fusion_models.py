"""Models of a comparison of dropping and fusing, each saved as a run folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.data import Dataset
from secateur.graph.groups import Group
from secateur.pruning.result import Pruned
from secateur.runs.run import Run
from secateur.steps.base import identities, is_done
from secateur.steps.cut_records import plain, smaller
from secateur.steps.fusing import WAYS, FusionSubject
from secateur.steps.fusion_records import FUSION_IDENTITY, FusionRecord
from secateur.steps.prune import Prune
from secateur.training import evaluate

CELL_FIELDS = ("group_index", "sparsity")
"""Fields of a record's identity that differ between the cells of one command."""


@dataclass(frozen=True)
class SavedModels:
    """Run folders below `folder`, one for each way of a cell, made from `run` with `calibration` training samples.

    With `test`, the accuracies of the cells are those of a part of the test split, and the models are tested on `test`.
    """

    folder: Path
    run: Run
    subject: FusionSubject
    calibration: int
    overwrite: bool
    test: Dataset | None = None

    def path(self, cell: FusionRecord, way: str) -> Path:
        """Return the run folder of one way of a cell: CRITERION_DIGEST/WAY_group1_sparsity0.5.

        The digest is that of the settings that all cells of a command have in common.
        """
        common = {name: cell[name] for name in FUSION_IDENTITY if name not in CELL_FIELDS}
        digest = hashlib.sha256(json.dumps(common, sort_keys=True).encode()).hexdigest()[:8]
        own = f"{way}_group{cell['group_index']}_sparsity{cell['sparsity']:g}"
        return self.folder / f"{cell['criterion']}_{digest}" / own

    def missing(self, cell: FusionRecord, group: Group, way: str) -> bool:
        """Whether the folder has yet to be written. Raises `StoreError` if it holds something else."""
        planned = [*identities(self.run), self._step(group, cell, way).identity()]
        return not is_done(self.path(cell, way), planned, self.overwrite)

    def save(
        self,
        cell: FusionRecord,
        group: Group,
        way: str,
        pruned: Pruned,
        measured: Mapping[str, Any],
        seconds: float,
    ) -> None:
        """Write a model as the run that the step prune makes, with its accuracy on the test split."""
        step = self._step(group, cell, way)
        result = {"requested": pruned.requested, "achieved": pruned.achieved, **smaller(pruned)}
        if pruned.compensated:
            result["compensated"] = plain(pruned.compensated)
        top1 = measured["accuracy"]
        if self.test is not None:
            top1 = evaluate(pruned.model, self.test, progress=False)["top1"]
        self.run.record(
            pruned.model,
            pruned.masks,
            {"do": step.do, "config": step.config()},
            {**result, "top1": top1},
            seconds,
            self.path(cell, way),
        )

    def _step(self, group: Group, cell: FusionRecord, way: str) -> Prune:
        """Return the step that makes the same model."""
        settings = self.subject.settings(group, cell["sparsity"], WAYS[way])
        return Prune(
            run=str(self.run.folder),
            out=str(self.path(cell, way)),
            calibration=self.calibration,
            **settings,
        )
