"""Steps, each in one file: train → prune → retrain → measure → compare → report.

Importing this package registers them, in the order of the command line's list.
"""

from secateur.core.extras import need

for _package in ("pydantic", "rich", "yaml"):
    need(_package, for_="A step")

from secateur.steps.base import STEPS, Context, Outcome, Step, step
from secateur.steps.train import Retrain, Train

from secateur.steps.import_checkpoint import Import  # isort: skip
from secateur.steps.inspect import Inspect  # isort: skip
from secateur.steps.safe_rate import SafeRateStep  # isort: skip
from secateur.steps.prune import Prune  # isort: skip
from secateur.steps.ticket import Ticket  # isort: skip
from secateur.steps.lottery import Lottery  # isort: skip
from secateur.steps.supermask import Supermask  # isort: skip
from secateur.steps.evaluation import Eval  # isort: skip
from secateur.steps.compare import Compare  # isort: skip
from secateur.steps.compare_fusion import CompareFusion  # isort: skip
from secateur.steps.fusion_results import FusionResults  # isort: skip
from secateur.steps.connect import Connect  # isort: skip
from secateur.steps.instability import Instability  # isort: skip
from secateur.steps.proxies import Proxies  # isort: skip
from secateur.steps.report import Report  # isort: skip
from secateur.steps.export import Export  # isort: skip

__all__ = [
    "STEPS",
    "Compare",
    "CompareFusion",
    "Connect",
    "Context",
    "Eval",
    "Export",
    "FusionResults",
    "Import",
    "Inspect",
    "Instability",
    "Lottery",
    "Outcome",
    "Proxies",
    "Prune",
    "Report",
    "Retrain",
    "SafeRateStep",
    "Step",
    "Supermask",
    "Ticket",
    "Train",
    "step",
]
