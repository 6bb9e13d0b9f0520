"""Two networks, each trained on its own half of the data, become one of the size of either.

The second use of fusion (Theus et al. 2024, Towards Meta-Pruning via Optimal Transport, section 5):
a network that holds both side by side, and answers with the mean of both, is an ordinary network of twice the width.
Halving it is an ordinary cut, and what becomes of the units that go is the compensation's matter: dropped, fused, or
reconstructed on the training images. Each result is then trained for a few epochs on all data, beside a network that
starts from nothing and the plain average of the two.

    python examples/fuse_halves.py [--seeds 3] [--data mnist --data-root DIR]
"""

from __future__ import annotations

import argparse
import copy
import math
from dataclasses import replace
from statistics import mean
from typing import Any

import torch
from torch import nn

import secateur
from secateur import evaluate, prune, train
from secateur.data import Dataset

HALVES: dict[str, Any] = {"epochs": 30, "batch_size": 64, "optimizer": "adamw", "lr": 1e-3}
TOGETHER: dict[str, Any] = {"epochs": 3, "batch_size": 64, "optimizer": "adamw", "lr": 1e-3}


def network(data: Dataset) -> nn.Sequential:
    """Return a small network of linear layers."""
    pixels = math.prod(data.input_shape or ())
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(pixels, 64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, len(data.classes)),
    )


def side_by_side(one: nn.Sequential, two: nn.Sequential) -> nn.Sequential:
    """Return the network that holds both and whose outputs are the mean of theirs."""
    joined = copy.deepcopy(one)
    pairs = [
        (a, b) for a, b in zip(one, two, strict=True) if isinstance(a, nn.Linear) and isinstance(b, nn.Linear)
    ]
    places = [at for at, layer in enumerate(one) if isinstance(layer, nn.Linear)]
    for at, (a, b) in zip(places, pairs, strict=True):
        if at == places[0]:
            weight, bias = torch.cat([a.weight, b.weight]), torch.cat([a.bias, b.bias])
        elif at == places[-1]:
            weight, bias = torch.cat([a.weight, b.weight], 1) / 2, (a.bias + b.bias) / 2
        else:
            weight, bias = torch.block_diag(a.weight, b.weight), torch.cat([a.bias, b.bias])
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
        joined[at] = layer
    return joined


def average(one: nn.Module, two: nn.Module) -> nn.Module:
    """Return the network whose weights are the means of both."""
    averaged = copy.deepcopy(one)
    others = two.state_dict()
    averaged.load_state_dict({name: (tensor + others[name]) / 2 for name, tensor in one.state_dict().items()})
    return averaged


def halves(data: Dataset, seed: int) -> list[Dataset]:
    """Return the data with one random half of the training examples, and with the other."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    middle = len(order) // 2
    return [replace(data, train=data.train.select(rows)) for rows in (order[:middle], order[middle:])]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--data", default="digits")
    options.add_argument("--data-root")
    options.add_argument("--seeds", type=int, default=3)
    given = options.parse_args()
    data = secateur.load_data(given.data, given.data_root)
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(given.seeds):
        networks = []
        for number, half in enumerate(halves(data, seed)):
            torch.manual_seed(2 * seed + number)
            networks.append(network(data))
            train(networks[-1], half, **HALVES, seed=seed)
        one, two = networks
        wide = side_by_side(one, two)
        images = data.normalised(data.train.take(512).inputs)
        assert isinstance(images, torch.Tensor)
        ways = {
            "trained on one half": one,
            "trained on the other": two,
            "both, side by side": wide,
            "average of the weights": average(one, two),
        }
        for name in ("drop", "fuse", "reconstruct"):
            cut = prune(
                wide,
                images[:1],
                granularity="channel",
                amount=0.5,
                scope="local",
                compensation=name,
                data=[(images, None)] if name == "reconstruct" else None,
            )
            ways[f"halved: {name}"] = cut.model
        torch.manual_seed(1000 + seed)
        ways["untrained"] = network(data)
        for name, model in ways.items():
            at_once = evaluate(model, data)["top1"]
            later = train(model, data, **TOGETHER, seed=seed).rows[-1]["top1"]
            found.setdefault(name, []).append((at_once, later))
    print(f"{'':24}  at once  after {TOGETHER['epochs']} epochs on all data   (means of {given.seeds} seeds)")
    for name, pairs in found.items():
        print(f"{name:24}  {mean(a for a, _ in pairs):7.2%}  {mean(b for _, b in pairs):7.2%}")


if __name__ == "__main__":
    main()
