"""Weights of a language model outside its stack of layers: the output layer, classifiers, projections.

Papers on pruning language models cut the matrices of the decoder or encoder layers alone. The structure tells, no
library is asked: models of Transformers tell their table of token embeddings, and hold their layers in module lists; in
any other model a linear layer with the shape of an embedding, which maps features back to tokens, is the output layer.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from secateur.core.modules import modules_of, parameters_of


def outputs(model: nn.Module) -> set[int]:
    """Return the ids of the matrices of a language model outside its stack of layers; of other models none."""
    outer = next((each for each in modules_of(model) if _embeds_tokens(each)), None)
    if outer is not None:
        stack = _ids(layer for each in modules_of(outer) for layer in _layers(each))
        return _ids([outer]) - stack if stack else set()
    tables = {
        (each.num_embeddings, each.embedding_dim)
        for each in modules_of(model)
        if isinstance(each, nn.Embedding)
    }
    return _ids(
        each
        for each in modules_of(model)
        if isinstance(each, nn.Linear) and (each.out_features, each.in_features) in tables
    )


def _embeds_tokens(module: nn.Module) -> bool:
    """Whether a module tells, as those of Transformers do, that its inputs are rows of a table."""
    tell = getattr(module, "get_input_embeddings", None)
    try:
        return callable(tell) and isinstance(tell(), nn.Embedding)
    except (AttributeError, NotImplementedError, TypeError):
        return False


def _layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers that a module list holds, each made of modules itself."""
    items = [*module] if isinstance(module, nn.ModuleList) else []
    return [item for item in items if next(item.children(), None) is not None]


def _ids(modules: Iterable[nn.Module]) -> set[int]:
    return {id(each) for module in modules for each in parameters_of(module) if each.ndim >= 2}
