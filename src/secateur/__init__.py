"""secateur prunes neural networks and proves that what is left still works.

    import secateur

    data = secateur.load_data("digits")
    model = secateur.build("convnet", num_classes=data.num_classes, input_shape=data.input_shape)
    secateur.train(model, data, epochs=30, lr=0.1)
    result = secateur.prune(model, amount=secateur.safe_rate(model).safe)
    secateur.train(result.model, data, masks=result.masks, epochs=5, lr=0.02)
    print(secateur.evaluate(result.model, data), result.summary())
    secateur.save(result, "small.safetensors")

The same road with folders, files and a report is the command `secateur`, or `secateur.run` on a recipe.
"""

from secateur.core import threads  # noqa: F401  # isort: skip  (before torch starts its threads)
from secateur.analysis import SafeRate, safe_rate
from secateur.compensation.synthetic import synthetic_inputs
from secateur.core.environment import version
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

__version__ = version("secateur")

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
