"""secateur prunes neural networks and proves that what is left still works.

    import secateur

    data = secateur.load_data("digits")
    model = secateur.build("convnet", num_classes=data.num_classes, input_shape=data.input_shape)
    secateur.train(model, data, epochs=30, lr=0.1)
    result = secateur.prune(model, amount=secateur.safe_rate(model).safe)
    secateur.train(result.model, data, masks=result.masks, epochs=5, lr=0.02)
    print(secateur.evaluate(result.model, data), result.summary())
    secateur.save(result, "small.safetensors")

The same with folders, files and a report is the command `secateur`, or `secateur.run` on a recipe.

Importing this imports nothing else: a public name, or a package such as `secateur.models`, is imported when it is
first used.
"""

from secateur.core import threads  # noqa: F401  # isort: skip  (before torch starts its threads)
from typing import TYPE_CHECKING

from secateur.core.lazy import make_lazy

if TYPE_CHECKING:
    from secateur import proxies, report, study  # noqa: F401 (as attributes)
    from secateur.analysis import SafeRate, safe_rate
    from secateur.compensation.synthetic import synthetic_inputs
    from secateur.core.errors import (
        DataError,
        InputError,
        MissingExtraError,
        ModelError,
        SecateurError,
        SecateurWarning,
        StoreError,
        VerificationError,
    )
    from secateur.criteria import CRITERIA, Calibration, criterion, score
    from secateur.data import load as load_data
    from secateur.export import Exported, export, save_pretrained
    from secateur.graph.analyze import analyze
    from secateur.measure import Measurement, measure
    from secateur.methods import METHODS
    from secateur.models import build
    from secateur.pruning.allocate_weights import SCOPES, allocate
    from secateur.pruning.api import prune
    from secateur.pruning.result import Pruned
    from secateur.runs.run import Run
    from secateur.sparsity.masks import Masks
    from secateur.steps.recipe import run
    from secateur.storage.model_files import load, load_masks, save
    from secateur.training import Fit, TrainConfig, evaluate, train

    __version__: str

__all__ = [
    "CRITERIA",
    "METHODS",
    "SCOPES",
    "Calibration",
    "DataError",
    "Exported",
    "Fit",
    "InputError",
    "Masks",
    "Measurement",
    "MissingExtraError",
    "ModelError",
    "Pruned",
    "Run",
    "SafeRate",
    "SecateurError",
    "SecateurWarning",
    "StoreError",
    "TrainConfig",
    "VerificationError",
    "allocate",
    "analyze",
    "build",
    "criterion",
    "evaluate",
    "export",
    "load",
    "load_data",
    "load_masks",
    "measure",
    "prune",
    "run",
    "safe_rate",
    "save",
    "save_pretrained",
    "score",
    "synthetic_inputs",
    "train",
]

_HOMES = {
    "__version__": "secateur.core.environment:VERSION",
    "CRITERIA": "secateur.criteria:CRITERIA",
    "METHODS": "secateur.methods:METHODS",
    "SCOPES": "secateur.pruning.allocate_weights:SCOPES",
    "Calibration": "secateur.criteria:Calibration",
    "DataError": "secateur.core.errors:DataError",
    "Exported": "secateur.export:Exported",
    "Fit": "secateur.training:Fit",
    "InputError": "secateur.core.errors:InputError",
    "Masks": "secateur.sparsity.masks:Masks",
    "Measurement": "secateur.measure:Measurement",
    "MissingExtraError": "secateur.core.errors:MissingExtraError",
    "ModelError": "secateur.core.errors:ModelError",
    "Pruned": "secateur.pruning.result:Pruned",
    "Run": "secateur.runs.run:Run",
    "SafeRate": "secateur.analysis:SafeRate",
    "SecateurError": "secateur.core.errors:SecateurError",
    "SecateurWarning": "secateur.core.errors:SecateurWarning",
    "StoreError": "secateur.core.errors:StoreError",
    "TrainConfig": "secateur.training:TrainConfig",
    "VerificationError": "secateur.core.errors:VerificationError",
    "allocate": "secateur.pruning.allocate_weights:allocate",
    "analyze": "secateur.graph.analyze:analyze",
    "build": "secateur.models:build",
    "criterion": "secateur.criteria:criterion",
    "evaluate": "secateur.training:evaluate",
    "export": "secateur.export:export",
    "load": "secateur.storage.model_files:load",
    "load_data": "secateur.data:load",
    "load_masks": "secateur.storage.model_files:load_masks",
    "measure": "secateur.measure:measure",
    "prune": "secateur.pruning.api:prune",
    "run": "secateur.steps.recipe:run",
    "safe_rate": "secateur.analysis:safe_rate",
    "save": "secateur.storage.model_files:save",
    "save_pretrained": "secateur.export:save_pretrained",
    "score": "secateur.criteria:score",
    "synthetic_inputs": "secateur.compensation.synthetic:synthetic_inputs",
    "train": "secateur.training:train",
}
"""Public name → the module, and the attribute there."""
make_lazy(__name__, _HOMES)
