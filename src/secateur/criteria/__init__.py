"""What matters least: criteria and the registry they stand in."""

from secateur.criteria import weights  # registers
from secateur.criteria.registry import CRITERIA, Criterion, criterion
from secateur.criteria.scoring import score

__all__ = ["CRITERIA", "Criterion", "criterion", "score", "weights"]
