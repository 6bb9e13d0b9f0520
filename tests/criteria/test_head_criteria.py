"""Criteria of attention heads against attention written by hand, and heads left out one by one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from attention_by_hand import CLASSES, HEADS, LAYERS, WIDTH, ByHand
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur import Calibration
from secateur.core.errors import InputError, ModelError
from secateur.criteria import CRITERIA
from secateur.importance import unit_scores

EVERY = [name for name in CRITERIA if CRITERIA[name].per in ("attention", "masked")]


def case() -> tuple[ByHand, Tensor, Tensor]:
    torch.manual_seed(0)
    return (
        ByHand().double(),
        torch.randn(7, 5, HEADS * WIDTH, dtype=torch.float64),
        torch.randint(CLASSES, (7,)),
    )


def batches(x: Tensor, y: Tensor, *sizes: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


def scores(model: nn.Module, example: Any, criterion: str, data: Any, **options: Any) -> dict[str, Tensor]:
    groups = secateur.analyze(model, example)
    heads = [group for group in groups.free if group.heads]
    return unit_scores(model, heads, criterion, coupling=groups.coupling, data=data, **options)


def importance_by_hand(model: ByHand, x: Tensor, y: Tensor, form: str, size: int) -> list[list[float]]:
    """Michel et al. (2019), eq. 2, with one derivative at a time."""
    found = [[0.0] * HEADS for _ in range(LAYERS)]
    for start in range(0, len(x), size):
        images, labels = x[start : start + size], y[start : start + size]
        for layer in range(LAYERS):
            for head in range(HEADS):
                logits, seen = model.looked_at(images)
                losses = F.cross_entropy(logits, labels, reduction="none")
                whole = 0.0
                for sample in range(len(images)):
                    (slope,) = torch.autograd.grad(losses[sample], seen[layer][head], retain_graph=True)
                    dots = [
                        float(seen[layer][head][sample, token].detach() @ slope[sample, token].detach())
                        for token in range(x.shape[1])
                    ]
                    whole += sum(dots)
                    if form == "token":
                        found[layer][head] += sum(map(abs, dots)) / len(x)
                    elif form == "example":
                        found[layer][head] += abs(sum(dots)) / len(x)
                if form == "batch":
                    found[layer][head] += abs(whole) / len(images) / math.ceil(len(x) / size)
    return found


@pytest.mark.parametrize("form", ["example", "token", "batch"])
def test_importance_against_derivatives_taken_one_at_a_time(form: str) -> None:
    model, x, y = case()
    found = scores(model, x[:2], "head_importance", batches(x, y, 3, 3, 1), form=form)
    expected = importance_by_hand(model, x, y, form, 3)
    assert len(found) == LAYERS
    for values, by_hand in zip(found.values(), expected, strict=True):
        assert values.tolist() == pytest.approx(by_hand, rel=1e-9)


@pytest.mark.parametrize(("form", "depends"), [("example", False), ("token", False), ("batch", True)])
def test_only_the_form_of_batches_depends_on_their_size(form: str, depends: bool) -> None:
    model, x, y = case()
    one, other = (
        scores(model, x[:2], "head_importance", batches(x, y, *sizes), form=form)
        for sizes in ((7,), (2, 1, 4))
    )
    same = all(torch.allclose(one[name], other[name], rtol=1e-9) for name in one)
    assert same != depends


def test_normalised_to_the_l2_norm_of_each_layer() -> None:
    model, x, y = case()
    found = scores(model, x[:2], "head_importance", batches(x, y, 7), normalization="l2")
    assert [float(values.norm()) for values in found.values()] == pytest.approx([1.0] * LAYERS)


def test_an_unknown_form_is_refused() -> None:
    model, x, y = case()
    with pytest.raises(
        InputError, match=r"There is no form 'word' of head_importance: choose example, token"
    ):
        scores(model, x[:2], "head_importance", batches(x, y, 7), form="word")


def test_the_loss_without_a_head_is_that_of_zeroed_columns() -> None:
    model, x, y = case()
    found = scores(model, x[:2], "head_loss", batches(x, y, 4, 3))
    with torch.no_grad():
        dense = float(F.cross_entropy(model(x), y))
        for layer, values in zip(model.layers, found.values(), strict=True):
            for head in range(HEADS):
                columns = layer["o"].weight[:, head * WIDTH : (head + 1) * WIDTH]  # type: ignore[index]
                kept = columns.clone()
                columns.zero_()
                assert float(values[head]) == pytest.approx(
                    float(F.cross_entropy(model(x), y)) - dense, abs=1e-12
                )
                columns.copy_(kept)


class Torchs(nn.Module):
    """torch's own attention, whichever way round."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.first = batch_first
        self.attention = nn.MultiheadAttention(8, 4, batch_first=batch_first)
        self.classify = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.first else x.transpose(0, 1)
        h, _ = self.attention(h, h, h, need_weights=False)
        return self.classify(h.mean(1 if self.first else 0))


