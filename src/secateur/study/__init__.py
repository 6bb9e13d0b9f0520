"""Studies: grids of recipes, each carried out once and stored; see `plan`, `conduct` and `statistics`."""

from secateur.study.conduct import Standing, conduct
from secateur.study.engines import ENGINES
from secateur.study.on_ray import OnRay
from secateur.study.plan import GridCell, Study, Task, read_study
from secateur.study.store import Results
from secateur.study.work import Place

__all__ = [
    "ENGINES",
    "GridCell",
    "OnRay",
    "Place",
    "Results",
    "Standing",
    "Study",
    "Task",
    "conduct",
    "read_study",
]
