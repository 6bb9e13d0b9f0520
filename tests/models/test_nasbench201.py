"""NAS-Bench-201: cells read, written and counted, and the networks built from them."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import secateur
from secateur import models
from secateur.core.errors import InputError
from secateur.models import nasbench201
from secateur.models.nasbench201 import CELLS, OPERATIONS, USUAL, CellModule, draw, numbered, parse, written

NAMES = list(OPERATIONS)
CELL = st.lists(st.sampled_from(NAMES), min_size=6, max_size=6).map(
    lambda names: (tuple(names[:1]), tuple(names[1:3]), tuple(names[3:]))
)


def as_tuples(cell: nasbench201.CellOperations) -> str:
    """Write a cell as files of accuracies do."""
    return str([tuple((name, source) for source, name in enumerate(node)) for node in cell])


def parameters(cell: nasbench201.CellOperations, classes: int = 10) -> int:
    """Count from the description in the paper: convolutions without biases, a scale and a shift for each channel."""
    kernel = {"nor_conv_1x1": 1, "nor_conv_3x3": 9}
    names = list(itertools.chain(*cell))
    inside = sum(5 * (kernel[n] * c * c + 2 * c) for n in names if n in kernel for c in (16, 32, 64))
    between = sum(9 * c * 2 * c + 9 * 2 * c * 2 * c + 4 * 2 * c + 2 * c * c for c in (16, 32))
    return 3 * 16 * 9 + 2 * 16 + inside + between + 2 * 64 + 64 * classes + classes


@given(CELL)
def test_both_ways_of_writing_are_read_as_the_same_cell(cell):
    assert parse(written(cell)) == parse(as_tuples(cell)) == cell


def test_every_cell_has_one_number():
    assert len({numbered(number) for number in range(CELLS)}) == CELLS == 15625


@pytest.mark.parametrize(
    ("arch", "millions"),
    [  # as the benchmark's own records have them
        ("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", 0.073306),
        (
            "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|",
            1.531546,
        ),
        (USUAL, 1.073466),
    ],
)
def test_parameters_of_known_cells(arch, millions):
    with torch.device("meta"):
        assert sum(p.numel() for p in models.build("nasbench201", arch=arch).parameters()) == millions * 1e6


@settings(deadline=None, max_examples=20)
@given(CELL, st.integers(1, 120))
def test_parameters_of_any_cell(cell, classes):
    with torch.device("meta"):
        model = models.build("nasbench201", num_classes=classes, arch=written(cell))
        assert sum(p.numel() for p in model.parameters()) == parameters(cell, classes)
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, classes)


def test_a_cell_computes_what_its_string_says():
    torch.manual_seed(0)
    module = CellModule(
        parse("|nor_conv_1x1~0|+|skip_connect~0|avg_pool_3x3~1|+|none~0|nor_conv_3x3~1|skip_connect~2|"), 4
    ).double()
    x = torch.randn(3, 4, 6, 5, dtype=torch.float64)

    def convolution(features, weight):
        made = F.conv2d(features.clamp(min=0), weight, padding=weight.shape[-1] // 2)
        mean, var = made.mean((0, 2, 3), keepdim=True), made.var((0, 2, 3), correction=0, keepdim=True)
        return (made - mean) / (var + 1e-5).sqrt()

    def pooled(features):
        ones = F.unfold(torch.ones_like(features), 3, padding=1).view(3, 4, 9, 6, 5)
        return F.unfold(features, 3, padding=1).view(3, 4, 9, 6, 5).sum(2) / ones.sum(2)

    weights = [parameter for parameter in module.parameters() if parameter.ndim == 4]
    one = convolution(x, weights[0])
    two = x + pooled(one)
    torch.testing.assert_close(module(x), convolution(one, weights[1]) + two)


def test_a_cell_that_lets_nothing_through_answers_the_same_to_all():
    model = models.build("nasbench201", arch=written(numbered(0)), channels=4, cells=1).eval()
    first, second = model(torch.randn(2, 3, 16, 16))
    assert torch.equal(first, second)


def test_edges_out_of_an_empty_node_still_have_their_layers():
    arch = "|none~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|"
    model = models.build("nasbench201", arch=arch, channels=4, cells=1)
    assert model(torch.randn(2, 3, 8, 8)).isfinite().all()
    assert sum(p.numel() for p in model.stages[0].parameters()) == 9 * 16 + 8


@pytest.mark.parametrize("initial", ["kaiming", "torch"])
def test_where_weights_start(initial):
    torch.manual_seed(0)
    model = models.build("nasbench201", initial=initial)
    weight = max((p for p in model.parameters() if p.ndim == 4), key=lambda p: p.numel())
    fan = weight[0].numel()
    expected = (2 / (9 * 64)) ** 0.5 if initial == "kaiming" else 1 / (3 * fan) ** 0.5
    assert float(weight.detach().std()) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    "arch",
    [
        "",
        "[",
        "[1]",
        "[[]]",
        "[('none', 0)]",
        "__import__('os').getcwd()",
        "[__import__('os')]",
        "|none~0|+|none~0|none~1|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~1|",
        "|none~0|+|none~0|none~x|+|none~0|none~1|none~2|",
        "[" * 3000,
        None,
        ["none"],
    ],
)
def test_what_is_no_cell_is_refused_in_one_sentence(arch):
    with pytest.raises(InputError, match=r"write it as '\|") as caught:
        parse(arch)
    assert "\n" not in str(caught.value)


def test_other_words_are_refused():
    with pytest.raises(InputError, match="did you mean nor_conv_3x3"):
        parse(USUAL.replace("nor_conv_3x3~0|+", "nor_conv_5x5~0|+", 1))
    with pytest.raises(InputError, match="kaiming or torch"):
        models.build("nasbench201", initial="xavier")


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**40))
def test_draws_are_different_cells_and_begin_alike(few, many, seed):
    first, longer = sorted((draw(few, seed), draw(many, seed)), key=len)
    assert longer[: len(first)] == first
    assert len(set(longer)) == len(longer)


def test_draws_follow_the_seed():
    assert draw(50, 1) != draw(50, 2)
    assert sorted(draw(CELLS)) == sorted(map(numbered, range(CELLS)))
    for count in (0, -1, CELLS + 1):
        with pytest.raises(InputError, match="15,625"):
            draw(count)


def test_its_channels_can_be_cut():
    torch.manual_seed(0)
    model = models.build("nasbench201", channels=8, cells=1)
    cut = secateur.prune(model, torch.randn(2, 3, 16, 16), granularity="channel", amount=0.5)
    assert cut.verification.error < 1e-9
    assert cut.parameters[1] < 0.4 * cut.parameters[0]


def best_of_all_cells(file: Path) -> str:
    """Return the most accurate cell of a file of accuracies, which must name every cell once."""
    accuracies = {parse(key): reached for key, reached in json.loads(file.read_text()).items()}
    assert set(accuracies) == {numbered(number) for number in range(CELLS)}
    return written(max(accuracies, key=accuracies.__getitem__))


def test_a_file_of_accuracies_names_every_cell(tmp_path):
    cells = [numbered(number) for number in range(CELLS)]
    made_up = {as_tuples(cell): 10 + 80 * (written(cell) == USUAL) for cell in cells}
    (tmp_path / "accuracy.json").write_text(json.dumps(made_up))
    assert best_of_all_cells(tmp_path / "accuracy.json") == USUAL


@pytest.mark.needs_data("nasbench201/cifar10_accuracy.json")
def test_the_published_accuracies_name_every_cell():
    assert best_of_all_cells(Path(os.environ["SECATEUR_DATA"]) / "nasbench201/cifar10_accuracy.json") == USUAL
