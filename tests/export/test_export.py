"""Exports compute what the model computes, take any batch where the model does, and appear whole or not at all."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structural_zoo as zoo
import torch
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError, MissingExtraError, ModelError, StoreError
from secateur.export import EXPORT_FORMATS, ExportFormat
from secateur.graph.trace import tensors_of
from secateur.steps import STEPS

SUFFIXES = list(EXPORT_FORMATS)
suffixes = pytest.mark.parametrize("suffix", SUFFIXES)


def small_net() -> tuple[nn.Module, Any]:
    """A smaller model one of whose sizes is a number in its code."""
    case = zoo.CASES["flatten_without_pool"]()
    return cut(case.model, case.inputs), case.inputs


def cut(model: nn.Module, inputs: Any, granularity: str = "channel") -> nn.Module:
    return secateur.prune(
        model, inputs, granularity=granularity, amount=0.5, scope="local", verify=False
    ).model


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- one file ------------------------------------------------------------------------------------------------


def independent(path: Path, inputs: Any) -> list[Tensor]:
    """Run an exported file without any of the package's code, where its format is known here."""
    args = () if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple) else (inputs,)
    kwargs = inputs if isinstance(inputs, dict) else {}
    if path.suffix == ".pt2":
        with torch.no_grad():
            return tensors_of(torch.export.load(path).module()(*args, **kwargs))
    if path.suffix != ".onnx":
        return EXPORT_FORMATS[path.suffix].open(path)(inputs)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path)
    given = kwargs or dict(zip((each.name for each in session.get_inputs()), args, strict=True))
    fed = {name: tensor.numpy() for name, tensor in given.items()}
    return [torch.from_numpy(output) for output in session.run(None, fed)]


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        *itertools.product(["flatten_without_pool", "mha_cross", "keyword_inputs"], SUFFIXES),
        ("two_inputs", ".pt2"),
        ("list_output", ".pt2"),
    ],
)
def test_an_export_computes_what_the_smaller_model_does(tmp_path: Path, suffix: str, name: str) -> None:
    case = zoo.CASES[name]()
    model = cut(case.model, case.inputs)
    before = copy.deepcopy(model.state_dict())
    exported = secateur.export(model, case.inputs, tmp_path / f"small{suffix}")
    with torch.no_grad():
        expected = tensors_of(zoo.run(model, case.inputs))
    for output, aim in zip(independent(exported.path, case.inputs), expected, strict=True):
        assert torch.allclose(output, aim, rtol=1e-4, atol=1e-5)
    assert exported.error <= 1e-4
    assert exported.bytes == exported.path.stat().st_size
    assert exported.batch is None
    assert not exported.note
    assert names(tmp_path) == [f"small{suffix}"]
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@suffixes
def test_any_number_of_samples_may_be_given(tmp_path: Path, suffix: str) -> None:
    model, inputs = small_net()
    path = tmp_path / f"m{suffix}"
    secateur.export(model, inputs[:1], path)  # one sample only, which torch takes for a constant
    for count in (1, 2, 7):
        many = torch.randn(count, *inputs.shape[1:])
        assert torch.allclose(independent(path, many)[0], model(many), rtol=1e-4, atol=1e-5)


@suffixes
def test_a_fixed_number_of_samples_is_kept(tmp_path: Path, suffix: str) -> None:
    model, inputs = small_net()
    exported = secateur.export(model, inputs, tmp_path / f"m{suffix}", dynamic_batch=False)
    assert exported.batch == len(inputs)
    assert not exported.note
    with pytest.raises(Exception, match=r"(?i)dimension|size|shape"):
        independent(exported.path, torch.randn(len(inputs) + 1, *inputs.shape[1:]))


class TwoOnly(nn.Linear):
    """Its batch size is a number in its code."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(2, 2, 4).sum(1))


class Remembers(nn.Linear):
    """Its code takes another way for more than three samples: one traced way is not all of the model."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (3 if len(x) > 3 else 1)


@suffixes
@pytest.mark.parametrize(("model", "samples"), [(TwoOnly(4, 3), 4), (Remembers(4, 3), 3)])
def test_where_the_model_fixes_the_batch_the_result_says_so(
    tmp_path: Path, suffix: str, model: nn.Module, samples: int
) -> None:
    inputs = torch.randn(samples, 4)
    exported = secateur.export(model, inputs, tmp_path / f"m{suffix}")
    assert exported.batch == samples
    assert "A free batch size failed" in exported.note
    assert f"batch size {samples} only" in str(exported)
    assert torch.allclose(independent(exported.path, inputs)[0], model(inputs), rtol=1e-4, atol=1e-5)


