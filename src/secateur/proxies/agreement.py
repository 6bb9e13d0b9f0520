"""Rank correlations of scores with the accuracies of trained networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from secateur.core.errors import InputError
from secateur.proxies.pairs import ordered
from secateur.proxies.ranking import NetworkScores


def correlations(
    rows: Iterable[NetworkScores], accuracies: Mapping[str, float]
) -> dict[str, dict[str, float | None]]:
    """Return {proxy: {"spearman", "kendall", "pairs", "networks"}} of scores and the accuracies by network name.

    The first two are Spearman's ρ and Kendall's τ. `pairs` is the share of correctly ordered pairs among the networks
    of different accuracy, ties counted half, and `networks` the number with both a score and an accuracy. If all
    scores or all accuracies are equal, the first three are None. Raises `InputError` if no network of the rows has an
    accuracy.

    >>> scores = {"a": 1.0, "b": 2.0, "c": 3.0}
    >>> rows = [NetworkScores(name, {"snip": score}) for name, score in scores.items()]
    >>> found = correlations(rows, {"a": 90.0, "b": 92.0, "c": 91.0})["snip"]
    >>> {name: round(number, 3) for name, number in found.items()}
    {'spearman': 0.5, 'kendall': 0.333, 'pairs': 0.667, 'networks': 3}
    """
    from scipy import stats

    known = [row for row in rows if row.name in accuracies]
    if not known:
        raise InputError("There is no accuracy for any of the networks: give theirs, by the same names.")
    found = {}
    for proxy in dict.fromkeys(name for row in known for name in row.scores):
        pairs = [(row.scores[proxy], accuracies[row.name]) for row in known if proxy in row.scores]
        scores, reached = torch.tensor(pairs, dtype=torch.float64).T
        varied = len(scores.unique()) > 1 and len(reached.unique()) > 1
        found[proxy] = {
            "spearman": float(stats.spearmanr(scores, reached).statistic) if varied else None,
            "kendall": float(stats.kendalltau(scores, reached).statistic) if varied else None,
            "pairs": ordered(scores, reached)[0] if varied else None,
            "networks": len(pairs),
        }
    return found
