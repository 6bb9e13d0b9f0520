"""What draws random numbers draws from `seed=`, and leaves all random states as they were."""

# ruff: noqa: NPY002

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import secateur
from secateur import proxies
from secateur.compensation import COMPENSATIONS
from secateur.core.seeds import same_draws
from secateur.criteria import CRITERIA
from secateur.graph.analyze import analyze
from secateur.importance import unit_scores
from secateur.measure import compare_latency, cost
from secateur.proxies import PROXIES
from secateur.sparsity.granularity import kind_of

TEXTS = {
    "weight": "weight",
    "block": "block:2x2",
    "pattern": "2:4",
    "channel": "channel",
    "head": "head",
    "layer": "layer",
}
CUTS = [
    (criterion, grain)
    for criterion in sorted(CRITERIA)
    for grain in TEXTS
    if kind_of(TEXTS[grain]).kind in CRITERIA[criterion].granularities
]
MADE_UP = [
    (compensation, grain)
    for compensation in sorted(COMPENSATIONS)
    for grain in ("weight", "channel", "head")
    if kind_of(grain).kind in COMPENSATIONS[compensation].granularities
]


class Attention(nn.Module):
    """Attention with dropout that is on in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, -1)
        return self.out(F.dropout(found, 0.2, training=True))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.mlp = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


class Drawing(nn.Module):
    """A network that draws from every generator there is while it runs, and from two of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.blocks = nn.ModuleList([Block() for _ in range(3)])
        self.head = nn.Linear(8, 3)
        self.stream, self.legacy = np.random.default_rng(5), random.Random(5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.conv(images)).relu()
        x = x * (1 + 0.5 * torch.randn_like(x)) + 0.1 * np.random.rand() + 0.1 * random.random()
        x = x + 0.1 * self.stream.random() + 0.1 * self.legacy.random()
        x = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def drawing() -> Drawing:
    with same_draws(3):
        model = Drawing()
        for tensor in (model.norm.weight, model.norm.bias, model.norm.running_mean):
            nn.init.uniform_(tensor, 0.5, 1.5)  # type: ignore[arg-type]
    return model.eval()


STREAM = torch.Generator().manual_seed(4)
X, Y = torch.randn(6, 3, 4, 4, generator=STREAM), torch.tensor([0, 1, 2, 0, 1, 2])


class Noisy(TensorDataset):
    """Samples augmented from the global generators."""

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        image, label = super().__getitem__(index)
        return image + 0.1 * torch.randn_like(image) + 0.1 * random.random() + 0.1 * np.random.rand(), label


def loader(**how: Any) -> DataLoader[Any]:
    return DataLoader(Noisy(X, Y), batch_size=3, **how)


