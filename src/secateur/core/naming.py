"""Names of one parameter in several forms of a model: wrapped, compiled, with computed tensors and without."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

WRAPPERS = re.compile(r"^(module\.)+|(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What DataParallel and its like put before all names, and torch.compile and others into names."""
COMPUTED = re.compile(r"(?:parametrizations\.(\w+)\.original[01]?|(\w+)_(?:orig|v))$")
"""Endings of the carriers of computed tensors, see `secateur.core.computed`."""


def unwrapped_name(name: str) -> str:
    """Return a name as in a model that is neither wrapped nor compiled.

    >>> unwrapped_name("module._orig_mod.0._orig_mod.weight")
    '0.weight'
    """
    before = ""
    while before != name:
        before, name = name, WRAPPERS.sub("", name)
    return name


def bare(name: str) -> str:
    """Return a name as in a model that is neither wrapped nor compiled and computes no tensor.

    >>> bare("module._orig_mod.0.weight_orig"), bare("0.parametrizations.weight.original1")
    ('0.weight', '0.weight')
    """
    return COMPUTED.sub(lambda found: found[1] or found[2], unwrapped_name(name))


def matched(names: Iterable[str], known: Iterable[str], form: Callable[[str], str] = bare) -> dict[str, str]:
    """Return for each of `names` the one of `known` that is the same, or the only one of the same `form`.

    Names without one are left out.
    """
    known = list(known)
    same, forms = set(known), Counter(map(form, known))
    others = {form(name): name for name in known if forms[form(name)] == 1}
    pairs = ((name, name if name in same else others.get(form(name))) for name in names)
    return {name: found for name, found in pairs if found is not None}
