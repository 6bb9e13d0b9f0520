"""Zero-cost proxies against other ways to compute what they are defined as, and what all of them promise."""

from __future__ import annotations

import copy
import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import proxies
from secateur.core.errors import InputError, ModelError
from secateur.criteria import CRITERIA, measured
from secateur.criteria import score as weigh
from secateur.proxies import PROXIES, NetworkScores, correlations, rank, score, stream, voted
from secateur.proxies.pairs import ordered, preferred

DOUBLE = torch.float64
EVERY = sorted(PROXIES)
ALONE = sorted(name for name in PROXIES if not PROXIES[name].voters)
VOTES = sorted(set(EVERY) - set(ALONE))


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Conv2d(4, 3, 1),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(48, 5),
    ).to(DOUBLE)


def batch(size: int = 6, seed: int = 1) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 2, 6, 6, generator=draw, dtype=DOUBLE)
    return images, torch.randint(5, (size,), generator=draw)


def run(model: nn.Sequential, images: Tensor, weights: dict[str, Tensor] | None = None) -> list[Tensor]:
    """Run by hand with the statistics of the batch: the outputs of the layers with weights, the logits last."""
    own = dict(model.named_parameters()) if weights is None else weights
    first = F.conv2d(images, own["0.weight"])
    mean, var = first.mean((0, 2, 3), keepdim=True), first.var((0, 2, 3), correction=0, keepdim=True)
    x = ((first - mean) / (var + model[1].eps).sqrt()).tanh()
    second = F.conv2d(x, own["3.weight"], own["3.bias"])
    return [first, second, F.linear(second.flatten(1), own["6.weight"], own["6.bias"])]


def loss(model: nn.Sequential, data: tuple[Tensor, Tensor], weights: dict[str, Tensor]) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(run(model, data[0], weights)[-1], data[1]))


def slope(
    model: nn.Sequential, data: tuple[Tensor, Tensor], name: str, at: dict[str, Tensor], step: float = 1e-5
) -> Tensor:
    """Gradient of the mean loss in one weight by central differences."""
    found = []
    for place in range(at[name].numel()):
        ends = []
        for sign in (1, -1):
            moved = at[name].clone()
            moved.view(-1)[place] += sign * step
            ends.append(loss(model, data, {**at, name: moved}))
        found.append((ends[0] - ends[1]) / (2 * step))
    return torch.tensor(found, dtype=DOUBLE).view_as(at[name])


