"""What the core does on a small conv net and a small transformer, with torch, numpy, safetensors and scipy alone.

Prints one JSON object: what was cut, and the errors of what needs another package. With --block, every top-level
package that is not of `ALLOWED` can't be found, as if it were not installed.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

OF_TORCH = """
    torch torchgen functorch typing_extensions sympy mpmath networkx jinja2 markupsafe fsspec filelock
    setuptools _distutils_hack packaging nvidia triton cuda
"""
OURS = "numpy safetensors scipy secateur"
ALLOWED = {*OF_TORCH.split(), *OURS.split(), *sys.stdlib_module_names}
WITHOUT = """
    pydantic rich typer yaml pyarrow PIL lightning_fabric altair vl_convert sklearn torchvision tqdm onnx ray
"""
ABSENT = set(WITHOUT.split())


class Blocked(PathFinder):
    """Finds what is allowed and nothing else."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        found = PathFinder.find_spec(name, path, target)
        allowed = name.partition(".")[0] in ALLOWED or name.startswith("_sysconfigdata")
        vendored = found is not None and "_vendor" in str(found.origin or found.submodule_search_locations)
        return found if allowed or vendored else None


if "--block" in sys.argv:
    sys.meta_path[:] = [Blocked if finder is PathFinder else finder for finder in sys.meta_path]

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import secateur  # noqa: E402
from secateur.sparsity.granularity import kind_of  # noqa: E402


