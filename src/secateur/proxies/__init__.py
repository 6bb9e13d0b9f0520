"""Zero-cost proxies: scores of untrained networks, computed from one batch, that predict trained accuracy.

The proxies of Abdelfattah et al. 2021 are criteria for single weights, summed to one number for a network. `score`
computes it for one network, `rank` for many, and `correlations` its rank correlation with accuracies.
"""

from secateur.proxies import formulas  # registers
from secateur.proxies.agreement import correlations
from secateur.proxies.ranking import NetworkScores, rank, stream, voted, with_voters
from secateur.proxies.registry import PROXIES, Proxy, proxy
from secateur.proxies.scoring import score

__all__ = [
    "PROXIES",
    "NetworkScores",
    "Proxy",
    "correlations",
    "formulas",
    "proxy",
    "rank",
    "score",
    "stream",
    "voted",
    "with_voters",
]