@pytest.fixture(scope="module")
def slopes() -> tuple[nn.Sequential, tuple[Tensor, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """A network, a batch, its parameters, and the slopes in its weights."""
    model, data = net(), batch()
    at = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return (
        model,
        data,
        at,
        {name: slope(model, data, name, at) for name in ("0.weight", "3.weight", "6.weight")},
    )


# --- What each of them is ------------------------------------------------------------------------------------


def test_what_is_made_of_gradients_is_what_slopes_say(slopes):
    model, data, at, gradient = slopes
    close = {"rel": 1e-7}
    products = [at[name] * slope for name, slope in gradient.items()]
    assert score(model, "snip", data) == pytest.approx(sum(float(p.abs().sum()) for p in products), **close)
    assert score(model, "plain", data) == pytest.approx(sum(float(p.sum()) for p in products), **close)
    lengths = [float(slope.square().sum()) ** 0.5 for slope in gradient.values()]
    assert score(model, "grad_norm", data) == pytest.approx(sum(lengths), **close)


def test_grasp_is_how_the_gradient_changes_along_itself(slopes):
    model, data, at, gradient = slopes
    step = 1e-4
    ends = [{**at, **{name: at[name] + sign * step * g for name, g in gradient.items()}} for sign in (1, -1)]
    expected = 0.0
    for name in gradient:
        above, below = (slope(model, data, name, end) for end in ends)
        expected -= float((at[name] * (above - below) / (2 * step)).sum())
    assert score(model, "grasp", data) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow"])
def test_those_that_are_criteria_are_sums_of_them(criterion):
    model, data = net(), batch()
    own = PROXIES[criterion].options
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    found = measured(criterion, model, weights, [data], example_inputs=data[0][:1], **own)
    scores = weigh(criterion, weights, measured=found, **own)
    sign = -1 if criterion == "grasp" else 1
    expected = sum(float(each.sum()) for each in scores.values())
    assert sign * score(model, criterion, data) == pytest.approx(expected, rel=1e-12)
    assert CRITERIA[criterion].moment == "before"


def test_fisher_is_a_sum_over_samples_and_channels():
    model, (images, labels) = net(), batch()
    model.requires_grad_(False)
    outputs = [output.detach() for output in run(model, images)]
    expected = 0.0
    rest = (
        lambda first: run_from_first(model, first),
        lambda second: F.linear(second.flatten(1), model[6].weight, model[6].bias),
        lambda logits: logits,
    )
    for output, onward in zip(outputs, rest, strict=True):
        leaf = output.requires_grad_(True)
        total = F.cross_entropy(onward(leaf), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(total, leaf)
        for channel in range(output.shape[1]):
            squares = [
                (output[n, channel] * gradient[n, channel]).sum().item() ** 2 for n in range(len(images))
            ]
            expected += sum(squares) / len(squares) / 2
    assert score(model, "fisher", (images, labels)) == pytest.approx(expected, rel=1e-10)


def run_from_first(model: nn.Sequential, first: Tensor) -> Tensor:
    mean, var = first.mean((0, 2, 3), keepdim=True), first.var((0, 2, 3), correction=0, keepdim=True)
    x = ((first - mean) / (var + model[1].eps).sqrt()).tanh()
    return F.linear(F.conv2d(x, model[3].weight, model[3].bias).flatten(1), model[6].weight, model[6].bias)


@pytest.mark.parametrize("tokens", [1, 3])
def test_fisher_of_linear_layers_counts_each_feature_over_all_tokens(tokens):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * tokens, 2)).to(DOUBLE)
    x, y = torch.randn(5, tokens, 4, dtype=DOUBLE), torch.tensor([0, 1, 1, 0, 1])
    expected = 0.0
    for n in range(5):
        hidden = model[0](x[n : n + 1]).detach().requires_grad_(True)
        logits = model[3](model[2](hidden.tanh()))
        by_hidden, by_logits = torch.autograd.grad(F.cross_entropy(logits, y[n : n + 1]), [hidden, logits])
        effects = [*(hidden * by_hidden)[0].sum(0), *(logits * by_logits)[0]]
        expected += sum(effect.item() ** 2 for effect in effects) / 5 / 2
    assert score(model, "fisher", (x, y)) == pytest.approx(expected, rel=1e-10)


def test_fisher_of_a_layer_used_twice_adds_what_both_uses_do():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.fc(x).tanh())  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = Twice().to(DOUBLE)
    x, y = torch.randn(4, 3, dtype=DOUBLE), torch.tensor([0, 1, 2, 0])
    first = (x @ model.fc.weight.T).detach().requires_grad_(True)
    second = first.tanh() @ model.fc.weight.T
    one, two = torch.autograd.grad(F.cross_entropy(second, y, reduction="sum"), [first, second])
    expected = (first * one + second * two).square().mean(0).sum().item() / 2
    assert score(model, "fisher", (x, y)) == pytest.approx(expected, rel=1e-10)


def test_jacob_cov_by_examples_one_by_one():
    model, (images, labels) = net(), batch()
    rows = []
    for n in range(len(images)):  # a network without batch statistics: the running ones
        x = images[n : n + 1].clone().requires_grad_(True)
        rows.append(torch.autograd.grad(copy.deepcopy(model).eval()(x).sum(), x)[0].flatten().tolist())
    v = np.linalg.eigvals(np.corrcoef(np.array(rows))).real
    expected = -np.sum(np.log(v + 1e-5) + 1 / (v + 1e-5))
    assert score(model, "jacob_cov", (images, None), batch_norm="eval") == pytest.approx(expected, rel=1e-6)
    x = images.clone().requires_grad_(True)
    grad = torch.autograd.grad(run(model, x)[-1].sum(), x)[0].flatten(1).numpy()
    v = np.linalg.eigvals(np.corrcoef(grad)).real
    expected = -np.sum(np.log(v + 1e-5) + 1 / (v + 1e-5))
    assert score(model, "jacob_cov", (images, labels)) == pytest.approx(expected, rel=1e-6)


