"""Scores of units: a criterion's scores of the tensors of a unit, reduced to one number.

Data flow: criterion → view (scores of each unit in each tensor) → reduction over the tensors → normalisation over the
group.
"""

from secateur.importance.change import change_parts
from secateur.importance.folded import folded_map_parts, folded_parts
from secateur.importance.heads import attention_parts, masked_parts
from secateur.importance.maps import map_parts
from secateur.importance.parts import REDUCTIONS, VIEWS, Question, ScorePart
from secateur.importance.refit import reader_parts
from secateur.importance.rows import row_parts, scale_parts
from secateur.importance.scores import NORMALIZATIONS, unit_scores
from secateur.importance.weights import weight_parts

__all__ = [
    "NORMALIZATIONS",
    "REDUCTIONS",
    "VIEWS",
    "Question",
    "ScorePart",
    "attention_parts",
    "change_parts",
    "folded_map_parts",
    "folded_parts",
    "map_parts",
    "masked_parts",
    "reader_parts",
    "row_parts",
    "scale_parts",
    "unit_scores",
    "weight_parts",
]
