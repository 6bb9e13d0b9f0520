"""Scores of many networks, one after the other; a failure is a reason in the network's row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from secateur.core.computed import make_plain
from secateur.core.errors import SecateurError, reason_of
from secateur.core.progress import track
from secateur.core.seeds import same_draws, seed_of
from secateur.proxies.registry import PROXIES, Proxy
from secateur.proxies.scoring import Data, ScoredNetwork, checked, entry

Builders = Iterable[tuple[str, Callable[[], nn.Module]]]
"""Names of networks, each with a function that builds it."""


@dataclass(frozen=True)
class NetworkScores:
    """Results of one network by proxy: scores, seconds each takes alone, and reasons for missing scores."""

    name: str
    scores: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def of(self, proxies: Iterable[str]) -> NetworkScores:
        """Return the row restricted to these proxies."""
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
    """Return a row for each network: those of `stream`, with votes among these networks by `voted`.

    `proxies` may include votes; their voters are scored too. Errors are those of `stream`.

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
    """Build, score and drop one network after the other, with a progress bar if `models` is a sequence.

    Every network is built with torch's generators at the state set by `seed`, as by `secateur train --seed`. `options`
    go to the proxies that have them. A failure of one network is the reason in its row. Raises `InputError` for an
    unknown proxy or option, a proxy that compares networks, and invalid data.
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
    """Return the network on the data, or the reason of a failure."""
    try:
        with same_draws(seed_of("init", seed)):
            model = build()
            if isinstance(model, nn.Module):
                make_plain(model)
            return ScoredNetwork(model, data, seed)
    except SecateurError as error:
        return str(error)
    except Exception as error:  # user code may raise anything
        return f"The network can't be built: {reason_of(error)}."


def _scored(subject: ScoredNetwork, proxy: Proxy, options: Mapping[str, Any]) -> tuple[float, float] | str:
    """Return the score and its seconds, or the reason of a failure."""
    try:
        return subject.score(proxy, options)
    except SecateurError as error:
        return str(error)


def voted(rows: Iterable[NetworkScores], proxies: Iterable[str]) -> list[NetworkScores]:
    """Return the rows with the votes of `proxies` added, among the networks with scores from all voters."""
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
    """Return the given proxies that score a network on its own, with votes replaced by their voters.

    >>> with_voters(["vote", "snip", "plain"])
    ['synflow', 'jacob_cov', 'snip', 'plain']
    """
    return list(dict.fromkeys(voter for name in proxies for voter in PROXIES[name].voters or (name,)))