@suffixes
def test_the_model_is_exported_in_eval_mode_and_given_back_as_it_was(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    model[1].eval()
    inputs = torch.randn(3, 4)
    exported = secateur.export(model, inputs, tmp_path / f"m{suffix}")
    assert [module.training for module in model] == [True, False, True]
    assert model[1].num_batches_tracked == 0
    assert torch.allclose(independent(exported.path, inputs)[0], model.eval()(inputs), atol=1e-5)


def test_outputs_go_by_the_models_own_names(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")

    class Named(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return {"logits": super().forward(x), "twice": 2 * x}

    secateur.export(Named(4, 3), torch.randn(1, 4), tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    assert [each.name for each in session.get_outputs()] == ["logits", "twice"]
    assert [each.name for each in session.get_inputs()] == ["x"]


def test_a_program_holds_no_pickle_and_no_paths(tmp_path: Path) -> None:
    model, inputs = small_net()
    secateur.export(model, inputs, tmp_path / "m.pt2")
    with zipfile.ZipFile(tmp_path / "m.pt2") as archive:
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    assert not any(
        content.startswith((b"\x80", b"PK")) for name, content in entries.items() if "weights/" not in name
    )
    configs = [json.loads(content) for name, content in entries.items() if name.endswith("_config.json")]
    payloads = [about for config in configs for about in config["config"].values()]
    assert len(payloads) == len(model.state_dict())
    assert not any(about["use_pickle"] for about in payloads)
    assert not any(str(Path(__file__).parent).encode() in content for content in entries.values())


class Wrapper(Tensor):
    """A tensor of a class of its own, which the format would pickle."""


def test_what_the_format_would_pickle_is_refused(tmp_path: Path) -> None:
    model = nn.Linear(4, 3)
    model.register_buffer("table", torch.ones(3).as_subclass(Wrapper))
    with pytest.raises(ModelError, match=r"can't be exported to m\.pt2"):
        secateur.export(model, torch.randn(1, 4), tmp_path / "m.pt2")
    assert names(tmp_path) == []


# --- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.txt", "m", "m.pt2.zip", ".onnx"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"choose a name that ends in \.onnx.* or \.\w+\.$"):
        secateur.export(nn.Linear(4, 2), torch.ones(1, 4), tmp_path / name)


@suffixes
def test_what_can_not_be_exported_leaves_the_old_file(tmp_path: Path, suffix: str, capfd: Any) -> None:
    path = tmp_path / f"m{suffix}"
    path.write_bytes(b"old")
    case = zoo.CASES["branch_on_value"]()
    with pytest.raises(
        ModelError, match=r"^BranchOnValue can't be exported to m\.\w+ \(.*\): keep it"
    ) as caught:
        secateur.export(case.model, case.inputs, path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="does not run on example inputs"):
        secateur.export(nn.Linear(4, 2), torch.ones(1, 5), path)
    with pytest.raises(InputError, match=r"A model is a torch\.nn\.Module"):
        secateur.export(3, torch.ones(1, 5), path)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == [f"m{suffix}"]
    assert capfd.readouterr() == ("", "")


def test_a_file_that_computes_something_else_never_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(path: Path) -> Callable[[Any], list[Tensor]]:
        run = EXPORT_FORMATS[".pt2"].open(path)
        return lambda inputs: [1.001 * tensor for tensor in run(inputs)]

    wrong = dataclasses.replace(EXPORT_FORMATS[".pt2"], open=off)
    monkeypatch.setitem(EXPORT_FORMATS._items, ".wrong", wrong)
    with pytest.raises(ModelError, match=r"differs by 1\.0e-03 of the largest output"):
        secateur.export(nn.Linear(4, 2), torch.ones(1, 4), tmp_path / "m.wrong")
    assert names(tmp_path) == []


@suffixes
def test_a_path_that_can_not_be_written_is_named(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"m{suffix}").mkdir()
    with pytest.raises(StoreError, match="a folder of that name is in the way"):
        secateur.export(nn.Linear(4, 2), torch.ones(1, 4), tmp_path / f"m{suffix}")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_onnx_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"the package {package}.*pip install 'secateur\[onnx\]'"):
        secateur.export(nn.Linear(4, 2), torch.ones(1, 4), tmp_path / "m.onnx")
    assert secateur.export(nn.Linear(4, 2), torch.ones(1, 4), tmp_path / "m.pt2").error == 0


def test_formats_join_by_registering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = EXPORT_FORMATS[".pt2"]
    monkeypatch.setitem(
        EXPORT_FORMATS._items, ".mine", ExportFormat("file of mine", program.write, program.open)
    )
    assert secateur.export(nn.Linear(4, 2), torch.ones(1, 4), tmp_path / "m.mine").kind == "file of mine"


# --- the step ------------------------------------------------------------------------------------------------


def test_a_run_is_exported_and_left_as_it_is(tmp_path: Path) -> None:
    model = secateur.build("convnet", num_classes=10, input_shape=(1, 8, 8)).eval()
    inputs = torch.randn(2, 1, 8, 8)
    small = cut(model, inputs)
    start = secateur.Run(tmp_path, {"name": "convnet", "args": {}}, {"name": "digits"}, (1, 8, 8), 10)
    run = start.record(small, {}, {"do": "prune", "config": {}}, {}, 1.0, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    outcome = STEPS["export"](run="run", out="small.pt2")(tmp_path)
    assert torch.equal(independent(tmp_path / "small.pt2", inputs)[0], small(inputs))
    assert json.loads(json.dumps(outcome.record))["batch"] is None
    assert "any batch size" in outcome.lines[0]
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before
    fixed = STEPS["export"](run="run", out="one.pt2", dynamic_batch=False)(tmp_path)
    assert "batch size 1 only" in fixed.lines[0]


# --- transformers --------------------------------------------------------------------------------------------

TOKENS = {
    "input_ids": torch.arange(14).reshape(2, 7),
    "attention_mask": torch.tensor([[1] * 7, [1] * 5 + [0] * 2]),
}


def bert(transformers: Any) -> tuple[Any, Any]:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=30, **sizes)), TOKENS


def llama(transformers: Any) -> tuple[Any, Any]:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    config = transformers.LlamaConfig(vocab_size=30, num_key_value_heads=2, eos_token_id=2, **sizes)
    return transformers.LlamaForCausalLM(config), TOKENS


def gpt2(transformers: Any) -> tuple[Any, Any]:
    config = transformers.GPT2Config(
        vocab_size=30, n_embd=16, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2
    )
    return transformers.GPT2LMHeadModel(config), TOKENS


def vit(transformers: Any) -> tuple[Any, Any]:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    config = transformers.ViTConfig(image_size=8, patch_size=4, **sizes)
    return transformers.ViTForImageClassification(config), {"pixel_values": torch.randn(2, 3, 8, 8)}


@pytest.fixture
def make() -> Callable[[Callable[[Any], tuple[Any, Any]]], tuple[Any, Any]]:
    """Build a tiny model whose weights are large enough that a wrong head would be seen."""
    transformers = pytest.importorskip("transformers")

    def build(factory: Callable[[Any], tuple[Any, Any]]) -> tuple[Any, Any]:
        torch.manual_seed(0)
        model, inputs = factory(transformers)
        zoo.disturb(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(5)
        return model.eval(), inputs

    return build


@pytest.mark.parametrize(
    ("factory", "granularity", "sizes"),
    [
        (bert, "channel", {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12}),
        (vit, "channel", {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12}),
        (gpt2, "channel", {"n_embd": 8, "n_head": 2}),
        (
            llama,
            "head",
            {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4},
        ),
    ],
    ids=["bert", "vit", "gpt2", "llama"],
)
def test_a_smaller_transformers_model_opens_from_its_folder(
    tmp_path: Path, make: Any, factory: Any, granularity: str, sizes: dict[str, int]
) -> None:
    model, inputs = make(factory)
    small = cut(model, inputs, granularity)
    config = small.config.to_dict()
    secateur.save_pretrained(small, inputs, tmp_path / "small")
    opened = type(model).from_pretrained(tmp_path / "small", local_files_only=True).eval()
    assert {key: getattr(opened.config, key) for key in sizes} == sizes
    assert {key: tensor.shape for key, tensor in opened.state_dict().items()} == {
        key: tensor.shape for key, tensor in small.state_dict().items()
    }
    assert torch.equal(opened(**inputs).logits, small(**inputs).logits)
    assert small.config.to_dict() == config
    assert names(tmp_path) == ["small"]
    assert not [
        path for path in (tmp_path / "small").iterdir() if path.suffix not in (".json", ".safetensors")
    ]


def test_layers_that_differ_are_named(tmp_path: Path, make: Any) -> None:
    model, inputs = make(bert)
    keep = ["*embeddings*", "*attention*", "*layer.0*"]
    small = secateur.prune(model, inputs, granularity="channel", amount=0.5, scope="local", keep=keep).model
    layer = r"bert\.encoder\.layer\.1\.intermediate\.dense\.weight"
    with pytest.raises(
        ModelError, match=rf"{layer} is \[12, 16\], in the nearest one \[24, 16\]; .*secateur\.save"
    ):
        secateur.save_pretrained(small, inputs, tmp_path / "small")
    assert names(tmp_path) == []
    secateur.save(small, tmp_path / "m")
    loaded = secateur.load(tmp_path / "m", into=make(bert)[0])
    assert torch.equal(loaded(**inputs).logits, small(**inputs).logits)


def test_folders_that_hold_something_and_other_models_are_refused(tmp_path: Path, make: Any) -> None:
    model, inputs = make(gpt2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(StoreError, match="it holds something already; choose another folder"):
        secateur.save_pretrained(model, inputs, tmp_path / "full")
    with pytest.raises(InputError, match="Linear is no model of transformers"):
        secateur.save_pretrained(nn.Linear(4, 2), torch.ones(1, 4), tmp_path / "other")
    (tmp_path / "empty").mkdir()
    secateur.save_pretrained(model, inputs, tmp_path / "empty")  # a model of full size is one, too
    assert "config.json" in names(tmp_path / "empty")


def test_a_language_model_is_exported_without_its_cache(tmp_path: Path, make: Any) -> None:
    model, inputs = make(gpt2)
    exported = secateur.export(cut(model, inputs), inputs, tmp_path / "m.pt2")
    assert exported.batch is None
    assert len(independent(exported.path, inputs)) == 1
    assert model.config.use_cache