class Block(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.b(F.relu(self.norm(self.a(x))))
        return result


class ConvNet(nn.Module):
    """[N, 3, 8, 8] → [N, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.blocks, self.head = nn.Sequential(Block(), Block()), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(F.relu(self.norm(self.stem(images))))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


class Layer(nn.Module):
    """[N, T, 16] → [N, T, 16]: four heads of four features, then 32 hidden ones."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (-1, 4)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1)
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        result: Tensor = x + self.down(F.gelu(self.up(x)))
        return result


class Transformer(nn.Module):
    """[N, T, 16] → [N, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.Sequential(Layer(), Layer()), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(x).mean(1))
        return logits


INPUTS = {ConvNet: torch.randn(8, 3, 8, 8), Transformer: torch.randn(8, 5, 16)}
GRANULARITIES = {
    ConvNet: ("weight", "2:4", "block:2x2", "channel", "layer"),
    Transformer: ("weight", "2:4", "block:2x2", "channel", "head", "layer"),
}
COMPENSATED = ("weight", "2:4", "block:2x2", "channel", "head")
SCORED_ON = {
    "weight": ConvNet,
    "2:4": ConvNet,
    "block:2x2": ConvNet,
    "channel": ConvNet,
    "layer": ConvNet,
    "head": Transformer,
}


def cut(kind: type[nn.Module], granularity: str, criterion: str = "magnitude", **settings: Any) -> Any:
    """Cut half, which is what the pattern says as well, and give data to those that want it."""
    torch.manual_seed(0)
    model, x = kind().eval(), INPUTS[kind]
    amount = {} if granularity == "2:4" else {"amount": 0.5}
    data = [(x, torch.arange(8) % 4)]
    return secateur.prune(
        model, x[:2], granularity=granularity, criterion=criterion, data=data, **amount, **settings
    )


def road(kind: type[nn.Module], granularity: str, compensation: str) -> None:
    """Cut, save, load into a fresh model, compare, measure."""
    x, result = INPUTS[kind], cut(kind, granularity, compensation=compensation)
    with tempfile.TemporaryDirectory() as folder:
        secateur.save(result, Path(folder) / "m.safetensors")
        masks = secateur.load_masks(Path(folder) / "m.safetensors")
        fresh = secateur.load(Path(folder) / "m.safetensors", into=kind()).eval()
    assert all(bool((mask == result.masks[name]).all()) for name, mask in masks.items())
    with torch.no_grad():
        torch.testing.assert_close(fresh(x), result.model.eval()(x))
    before, after = (
        secateur.measure(net, x[:1], kept, latency=False) for net, kept in ((kind(), None), (fresh, masks))
    )
    assert after.macs_nonzero < before.macs_nonzero


def cuts() -> list[str]:
    """Take every road there is, and cut by every criterion; return their names."""
    taken = []
    for kind, granularities in GRANULARITIES.items():
        for granularity in granularities:
            for compensation in ("drop", "reconstruct") if granularity in COMPENSATED else ("drop",):
                road(kind, granularity, compensation)
                taken.append(f"{kind.__name__} {granularity} {compensation}")
    for granularity, kind in SCORED_ON.items():
        for name, criterion in secateur.CRITERIA.items():
            if kind_of(granularity).elements & criterion.elements:
                cut(kind, granularity, name)
                taken.append(f"{granularity} {name}")
    return taken


def others() -> dict[str, Any]:
    """Do the rest of the core; return what came of it."""
    model, x = ConvNet().eval(), INPUTS[ConvNet]
    groups = secateur.analyze(model, x[:2])
    timed = secateur.measure(model, x[:1], batch_sizes=(1,), seconds=0.01)
    scores = secateur.score("magnitude", {"weight": model.head.weight})
    inputs = secateur.synthetic_inputs(model, x[:2], steps=2)
    return {
        "groups": len(groups.free),
        "latency": timed.latencies[0].median > 0,
        "allocated": secateur.allocate(scores, 0.5, "global")["weight"].sum().item(),
        "safe": 0 < secateur.safe_rate(model).safe < 1,
        "synthetic": list(inputs[0][0].shape) if isinstance(inputs, list) else list(inputs.shape),
        "built": type(secateur.build("resnet20")).__name__,
    }


NEEDING: dict[str, Callable[[], Any]] = {
    "train": lambda: secateur.train,
    "evaluate": lambda: secateur.evaluate,
    "run": lambda: secateur.run,
    "Run": lambda: secateur.Run,
    "steps": lambda: secateur.steps,
    "study": lambda: secateur.study,
    "lottery": lambda: secateur.lottery,
    "connectivity": lambda: secateur.connectivity,
    "cli": lambda: importlib.import_module("secateur.cli"),
    "digits": lambda: secateur.load_data("digits"),
    "cifar10": lambda: secateur.load_data("cifar10", "nowhere"),
    "parquet": lambda: secateur.load_data("parquet:nowhere"),
    "table": lambda: secateur.load_data("table:nowhere"),
    "hf data": lambda: secateur.load_data("hf:nothing"),
    "images": lambda: secateur.data.images.decode([b"no image"], "nowhere", 8, "RGB"),
    "resnet18": lambda: secateur.build("resnet18"),
    "torchvision": lambda: secateur.build("torchvision:resnet18"),
    "timm": lambda: secateur.build("timm:resnet18"),
    "transformers": lambda: secateur.build("hf:bert"),
    "chart": lambda: secateur.report.charts.layer_sparsity([]),
    "table for a terminal": lambda: secateur.core.tables.Table([], []).rich(),
    "fuse": lambda: cut(ConvNet, "channel", compensation="fuse"),
    "onnx": lambda: secateur.export(ConvNet().eval(), INPUTS[ConvNet], "model.onnx"),
}


def missed() -> dict[str, str]:
    """Return what each call that needs another package answers."""
    return {name: _answer(call) for name, call in NEEDING.items()}


def _answer(call: Callable[[], Any]) -> str:
    try:
        call()
    except secateur.MissingExtraError as error:
        return str(error)
    except Exception as error:  # the test shows it
        return f"{type(error).__name__}: {error}"
    return "no error"


if __name__ == "__main__":
    torch.set_num_threads(1)
    content = {"cuts": cuts(), "others": others(), "missed": missed()}
    print(json.dumps({**content, "loaded": sorted(ABSENT & set(sys.modules))}))
