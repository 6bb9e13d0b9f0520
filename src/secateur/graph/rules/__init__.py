"""One table from operator to rule: how labels pass it.

There are only a few kinds. Movement runs the same movement on the labels, pointwise operators unite what meets,
contractions unite what is summed over and pass on the rest, normalisations pass labels and note that a statistic
crosses them. `unknown` locks all it touches, so an operator missing here costs savings, never correctness.
"""

from importlib import import_module

from secateur.graph.rules.table import CALL_RULES, RULES, rule_of, unknown

for _kind in ("pointwise", "movement", "contraction", "normalisation", "selection", "spatial"):
    import_module(f"{__name__}.{_kind}")

__all__ = ["CALL_RULES", "RULES", "rule_of", "unknown"]