def test_jacob_cov_is_highest_where_samples_are_unlike():
    class Gates(nn.Module):
        """Gradients by the inputs are rows of a matrix: one for each sample."""

        def __init__(self, rows: Tensor) -> None:
            super().__init__()
            self.weight = nn.Parameter(rows)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight

    x = torch.zeros(4, 64, dtype=DOUBLE)
    torch.manual_seed(0)
    free = torch.randn(4, 64, dtype=DOUBLE)
    alike = free[:1] + 0.01 * free
    assert score(Gates(free), "jacob_cov", (x, None)) > score(Gates(alike), "jacob_cov", (x, None))
    found = score(Gates(torch.eye(4, 64, dtype=DOUBLE)), "jacob_cov", (x, None))
    assert found == pytest.approx(-4, abs=0.05)  # eigenvalues of about 1: −Σ (log 1 + 1/1)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_synflow_of_a_chain_in_closed_form(depth):
    torch.manual_seed(0)
    widths = [5, 7, 4, 6, 3][: depth + 1]
    layers = [nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)]
    model = nn.Sequential(*itertools.chain(*((layer, nn.ReLU()) for layer in layers)))
    flow = torch.ones(widths[0], dtype=DOUBLE)
    for layer in layers:
        flow = layer.weight.detach().double().abs() @ flow
    # each layer's scores add up to all that flows
    assert score(model, "synflow", (torch.randn(3, 5), None)) == pytest.approx(
        depth * float(flow.sum()), rel=1e-12
    )


def test_synflow_looks_at_no_values_no_labels_and_no_normalisation():
    model, (images, labels) = net(), batch()
    first = score(model, "synflow", (images, labels))
    with torch.no_grad():
        model[1].running_mean.uniform_(-1, 1)
        model[1].running_var.uniform_(1, 2)
        model[1].weight.uniform_(1, 2)
        model[0].weight.neg_()
    assert score(model, "synflow", (images[:2] * 100, None)) == first


def test_synflow_of_deep_networks_is_finite():
    torch.manual_seed(0)
    deep = nn.Sequential(*(nn.Linear(400, 400, bias=False) for _ in range(40)))
    found = score(deep, "synflow", (torch.ones(1, 400), None))
    assert 1e38 < found < float("inf")


def test_grasp_may_look_at_weights_drawn_anew():
    model, data = net(), batch()
    redrawn = score(model, "grasp", data, redraw=True, seed=3)
    found = measured(
        "grasp", model, {"6.weight": model.get_parameter("6.weight")}, [data], seed=3, redraw=True
    )["scored_weight"]
    with torch.no_grad():
        model[6].weight.copy_(found["6.weight"])
    assert score(model, "grasp", data) == pytest.approx(redrawn, rel=1e-12)


# --- What all of them promise --------------------------------------------------------------------------------


def state(model: nn.Module) -> list[Any]:
    return [
        *(tensor.clone() for tensor in model.state_dict().values()),
        *(parameter.grad.clone() for parameter in model.parameters()),
        *(torch.tensor(p.requires_grad) for p in model.parameters()),
        *(torch.tensor(module.training) for module in model.modules()),
        *(torch.tensor(len(module._forward_hooks)) for module in model.modules()),
        torch.get_rng_state(),
        torch.tensor(np.random.get_state()[1].astype(np.int64)),  # noqa: NPY002
        torch.tensor(random.getstate()[1][:-1]),
    ]


@pytest.mark.parametrize("name", ALONE)
def test_the_network_and_the_generators_are_left_as_they_were(name):
    model, data = net(), batch()
    model.train()
    model[4].eval()
    model[3].weight.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = state(model)
    score(model, name, data)
    assert all(torch.equal(a, b) for a, b in zip(before, state(model), strict=True))
    assert data[0].grad is None
    assert not data[0].requires_grad


