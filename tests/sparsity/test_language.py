"""Of a language model only the matrices of its layers are cut by default, as in the papers on pruning them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import secateur
from secateur.core.errors import InputError
from secateur.sparsity.language import outputs
from secateur.sparsity.targets import prunable

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}
FAMILIES: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "llama": ("LlamaForCausalLM", {**SMALL, "num_key_value_heads": 2}, "model.layers.", "lm_head.weight"),
    "llama tied": ("LlamaForCausalLM", {**SMALL, "tie_word_embeddings": True}, "model.layers.", ""),
    "qwen": ("Qwen2ForCausalLM", {**SMALL, "num_key_value_heads": 2}, "model.layers.", "lm_head.weight"),
    "gpt2": ("GPT2LMHeadModel", {"vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2}, "transformer.h.", ""),
    "bert": ("BertForSequenceClassification", SMALL, "bert.encoder.layer.", "classifier.weight"),
    "t5": (
        "T5ForConditionalGeneration",
        {"vocab_size": 50, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 4},
        "",
        "",
    ),
}  # fmt: skip


def language_model(family: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    name, config, _, _ = FAMILIES[family]
    cls = getattr(transformers, name)
    torch.manual_seed(0)
    model: nn.Module = cls(cls.config_class(**config))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_layers_are_cut(family: str) -> None:
    model, (_, _, layers, output) = language_model(family), FAMILIES[family]
    cut = secateur.prune(model, granularity="2:4")
    assert list(cut.masks)
    assert all(
        name.startswith(layers) and (".layer" in name or ".h." in name or ".block." in name)
        for name in cut.masks
    )
    stacked = [
        each
        for each in dict(model.named_parameters())
        if each.endswith(".weight") and each.startswith(layers)
    ]
    assert len(cut.masks) >= len(stacked) / 2
    if output:
        assert output not in cut.masks
        assert "outside a language model's layers" in cut.skipped[output]
        assert output in secateur.prune(model, granularity="2:4", include=["weights", "outputs"]).masks
        assert output in prunable(model, include="all")
        assert output in prunable(model, layers=output.removesuffix(".weight"))
        assert output not in prunable(model, layers="*")
        assert output not in secateur.prune(model, amount={"*": 0.5}).masks
        assert output in secateur.prune(model, amount={"*": 0.5, output: 0.25}).masks


class Mine(nn.Module):
    """A language model of plain torch, with an output layer of its own."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.table, self.body, self.out = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20)
        if tied:
            self.out.weight = self.table.weight


def test_a_layer_with_the_shape_of_a_table_is_an_output_layer() -> None:
    assert list(prunable(Mine())) == ["body.weight"]
    assert list(prunable(Mine(), layers="out")) == ["out.weight"]
    assert list(prunable(Mine(tied=True))) == ["body.weight"]
    assert set(prunable(Mine(), include=["weights", "outputs"])) == {"body.weight", "out.weight"}
    with pytest.raises(InputError, match="no role 'output'"):
        prunable(Mine(), include="output")


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(8, 20), nn.Linear(20, 8)),
        nn.ModuleDict(
            {"classes": nn.Embedding(10, 4), "out": nn.Linear(16, 10)}
        ),  # another width: no output of it
        nn.Transformer(8, 2, 1, 1, 16),
    ],
    ids=["no table", "a table of classes", "no tokens"],
)
def test_other_models_are_cut_as_before(model: nn.Module) -> None:
    assert outputs(model) == set()


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen", "bert"])
def test_only_the_mlps_width_is_one_word(family: str) -> None:
    model = language_model(family)
    ids: dict[str, Any] = {"input_ids": torch.ones(1, 4, dtype=torch.long)}
    word = "intermediate" if family == "bert" else "mlp"
    if family != "bert":
        ids |= {"use_cache": False}
    groups = secateur.analyze(model, ids)
    widths = {name: parameter.shape for name, parameter in model.named_parameters()}
    for layers in (word, f"*{word}*"):
        small = secateur.prune(model, ids, granularity="channel", amount=0.5, layers=layers)
        cut = [each.name for each in groups.free if small.kept[each.name] < each.units]
        assert len(cut) == 1
        assert word in cut[0]
        assert small.achieved == 0.5
        now = {name: parameter.shape for name, parameter in small.model.named_parameters()}
        assert all(word in name or "output.dense" in name for name in now if now[name] != widths[name])