def set_states(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def states(*owners: Any) -> list[Any]:
    own = [owner.stream.bit_generator.state for owner in owners if isinstance(owner, Drawing)]
    own += [owner.legacy.getstate() for owner in owners if isinstance(owner, Drawing)]
    return [torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate(), own]


def digest(*tensors: Tensor) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    with same_draws():
        yield


def unmoved(call: Callable[[Drawing], Any]) -> Any:
    """Return what a call gives, which must not depend on the states it is made at, nor move them."""
    found = []
    for seed in (1, 2):
        model = drawing()
        model.stream, model.legacy = np.random.default_rng(seed), random.Random(seed)
        set_states(seed)
        before = states(model)
        found.append(call(model))
        assert states(model) == before
    assert found[0] == found[1]
    return found[0]


def cut(result: secateur.Pruned) -> Any:
    kept = {
        name: {dim: rows.tolist() for dim, rows in dims.items()}
        for name, dims in (result.plan.kept if result.plan else {}).items()
    }
    skipped = dict(result.plan.skipped) if result.plan else {}
    return kept, skipped, digest(*result.masks.values()), digest(*result.model.state_dict().values())


ROUNDS = {"synflow": {"rounds": 2}, "iter_snip": {"rounds": 2}, "force": {"rounds": 2}}


@pytest.mark.parametrize(("criterion", "grain"), CUTS)
def test_a_cut_depends_on_the_seed_alone(criterion: str, grain: str) -> None:
    amount = {} if grain == "pattern" else {"amount": 0.4}

    def prune(model: Drawing) -> Any:
        return cut(
            secateur.prune(
                model, X[:2], criterion=criterion, granularity=TEXTS[grain], data=[(X, Y)], seed=7,
                **amount, **ROUNDS.get(criterion, {}),
            )
        )  # fmt: skip

    unmoved(prune)


@pytest.mark.parametrize(("compensation", "grain"), MADE_UP)
def test_a_compensation_depends_on_the_seed_alone(compensation: str, grain: str) -> None:
    unmoved(
        lambda model: cut(
            secateur.prune(
                model, X[:2], granularity=grain, amount=0.4, data=[(X, Y)], compensation=compensation, seed=7
            )
        )
    )


@pytest.mark.parametrize("name", [name for name in sorted(PROXIES) if not PROXIES[name].voters])
def test_a_proxy_depends_on_the_seed_alone(name: str) -> None:
    unmoved(lambda model: proxies.score(model, name, (X, Y), seed=7))


@pytest.mark.parametrize(
    "how", [{"shuffle": True}, {"sampler": RandomSampler(X)}], ids=["shuffle", "sampler"]
)
@pytest.mark.parametrize(
    "wrap", [lambda data: data, secateur.Calibration, iter], ids=["loader", "calibration", "iterator"]
)
@pytest.mark.parametrize("grain", ["weight", "channel"])
def test_a_loader_that_shuffles_and_augments(grain: str, wrap: Any, how: dict[str, Any]) -> None:
    """An iterator has drawn its order when it was made: what is drawn afterwards is the seed's."""
    for seed in (1, 2):
        set_states(seed)
        model, data = drawing(), wrap(loader(**how))
        before = states(model)
        secateur.prune(model, X[:2], granularity=grain, amount=0.4, criterion="taylor", data=data, seed=7)
        assert states(model) == before
    if wrap is not iter:
        unmoved(
            lambda model: cut(
                secateur.prune(
                    model, X[:2], granularity=grain, amount=0.4, criterion="taylor", data=wrap(loader(**how))
                )
            )
        )


def test_an_iterator_of_a_loader_is_kept() -> None:
    data = secateur.Calibration(iter(loader()))
    assert [len(inputs) for inputs, _ in data] == [len(inputs) for inputs, _ in data] == [3, 3]


def test_the_generator_of_a_loader_is_left_as_it_was() -> None:
    own = torch.Generator().manual_seed(11)
    data, before = loader(shuffle=True, generator=own), own.get_state()
    for criterion in ("taylor", "activation", "fisher"):
        secateur.prune(drawing(), X[:2], granularity="channel", amount=0.4, criterion=criterion, data=data)
        assert torch.equal(own.get_state(), before)


@pytest.mark.parametrize("criterion", ["taylor", "activation", "apoz"])
def test_a_second_measurement_of_kept_data_equals_the_first(criterion: str) -> None:
    """Statistics found in the cache cost no draws, so those of another criterion must not depend on them."""
    alone, shared = secateur.Calibration([(X, Y)]), secateur.Calibration([(X, Y)])
    model = drawing()
    groups = analyze(model, X[:2])
    scores = {}
    for data in (alone, shared):
        if data is shared:
            for other in ("hrank", "taylor_unit", "activation"):
                if other in CRITERIA:
                    unit_scores(model, groups.free, other, coupling=groups.coupling, data=data)
        found = unit_scores(model, groups.free, criterion, coupling=groups.coupling, data=data)
        scores[data is shared] = {name: each.tolist() for name, each in found.items()}
    assert scores[True] == scores[False]


def test_scores_of_a_model_that_draws_differ_between_seeds() -> None:
    model = drawing()
    groups = analyze(model, X[:2])
    data = secateur.Calibration([(X, Y)])
    found = [
        unit_scores(model, groups.free, "activation", coupling=groups.coupling, data=data, seed=seed)
        for seed in (0, 1, 0)
    ]
    name = next(iter(found[0]))
    assert torch.equal(found[0][name], found[2][name])
    assert not torch.equal(found[0][name], found[1][name])


CALLS: dict[str, Callable[[Drawing], Any]] = {
    "analyze": lambda model: [(each.name, each.units) for each in secateur.analyze(model, X[:1])],
    "measure": lambda model: secateur.measure(model, X[:1], latency=False).macs_nonzero,
    "latency": lambda model: [
        each.batch
        for each in compare_latency({"a": model, "b": drawing()}, X[:1], (1,), seconds=0.01, rounds=1)["a"]
    ],
    "cost": lambda model: cost(model, X[:1]).macs,
    "safe_rate": lambda model: secateur.safe_rate(model).safe,
    "synthetic": lambda model: digest(
        *(inputs for inputs, _ in secateur.synthetic_inputs(model, X[:1], samples=2, steps=1))
    ),
    "latency budget": lambda model: (
        secateur.prune(model, X[:1], granularity="channel", budget={"latency_ms": 1e3, "batch": 1}).achieved
    ),
    "digest": lambda model: secateur.Calibration(loader(shuffle=True)).to_json(),
    "unit_scores": lambda model: [
        (name, each.tolist())
        for name, each in unit_scores(
            model, secateur.analyze(model, X[:1]).free, "taylor", data=loader()
        ).items()
    ],
}


@pytest.mark.parametrize("name", CALLS)
def test_other_calls(name: str) -> None:
    unmoved(CALLS[name])


class Encoder(nn.Module):
    """The sampling layer of a variational autoencoder, which programs can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.spread = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.mean(x) + torch.randn_like(self.spread(x)) * self.spread(x)


def test_export_of_a_model_that_draws(tmp_path: Path) -> None:
    with same_draws(1):
        model = Encoder()
    set_states(1)
    before = states()
    assert secateur.export(model, torch.ones(1, 4), tmp_path / "small.pt2").error == 0
    assert states() == before


def test_training_and_evaluation(tmp_path: Path) -> None:
    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1) * (1 + 0.3 * np.random.rand() + 0.3 * random.random())
            return self.layer(F.dropout(x, training=True))

    data = secateur.load_data("digits").subset(train=40, test=20)
    found = []
    for seed in (1, 2):
        with same_draws(1):
            model = Drops()
        set_states(seed)
        before = states()
        secateur.train(model, data, epochs=1, batch_size=20, lr=0.1)
        found.append((digest(*model.parameters()), secateur.evaluate(model, data)))
        assert states() == before
    assert found[0] == found[1]


def test_reading_a_model_and_a_step(tmp_path: Path) -> None:
    model = secateur.build("lenet5", num_classes=10, input_shape=(1, 28, 28))
    secateur.save(model, tmp_path / "model.safetensors")
    before = states()
    secateur.load(tmp_path / "model.safetensors")
    assert states() == before
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "secateur: 1\nsteps:\n- {do: train, data: digits, model: convnet, train_subset: 40, epochs: 1, out: run}\n"
    )
    secateur.run(recipe, root=tmp_path)
    assert states() == before


@pytest.mark.parametrize(
    ("kind", "number"),
    {
        "torch": (lambda: torch.Generator().manual_seed(1), lambda each: float(torch.rand(1, generator=each))),
        "numpy": (lambda: np.random.default_rng(1), lambda each: each.random()),
        "philox": (lambda: np.random.Generator(np.random.Philox(1)), lambda each: each.random()),
        "legacy": (lambda: np.random.RandomState(1), lambda each: each.rand()),
        "python": (lambda: random.Random(1), lambda each: each.random()),
    }.values(),
    ids=["torch", "numpy", "philox", "legacy", "python"],
)  # fmt: skip
def test_generators_that_modules_hold(kind: Callable[[], Any], number: Callable[[Any], float]) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].own = kind()  # type: ignore[assignment]
    first = number(kind())
    with same_draws(5, model):
        drawn = number(model[0].own)
    with same_draws(5, model):
        assert number(model[0].own) == drawn != first
    assert number(model[0].own) == first


def test_a_systems_own_randomness_is_left_alone() -> None:
    model = nn.Linear(2, 2)
    model.own = random.SystemRandom()  # type: ignore[assignment]
    with same_draws(5, model):
        model.own.random()  # type: ignore[union-attr, operator]


def test_states_of_the_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state()
    with same_draws(1):
        first = torch.randn(3, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before)
    torch.cuda.manual_seed(4)
    with same_draws(1):
        assert torch.equal(torch.randn(3, device="cuda"), first)


def test_the_first_bar_draws_nothing() -> None:
    """The package of the bars draws numbers when it is first imported: in a process of its own."""
    code = (
        "import random; from secateur.core.progress import track; random.seed(1); before = random.getstate(); "
        "list(track([1], 'title', 1)); assert random.getstate() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