class Noisy(nn.Module):
    """Draws in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(72, 5, dtype=DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1) * torch.rand(72, dtype=DOUBLE)).tanh()  # type: ignore[no-any-return]


@pytest.mark.parametrize("model", [net(), Noisy()], ids=["net", "noisy"])
@pytest.mark.parametrize("name", ALONE)
def test_the_same_score_twice(name, model):
    data = batch()
    first = score(model, name, data)
    torch.rand(3)
    model.eval()
    assert score(model, name, data) == first


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes(name, dtype):
    model, (images, labels) = net().to(dtype), batch()
    found = score(model, name, (images.to(dtype), labels))
    assert found == pytest.approx(score(net(), name, batch()), rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_every_proxy_tells_what_it_is(name):
    proxy = PROXIES[name]
    assert proxy.summary.endswith((".", ")"))
    assert proxy.paper
    assert proxy.needs
    assert proxy.needs_data is (name != "synflow")


@pytest.mark.parametrize("name", EVERY)
def test_every_proxy_ranks_a_list(name):
    rows = rank(NETWORKS, [name], batch(), seed=3)
    assert [row.name for row in rows] == [network for network, _ in NETWORKS]
    assert all(name in row.scores and row.seconds[name] > 0 and not row.reasons for row in rows)
    assert len({row.scores[name] for row in rows}) > 1


def wide(width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(72, width), nn.Tanh(), nn.Linear(width, 5)).to(DOUBLE)


NETWORKS = [(f"wide {width}", lambda width=width: wide(width)) for width in (3, 8, 21)]


# --- Lists ---------------------------------------------------------------------------------------------------


def test_rows_are_the_scores_of_networks_built_by_the_seed():
    rows = rank(NETWORKS, ALONE, batch(), seed=7)
    torch.manual_seed(5)
    again = rank(NETWORKS[1:2], ALONE, batch(), seed=7)
    assert again[0].scores == rows[1].scores
    assert rank(NETWORKS, ["snip"], batch(), seed=8)[0].scores != {"snip": rows[0].scores["snip"]}
    model = wide(8)
    built = [("ready", lambda: model)]
    for name in ALONE:
        assert rank(built, [name], batch())[0].scores == {name: score(model, name, batch())}


def test_building_draws_nothing_of_others():
    before = torch.get_rng_state()
    rank(NETWORKS, ["synflow"], batch())
    assert torch.equal(before, torch.get_rng_state())


def test_networks_come_and_go_one_by_one():
    alive: list[Any] = []

    def build() -> nn.Module:
        import gc
        import weakref

        gc.collect()
        assert sum(each() is not None for each in alive) == 0
        model = wide(4)
        alive.append(weakref.ref(model))
        return model

    rows = stream(((f"{n}", build) for n in range(4)), ALONE, batch())
    assert not alive  # nothing is built before it is asked for
    assert [row.name for row in rows] == ["0", "1", "2", "3"]
    assert len(alive) == 4


def broken() -> nn.Module:
    raise ModelError("It is not there.")


def strange() -> nn.Module:
    raise KeyError("no key")


def dead() -> nn.Module:
    model = wide(3)
    with torch.no_grad():
        model[1].weight.zero_()
    return model


def exploding() -> nn.Module:
    model = wide(3)
    with torch.no_grad():
        model[1].weight.fill_(1e308)
        model[3].weight.fill_(1e308)
    return model


class Functional(nn.Module):
    """Its weight belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight_1 = nn.Parameter(torch.randn(5, 72, dtype=DOUBLE))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), self.weight_1)


def undefined() -> nn.Module:
    model = wide(3)
    with torch.no_grad():
        model[1].weight.fill_(float("nan"))
    return model