def test_samples_are_told_from_tokens_whichever_comes_first() -> None:
    torch.manual_seed(0)
    one = Torchs(True).double()
    other = Torchs(False).double()
    other.load_state_dict(one.state_dict())
    x, y = torch.randn(5, 5, 8, dtype=torch.float64), torch.randint(2, (5,))
    for form in ("example", "token"):
        for sizes in ((5,), (1, 4), (1,) * 5, (2, 3)):
            data = batches(x, y, *sizes)
            pair = [scores(m, x[:2], "head_importance", data, form=form) for m in (one, other)]
            torch.testing.assert_close(pair[0], pair[1], rtol=1e-9, atol=0)


def vision() -> tuple[nn.Module, Any, Any]:
    import torchvision

    model = torchvision.models.VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=4, hidden_dim=16, mlp_dim=32, num_classes=3
    )
    nn.init.normal_(model.heads.head.weight)  # type: ignore[union-attr, arg-type]
    x = torch.randn(3, 3, 16, 16)
    return model, x, [(x, torch.tensor([0, 1, 2]))]


def vision_of_timm() -> tuple[nn.Module, Any, Any]:
    timm = pytest.importorskip("timm")
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3, embed_dim=48, num_heads=4
    )
    x = torch.randn(3, 3, 32, 32)
    return model, x, [(x, torch.tensor([0, 1, 2]))]


def encoder() -> tuple[nn.Module, Any, Any]:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32,
        initializer_range=0.5,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    ids = torch.randint(50, (3, 7))
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    data = [({"input_ids": ids, "attention_mask": mask}, torch.tensor([0, 1, 1]))]
    return model, {"input_ids": ids[:2, :5], "attention_mask": mask[1:, :5]}, data


def decoder() -> tuple[nn.Module, Any, Any]:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=32, use_cache=False, initializer_range=0.5,
    )  # fmt: skip
    ids = torch.randint(50, (3, 7))
    return (
        transformers.LlamaForCausalLM(config),
        {"input_ids": ids[:1, :5]},
        [({"input_ids": ids, "labels": ids}, None)],
    )


def older_decoder() -> tuple[nn.Module, Any, Any]:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=16, n_layer=2, n_head=4, use_cache=False, initializer_range=0.5
    )
    ids = torch.randint(50, (3, 7))
    return (
        transformers.GPT2LMHeadModel(config),
        {"input_ids": ids[:1, :5]},
        [({"input_ids": ids, "labels": ids}, None)],
    )


@pytest.mark.parametrize("make", [vision, vision_of_timm, encoder, decoder, older_decoder])
@pytest.mark.parametrize("criterion", EVERY)
def test_heads_of_real_architectures(make: Any, criterion: str) -> None:
    torch.manual_seed(0)
    model, example, data = make()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = scores(model, example, criterion, data)
    assert len(found) == 2
    assert {len(values) for values in found.values()} == {2 if make is decoder else 4}
    assert all(values.unique().numel() == len(values) for values in found.values())
    again = scores(model, example, criterion, data)
    assert all(torch.equal(found[name], again[name]) for name in found)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    result = secateur.prune(
        model, example, granularity="head", criterion=criterion, amount=0.5, scope="local", data=data
    )
    assert result.verification is not None
    for name, values in found.items():
        assert result.kept[name] == len(values) // 2


def test_importance_is_the_slope_of_the_loss_as_a_head_fades() -> None:
    torch.manual_seed(0)
    model, example, data = encoder()
    model = model.double().eval()
    ((inputs, labels),) = data
    one = {key: value[:1] for key, value in inputs.items()}, labels[:1]
    found = scores(model, example, "head_importance", [one])
    step = 1e-6
    with torch.no_grad():
        dense = float(F.cross_entropy(model(**one[0]).logits, one[1]))
        for layer, values in zip(model.bert.encoder.layer, found.values(), strict=True):  # type: ignore[union-attr, arg-type]
            for head in range(4):
                columns = layer.attention.output.dense.weight[:, head * 4 : head * 4 + 4]
                columns.mul_(1 - step)
                faded = float(F.cross_entropy(model(**one[0]).logits, one[1]))
                columns.div_(1 - step)
                assert abs(faded - dense) / step == pytest.approx(float(values[head]), rel=1e-3, abs=1e-8)


def test_scoring_twice_runs_once() -> None:
    model, x, y = case()
    runs = []
    model.register_forward_pre_hook(lambda *args: runs.append(1) if not args[1][0].is_meta else None)
    data = Calibration(batches(x, y, 4, 3))
    for criterion in EVERY:
        scores(model, x[:2], criterion, data)
        first = len(runs)
        scores(model, x[:2], criterion, data)
        assert 0 < first == len(runs)
        runs.clear()


@pytest.mark.parametrize("criterion", EVERY)
def test_without_data_or_labels_it_says_so(criterion: str) -> None:
    model, x, y = case()
    with pytest.raises(InputError, match=f"The criterion {criterion} needs .* on some data: pass batches"):
        scores(model, x[:2], criterion, None)
    with pytest.raises(InputError, match="The calibration data gives no loss"):
        scores(model, x[:2], criterion, [(x, None)])
    with pytest.raises(InputError, match="The calibration data gives no loss"):
        scores(model, x[:2], criterion, [(x, y + CLASSES)])


def test_code_without_gradients_is_refused() -> None:
    class Blocked(ByHand):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return super().forward(x)

    _, x, y = case()
    with pytest.raises(ModelError, match="The model's code lets no gradient through"):
        scores(Blocked().double(), x[:2], "head_importance", [(x, y)])
