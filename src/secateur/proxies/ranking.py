"""Many networks scored one after the other; what can't be had of one is a reason in its row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from secateur.core.errors import SecateurError, reason_of
from secateur.core.progress import track
from secateur.core.seeds import same_draws, seed_of
from secateur.proxies.registry import PROXIES, Proxy
from secateur.proxies.scoring import Data, ScoredNetwork, checked, entry

Builders = Iterable[tuple[str, Callable[[], nn.Module]]]
"""Names of networks, each with what builds it."""


@dataclass(frozen=True)
class NetworkScores:
    """What came out for one network: scores by proxy, the seconds each takes alone, and why one is missing."""

    name: str
    scores: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def of(self, proxies: Iterable[str]) -> NetworkScores:
        """Return what the row has of these proxies."""
        wanted = list(proxies)
        return NetworkScores(
            self.name,
            {name: self.scores[name] for name in wanted if name in self.scores},
            {name: self.seconds[name] for name in wanted if name in self.seconds},
            {name: self.reasons[name] for name in wanted if name in self.reasons},
        )


def rank(
    models: Builders, proxies: Iterable[str], data: Data, seed: int = 0, **options: Any
) -> list[NetworkScores]:
    """Return a row for each network; votes are among the networks given.

    As `stream`, in which the networks come and go one by one, and `voted` after it.

    >>> data = (torch.eye(4), torch.tensor([0, 1, 0, 1]))
    >>> rows = rank([("wide", lambda: nn.Linear(4, 9)), ("odd", nn.ReLU)], ["synflow", "vote"], data)
    >>> [(row.name, sorted(row.scores)) for row in rows]
    [('wide', ['jacob_cov', 'snip', 'synflow', 'vote']), ('odd', [])]
    """
    proxies = list(proxies)
    return voted(stream(models, with_voters(proxies), data, seed, **options), proxies)


def stream(
    models: Builders, proxies: Iterable[str], data: Data, seed: int = 0, **options: Any
) -> Iterator[NetworkScores]:
    """Build, score and drop one network after the other, under a progress bar where the number of them is known.

    Every network is built with torch's generators at the same state, which `seed` decides: it is the one that
    `secateur train --seed` starts from. `options` go to the proxies that have them. What goes wrong with one network is
    the reason why its row has no score. Raises `InputError` for an unknown proxy, one that compares networks, and data
    that make no sense.
    """
    chosen, data = [entry(name) for name in proxies], checked(data)
    known = {proxy.name: {o: v for o, v in options.items() if o in proxy.options} for proxy in chosen}
    for name in set(options) - {option for own in known.values() for option in own}:
        for proxy in chosen:
            proxy.check({name: options[name]})
    for name, build in track(models, "networks", len(models)) if isinstance(models, Sequence) else models:
        row = NetworkScores(name)
        subject = _built(build, data, seed)
        for proxy in chosen:
            found = subject if isinstance(subject, str) else _scored(subject, proxy, known[proxy.name])
            if isinstance(found, str):
                row.reasons[proxy.name] = found
            else:
                row.scores[proxy.name], row.seconds[proxy.name] = found
        del subject
        yield row


def _built(build: Callable[[], nn.Module], data: Data, seed: int) -> ScoredNetwork | str:
    """Return the network on the data, or why there is none."""
    try:
        with same_draws(seed_of("init", seed)):
            return ScoredNetwork(build(), data, seed)
    except SecateurError as error:
        return str(error)
    except Exception as error:  # of somebody else's code
        return f"The network can't be built: {reason_of(error)}."


def _scored(subject: ScoredNetwork, proxy: Proxy, options: Mapping[str, Any]) -> tuple[float, float] | str:
    """Return the score and its seconds, or why there is none."""
    try:
        return subject.score(proxy, options)
    except SecateurError as error:
        return str(error)


def voted(rows: Iterable[NetworkScores], proxies: Iterable[str]) -> list[NetworkScores]:
    """Return the rows with the votes among `proxies` filled in, by the networks that all voters have scored."""
    rows = list(rows)
    for proxy in (PROXIES[name] for name in proxies if PROXIES[name].voters):
        scored = [row for row in rows if all(voter in row.scores for voter in proxy.voters)]
        votes = [torch.tensor([row.scores[v] for row in scored], dtype=torch.float64) for v in proxy.voters]
        for row, vote in zip(scored, proxy.formula(*votes).tolist() if scored else [], strict=True):
            row.scores[proxy.name] = vote
            row.seconds[proxy.name] = math.fsum(row.seconds.get(voter, 0.0) for voter in proxy.voters)
        for row in rows:
            missing = [voter for voter in proxy.voters if voter not in row.scores]
            if missing:
                row.reasons[proxy.name] = f"There is no score by {', '.join(missing)} to vote with."
    return rows


def with_voters(proxies: Iterable[str]) -> list[str]:
    """Return the proxies that score a network on its own: those given, and those that votes among them ask for.

    >>> with_voters(["vote", "snip", "plain"])
    ['synflow', 'jacob_cov', 'snip', 'plain']
    """
    return list(dict.fromkeys(voter for name in proxies for voter in PROXIES[name].voters or (name,)))