@pytest.mark.parametrize(
    ("build", "proxy", "says"),
    [
        (broken, "snip", "It is not there."),
        (strange, "snip", "no key"),
        (lambda: nn.Sequential(nn.Flatten(), nn.ReLU()), "snip", "no weights"),
        (lambda: nn.Flatten(), "synflow", "no weights"),
        (lambda: nn.BatchNorm2d(2), "snip", "no weights"),
        (undefined, "plain", "NaN"),
        (exploding, "synflow", "no finite number"),
        (exploding, "snip", "NaN or infinity"),
        (dead, "jacob_cov", "no finite number"),
        (Functional, "fisher", "No layer of Functional"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(71, 5).to(DOUBLE)), "fisher", "shape"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(71, 5).to(DOUBLE)), "jacob_cov", "shape"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 2).to(DOUBLE)), "grasp", "out of bounds"),
    ],
)
def test_what_cannot_be_had_is_a_reason_in_the_row(build, proxy, says):
    rows = rank([NETWORKS[0], ("odd", build), NETWORKS[1]], [proxy, "vote"], batch())
    assert says in rows[1].reasons[proxy]
    assert proxy not in rows[1].scores
    assert "\n" not in rows[1].reasons[proxy]
    assert proxy in rows[0].scores
    if build is not Functional:  # the voters have a score of it
        assert "no score by" in rows[1].reasons["vote"]
        assert {row.scores["vote"] for row in (rows[0], rows[2])} in ({-1.0, 1.0}, {0.0})
    if build not in (broken, strange):
        with pytest.raises((ModelError, InputError)):
            score(build(), proxy, batch())


# --- Votes ---------------------------------------------------------------------------------------------------

SCORES = st.integers(1, 9).flatmap(
    lambda n: st.lists(st.lists(st.integers(-3, 3), min_size=n, max_size=n), min_size=1, max_size=4)
)


@given(SCORES)
def test_a_vote_counts_pairs(scores):
    n = len(scores[0])
    expected = []
    for i in range(n):
        won = 0
        for j in range(n):
            favour = sum((voter[i] > voter[j]) - (voter[i] < voter[j]) for voter in scores)
            won += (favour > 0) - (favour < 0)
        expected.append(won / max(1, n - 1))
    assert preferred(torch.tensor(scores, dtype=DOUBLE)).tolist() == pytest.approx(expected)


@given(st.permutations(range(7)))
def test_voters_of_one_mind_rank_as_they_do(order):
    scores = torch.tensor([order] * 3, dtype=DOUBLE)
    assert preferred(scores).argsort().tolist() == scores[0].argsort().tolist()


def test_long_lists_are_compared_in_parts(monkeypatch):
    torch.manual_seed(0)
    scores, reached = torch.randn(3, 50), torch.randn(50)
    whole = preferred(scores), ordered(scores[0], reached)
    monkeypatch.setattr(proxies.pairs, "PAIR_CHUNK", 7)
    assert torch.equal(preferred(scores), whole[0])
    assert ordered(scores[0], reached) == whole[1]


@pytest.mark.parametrize("name", VOTES)
def test_a_vote_needs_a_list(name):
    with pytest.raises(InputError, match="compares networks"):
        score(net(), name, batch())
    with pytest.raises(InputError, match="compares networks"):
        list(stream(NETWORKS, [name], batch()))
    rows = [NetworkScores("one", dict.fromkeys(PROXIES[name].voters, 1.0))]
    assert voted(rows, [name])[0].scores[name] == 0


