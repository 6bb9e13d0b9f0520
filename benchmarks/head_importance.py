"""Heads of a small text encoder fine-tuned on SST-2: which matter, how accuracy goes with them, is it the data's say?

MiniLM (6 layers of 12 heads; --model is the folder of its weights and tokenizer) is fine-tuned on a part of SST-2,
expected in DATA_ROOT/sst2, and tested on its 872 development sentences. Heads are masked one after the other, least
important first and, for comparison, most important first and at random, and with the importance measured again after
every twelve. Rankings are compared between the forms of the criterion, between samples of SST-2, and with sentences of
WikiText-2 (DATA_ROOT/text/wikitext2/valid.txt), which are labelled with what the model makes of them.

    python benchmarks/head_importance.py --model DIR --data-root DIR [--keep FILE] [--threads 1]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from harness import parser, record
from secateur import Calibration, analyze, build, evaluate, load, load_data, save, train
from secateur.core.tables import PERCENT, Column, Format, Table
from secateur.data import Dataset
from secateur.graph.groups import Groups
from secateur.importance import unit_scores

LENGTH = 32
TRAIN: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 32,
    "optimizer": "adamw",
    "lr": 5e-5,
    "weight_decay": 0.01,
    "warmup": "6%",
    "seed": 0,
}
SENTENCES = 6400
CALIBRATION = 320
EXACT = 64
"""Sentences for the loss without each head."""
POINTS = (18, 36, 54)
RATIO = Format(lambda value: f"{value:.2f}")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", required=True, help="folder of the encoder")
    options.add_argument("--keep", help="file to keep the fine-tuned weights in, for a repeated call")
    given = options.parse_args()
    torch.set_num_threads(given.threads or 1)
    torch.manual_seed(0)
    data = load_data(
        f"table:{given.data_root}/sst2", tokenizer=given.model, max_length=LENGTH, download=False
    )
    part = data.subset(train=SENTENCES + 2 * CALIBRATION, seed=0)
    ids = torch.arange(len(part.train.labels)).split([SENTENCES, CALIBRATION, CALIBRATION])
    model = tuned(given, part, ids[0])
    groups = analyze(model, {key: value[:2] for key, value in batches(part, ids[1])[0][0].items()})
    samples = {
        "one": Calibration(batches(part, ids[1])),
        "other": Calibration(batches(part, ids[2])),
        "wiki": Calibration(sentences(given, model)),
    }

    def scored(sample: str, criterion: str = "head_importance", **choices: Any) -> Tensor:
        data = Calibration(batches(part, ids[1][:EXACT])) if criterion == "head_loss" else samples[sample]
        return importance(model, groups, data, criterion, **choices)

    base = scored("one")
    result: dict[str, Any] = {"importance": base.tolist(), "dense": evaluate(model, part)["top1"]}
    result["curves"] = {
        "least important first": curve(model, groups, part, base.flatten().argsort()),
        "most important first": curve(model, groups, part, base.flatten().argsort(descending=True)),
        "at random": curve(
            model, groups, part, torch.randperm(base.numel(), generator=torch.Generator().manual_seed(0))
        ),
        "least first, measured again": measured_again(model, groups, part, samples["one"]),
    }
    keep(result)
    others = {
        f"other {CALIBRATION} sentences of SST-2": scored("other"),
        f"{CALIBRATION} sentences of WikiText-2": scored("wiki"),
        "form token": scored("one", form="token"),
        "form batch, of 32": scored("one", form="batch"),
        f"loss without each head, {EXACT} sentences": scored("one", "head_loss", normalization="none"),
    }
    result["agreement"] = {name: spearman(base, other) for name, other in others.items()}
    keep(result)


def tuned(given: Any, data: Dataset, ids: Tensor) -> nn.Module:
    if given.keep and Path(given.keep).exists():
        return load(given.keep).eval()
    model = build(f"hf:{given.model}", num_classes=2)
    train(model, replace(data, train=data.train.select(ids)), **TRAIN)
    if given.keep:
        save(model, given.keep)
    return model.eval()


def batches(data: Dataset, ids: Tensor) -> list[tuple[Any, Tensor]]:
    parts = [data.train.select(each) for each in ids.split(32)]
    return [(data.normalised(part.inputs), part.labels) for part in parts]


@torch.no_grad()
def sentences(given: Any, model: nn.Module) -> list[tuple[Any, Tensor]]:
    text = (Path(given.data_root) / "text/wikitext2/valid.txt").read_text(encoding="utf-8")
    found = [
        each.strip()
        for each in re.split(r" \. |\n", text)
        if 5 <= len(each.split()) <= 24 and "=" not in each
    ]
    tokenizer = AutoTokenizer.from_pretrained(given.model, local_files_only=True)
    made = []
    for start in range(0, CALIBRATION, 32):
        inputs = dict(
            tokenizer(
                found[start : start + 32],
                truncation=True, max_length=LENGTH, padding="max_length", return_tensors="pt",
            )
        )  # fmt: skip
        made.append((inputs, model(**inputs).logits.argmax(1)))
    return made


def importance(
    model: nn.Module, groups: Groups, data: Calibration, criterion: str = "head_importance", **choices: Any
) -> Tensor:
    """[layers, heads]."""
    heads = [group for group in groups.free if group.heads]
    found = unit_scores(
        model, heads, criterion, coupling=groups.coupling, data=data, **{"normalization": "l2", **choices}
    )
    return torch.stack(list(found.values()))


def mask(model: Any, heads: Sequence[int]) -> None:
    """Set the columns to zero that read these heads, numbered through all layers."""
    layers = model.bert.encoder.layer
    width = model.config.hidden_size // model.config.num_attention_heads
    for head in heads:
        layer, at = divmod(int(head), model.config.num_attention_heads)
        with torch.no_grad():
            layers[layer].attention.output.dense.weight[:, at * width : (at + 1) * width] = 0


def curve(model: nn.Module, groups: Groups, data: Dataset, order: Tensor) -> dict[int, float]:
    """Top-1 with so many heads masked."""
    found, state = {}, {key: value.clone() for key, value in model.state_dict().items()}
    for count in POINTS:
        mask(model, order[:count].tolist())
        found[count] = evaluate(model, data)["top1"]
    model.load_state_dict(state)
    return found


def measured_again(model: nn.Module, groups: Groups, data: Dataset, sample: Calibration) -> dict[int, float]:
    """Top-1 with the least important heads masked, their importance measured on what is left each time."""
    found, gone, state = {}, list[int](), {key: value.clone() for key, value in model.state_dict().items()}
    for count in POINTS:
        scores = importance(model, groups, sample).flatten()
        scores[gone] = -torch.inf
        gone = scores.argsort()[:count].tolist()
        mask(model, gone)
        found[count] = evaluate(model, data)["top1"]
    model.load_state_dict(state)
    return found


def spearman(one: Tensor, other: Tensor) -> float:
    ranks = torch.stack([each.flatten().argsort().argsort().double() for each in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


def keep(result: dict[str, Any]) -> None:
    shown = [
        Column("order", "Heads masked"),
        *(Column(str(count), f"{count} of 72", PERCENT) for count in POINTS),
    ]
    rows = [
        {"order": name, **{str(count): top1 for count, top1 in found.items()}}
        for name, found in result["curves"].items()
    ]
    record(
        "head_importance",
        result,
        table=Table(shown, rows),
        command="python benchmarks/head_importance.py",
        data=f"SST-2: {SENTENCES} training sentences, cut after {LENGTH} tokens; tested on all 872 of dev",
        calibration=CALIBRATION,
        settings=TRAIN,
    )
    if "agreement" in result:
        pairs = [{"with": name, "rho": value} for name, value in result["agreement"].items()]
        record(
            "head_importance_agreement",
            result["agreement"],
            table=Table(
                [Column("with", "Ranking compared with"), Column("rho", "Spearman's ρ", RATIO)], pairs
            ),
            command="python benchmarks/head_importance.py",
            seed=0,
        )


if __name__ == "__main__":
    main()
