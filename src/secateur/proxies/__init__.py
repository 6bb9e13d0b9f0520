"""How well a network will do once it is trained, guessed from one batch before it is.

The zero-cost proxies of Abdelfattah et al. 2021: criteria for single weights, summed to one number for a network.
`score` tells it for one network, `rank` for many, and `correlations` how well the numbers agree with accuracies.
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