# --- Agreement -----------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(0, 5)), min_size=2, max_size=12))
def test_correlations_are_those_of_ranks_and_pairs(pairs):
    rows = [NetworkScores(str(n), {"snip": float(s)}) for n, (s, _) in enumerate(pairs)]
    reached = {str(n): float(a) for n, (_, a) in enumerate(pairs)}
    found = correlations(
        [*rows, NetworkScores("unknown", {"snip": 9.0}), NetworkScores("failed")], {**reached, "failed": 1.0}
    )
    scores, accuracies = zip(*pairs, strict=True)
    if len(set(scores)) == 1 or len(set(accuracies)) == 1:
        assert found["snip"] == {"spearman": None, "kendall": None, "pairs": None, "networks": len(pairs)}
        return
    ranks = [stats.rankdata(each) for each in (scores, accuracies)]
    assert found["snip"]["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-9)
    both = list(itertools.combinations(pairs, 2))
    signs = [np.sign(a[0] - b[0]) * np.sign(a[1] - b[1]) for a, b in both]
    by_score = sum(a[0] != b[0] for a, b in both)
    by_accuracy = sum(a[1] != b[1] for a, b in both)
    assert found["snip"]["kendall"] == pytest.approx(sum(signs) / (by_score * by_accuracy) ** 0.5, abs=1e-9)
    right = sum((s + 1) / 2 for s, (a, b) in zip(signs, both, strict=True) if a[1] != b[1])
    assert found["snip"]["pairs"] == pytest.approx(right / by_accuracy)


def test_accuracies_of_other_networks_are_refused():
    with pytest.raises(InputError, match="no accuracy"):
        correlations([NetworkScores("a", {"snip": 1.0})], {"b": 0.5})


# --- Mistakes ------------------------------------------------------------------------------------------------

IMAGES, LABELS = batch()
BAD = {
    "unknown proxy": (("snipp", (IMAGES, LABELS)), {}, "did you mean snip"),
    "unknown option": (("snip", (IMAGES, LABELS)), {"temperature": 2}, "has no option 'temperature'"),
    "option's value": (("snip", (IMAGES, LABELS)), {"batch_norm": "off"}, "batch_norm"),
    "no labels": (("snip", (IMAGES, None)), {}, "no labels"),
    "no labels, fisher": (("fisher", (IMAGES, None)), {}, "no labels"),
    "too few labels": (("snip", (IMAGES, LABELS[:-1])), {}, "labels"),
    "labels that are no classes": (("snip", (IMAGES, LABELS.double())), {}, "number of its class"),
    "labels below 0": (("grad_norm", (IMAGES, LABELS - 9)), {}, "from 0 on"),
    "labels above": (("grasp", (IMAGES, LABELS + 5)), {}, "labels that fit"),
    "NaN": (("jacob_cov", (IMAGES * float("nan"), LABELS)), {}, "NaN"),
    "infinity": (("synflow", (IMAGES / 0, LABELS)), {}, "infinity"),
    "no sample": (("plain", (IMAGES[:0], LABELS[:0])), {}, "no sample"),
    "one sample": (("jacob_cov", (IMAGES[:1], LABELS[:1])), {}, "two or more"),
    "no batch": (("plain", IMAGES), {}, "pair"),
    "other inputs": (("jacob_cov", (IMAGES[:, :1], LABELS)), {}, "shape"),
    "tokens": (("jacob_cov", (LABELS, LABELS)), {}, "no gradient by these inputs"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_mistake_gets_one_sentence(mistake):
    words, options, says = BAD[mistake]
    with pytest.raises(InputError, match=says) as caught:
        score(net(), *words, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mistake", ["unknown proxy", "too few labels", "NaN", "no sample", "unknown option"])
def test_lists_refuse_what_no_network_can_be_scored_by(mistake):
    (proxy, data), options, says = BAD[mistake]
    with pytest.raises(InputError, match=says):
        rank(NETWORKS, [proxy], data, **options)


def test_what_is_no_network():
    with pytest.raises((ModelError, InputError)):
        score("resnet20", "snip", batch())


def test_another_proxy_is_one_function(monkeypatch):
    monkeypatch.setattr(PROXIES, "_items", dict(PROXIES))

    @proxies.proxy("size", paper="ours")
    def size(weight: Tensor) -> Tensor:
        """Number of weights."""
        return torch.tensor(float(weight.numel()))

    assert score(net(), "size", batch()) == 4 * 2 * 9 + 3 * 4 + 5 * 48

    @proxies.proxy("channels", paper="ours")
    def channels(scored_weight: Tensor, unit_effect: Tensor) -> Tensor:
        """Number of channels of layers that give out tensors."""
        return torch.tensor(float(unit_effect.shape[1]))

    model = nn.Sequential(Functional(), nn.Linear(5, 4, dtype=DOUBLE))
    assert score(model, "channels", (batch()[0], torch.zeros(6, dtype=torch.int64))) == 4
