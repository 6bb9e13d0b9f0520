"""The registry of proxies: a proxy is a formula and the quantities in its signature.

The positional parameters of a formula are tensors of a network: `weight`, or a measured quantity
(`secateur.criteria.QUANTITIES`, such as `gradient`). It returns one number per tensor, and their sum is the network's
score; higher predicts better accuracy. A formula whose parameters name other proxies is a vote: it takes their scores
of a list of networks, [networks] each, and returns scores of the same shape.

The library, the command line, the documentation and the shared tests read the registry.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from secateur.core.options import check_options
from secateur.core.registry import Registry
from secateur.criteria import QUANTITIES
from secateur.criteria.registry import parameters_of

Formula = TypeVar("Formula", bound=Callable[..., Tensor])


@dataclass(frozen=True)
class Proxy:
    """A registered proxy: `formula(*needs)` → a number for each tensor, or the votes.

    `measuring` overrides defaults of the options of the measured quantities.
    """

    name: str
    formula: Callable[..., Tensor]
    paper: str
    measuring: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> tuple[str, ...]:
        """Positional parameters of the formula: quantities, `weight`, or other proxies."""
        return parameters_of(self.formula)[0]

    @property
    def voters(self) -> tuple[str, ...]:
        """The proxies it is a vote of; () for a score of a single network."""
        return tuple(need for need in self.needs if need in PROXIES)

    @property
    def measures(self) -> tuple[str, ...]:
        """The measured quantities it needs."""
        return tuple(need for need in self.needs if need in QUANTITIES)

    @property
    def needs_data(self) -> bool:
        """Whether it depends on the values of the inputs, not their shape alone."""
        return any("data" in QUANTITIES[each].needs for each in self.measures) or any(
            PROXIES[each].needs_data for each in self.voters
        )

    @property
    def options(self) -> dict[str, Any]:
        """Options of its quantities, with their defaults for this proxy."""
        measured = [QUANTITIES[each].options for each in self.measures]
        return {name: value for options in measured for name, value in options.items()} | dict(self.measuring)

    @property
    def summary(self) -> str:
        """First line of the formula's docstring."""
        return (inspect.getdoc(self.formula) or "").partition("\n")[0]

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise `InputError` for an option it has not, or a value of another type."""
        check_options(
            f"the proxy {self.name}", options, *(QUANTITIES[each].measure for each in self.measures)
        )


PROXIES: Registry[Proxy] = Registry("proxy")


def proxy(name: str, *, paper: str, **measuring: Any) -> Callable[[Formula], Formula]:
    """Register the decorated formula as the proxy `name`; `measuring` sets options of its quantities."""

    def register(formula: Formula) -> Formula:
        PROXIES.add(name, Proxy(name, formula, paper, measuring))
        return formula

    return register
