"""A network with attention, every head written out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS, WIDTH, LAYERS, CLASSES = 4, 3, 2, 3


class ByHand(nn.Module):
    """Two layers of attention, every head written out; what each hands on can be looked at."""

    def __init__(self) -> None:
        super().__init__()
        wide = HEADS * WIDTH
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(wide, wide) for name in "qkvo"}) for _ in range(LAYERS)
        )
        self.classify = nn.Linear(wide, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            q, k, v = (layer[name](x).unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for name in "qkv")  # type: ignore[index]
            found = (q @ k.mT / math.sqrt(3)).softmax(-1) @ v
            x = x + layer["o"](found.transpose(1, 2).flatten(2))  # type: ignore[index]
        return self.classify(x.mean(1))

    def looked_at(self, x: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
        """The same head by head; the list holds for each layer and head what it hands on, [N, tokens, features]."""
        seen: list[list[Tensor]] = []
        for layer in self.layers:
            heads = []
            for head in range(HEADS):
                rows = slice(head * WIDTH, (head + 1) * WIDTH)
                q, k, v = (F.linear(x, layer[n].weight[rows], layer[n].bias[rows]) for n in "qkv")  # type: ignore[index]
                weights = (torch.einsum("ntf,nsf->nts", q, k) / math.sqrt(3)).softmax(-1)
                heads.append(torch.einsum("nts,nsf->ntf", weights, v))
            seen.append(heads)
            x = x + layer["o"](torch.cat(heads, -1))  # type: ignore[index]
        return self.classify(x.mean(1)), seen
