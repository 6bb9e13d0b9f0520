"""The registry of proxies: a proxy is its formula plus what the formula needs.

A proxy is a function whose positional parameters name what it needs of a network, tensor by tensor: `weight`, or a
measured quantity (`secateur.criteria.QUANTITIES`, such as `gradient`). It returns one number, and its sum over the
tensors is the network's; higher promises a better network. A formula whose parameters name other proxies is a vote: it
takes their scores of a list of networks, [networks] each, and returns scores of the same shape.

Registering it is all it takes for the library, the command line, the documentation and the shared tests to know it.
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
    """A named guess at a network's accuracy: `formula(*needs)` → a number for each tensor, or the votes.

    `measuring` holds the options of the measured quantities whose default is another here.
    """

    name: str
    formula: Callable[..., Tensor]
    paper: str
    measuring: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> tuple[str, ...]:
        """What the formula is given: names of quantities, `weight`, or other proxies."""
        return parameters_of(self.formula)[0]

    @property
    def voters(self) -> tuple[str, ...]:
        """The proxies it is a vote of; none where it scores a network on its own."""
        return tuple(need for need in self.needs if need in PROXIES)

    @property
    def measures(self) -> tuple[str, ...]:
        """The quantities it is made of."""
        return tuple(need for need in self.needs if need in QUANTITIES)

    @property
    def needs_data(self) -> bool:
        """Whether the values of the inputs count, not their shape alone."""
        return any("data" in QUANTITIES[each].needs for each in self.measures) or any(
            PROXIES[each].needs_data for each in self.voters
        )

    @property
    def options(self) -> dict[str, Any]:
        """How its quantities are measured."""
        measured = [QUANTITIES[each].options for each in self.measures]
        return {name: value for options in measured for name, value in options.items()} | dict(self.measuring)

    @property
    def summary(self) -> str:
        """First line of the formula's docstring."""
        return (inspect.getdoc(self.formula) or "").partition("\n")[0]

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise `InputError` unless `options` are some of its own, of their kinds."""
        check_options(
            f"the proxy {self.name}", options, *(QUANTITIES[each].measure for each in self.measures)
        )


PROXIES: Registry[Proxy] = Registry("proxy")


def proxy(name: str, *, paper: str, **measuring: Any) -> Callable[[Formula], Formula]:
    """Register the decorated formula as the proxy `name`; `measuring` says how its quantities are measured."""

    def register(formula: Formula) -> Formula:
        PROXIES.add(name, Proxy(name, formula, paper, measuring))
        return formula

    return register
