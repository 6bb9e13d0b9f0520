"""Make a model smaller as a plan says: tensors sliced, sizes in its code put right, the class kept."""

from secateur.shrink.apply import apply
from secateur.shrink.optimizer import shrink_optimizer
from secateur.shrink.plan import Override, Plan

__all__ = ["Override", "Plan", "apply", "shrink_optimizer"]
