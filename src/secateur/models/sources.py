"""Models of other libraries: torchvision, timm and Hugging Face transformers.

A source turns the rest of a name, after its prefix, into a factory and its arguments. timm and transformers are
imported on first use. No source runs code that came with a model: checkpoints are opened as safetensors, or with
torch's weights-only unpickler.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from secateur.core.errors import InputError, ModelError
from secateur.core.extras import need
from secateur.core.registry import unknown
from secateur.models.call import parameters, reason
from secateur.models.new_head import reaching, with_new_head
from secateur.models.registry import Factory, InputShape, ModelArguments, source


@contextmanager
def weights_only() -> Iterator[None]:
    """Force `weights_only` on every `torch.load` of the block, in any library."""
    switch = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(switch)
    os.environ[switch] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[switch]
        else:
            os.environ[switch] = before


IMPLIED_BY_WEIGHTS: dict[str, ModelArguments] = {
    "googlenet": {"transform_input": True, "aux_logits": False, "init_weights": False},
    "inception_v3": {"transform_input": True, "init_weights": False},
}


def _torchvision_names() -> list[str]:
    need("torchvision", for_="A model written torchvision:NAME")
    from torchvision.models import list_models

    return list_models(exclude="quantized_*")  # type: ignore[no-any-return]


def _torchvision_untrained(name: str, arguments: ModelArguments) -> ModelArguments:
    """Drop the weights, and set the arguments that torchvision's builders derive from them."""
    need("torchvision", for_="A model written torchvision:NAME")
    from torchvision.models import get_model_builder, get_model_weights

    rest = {key: value for key, value in arguments.items() if key not in ("weights", "weights_backbone")}
    if arguments.get("weights") is None:
        return rest
    implied: ModelArguments = dict(IMPLIED_BY_WEIGHTS.get(name, {}))
    if name.startswith("vit_"):
        implied["image_size"] = get_model_weights(name).verify(arguments["weights"]).meta["min_size"][0]
    if "aux_loss" in parameters(get_model_builder(name)):
        implied["aux_loss"] = True
    return implied | rest


@source(
    "torchvision",
    usage="torchvision:NAME",
    summary="any float model of torchvision; weights=DEFAULT gives the trained one, with a new head for other classes",
    untrained=_torchvision_untrained,
    names=_torchvision_names,
)
def torchvision(
    name: str, num_classes: int | None, input_shape: InputShape | None, arguments: ModelArguments
) -> tuple[Factory, ModelArguments]:
    """Resolve a model of torchvision, untrained unless the argument `weights` names its weights.

    Weights of another number of classes give all but the head, which is newly initialised. Raises `InputError` for an
    unknown name or weights, or other than 3 channels; the factory raises `ModelError` for weights that it can't get.
    """
    need("torchvision", for_="A model written torchvision:NAME")
    from torchvision.models import get_model_builder, get_model_weights

    known = _torchvision_names()
    if name not in known:
        raise InputError(unknown("torchvision model", name, known, "torchvision.models.list_models()"))
    if input_shape is not None and input_shape[0] != 3:
        raise InputError(
            f"torchvision:{name} takes images of 3 channels, not {input_shape[0]}: "
            "use timm:NAME, or a model of the package's own."
        )
    weights = arguments.get("weights")
    if isinstance(weights, str):
        choices = list(get_model_weights(name).__members__)
        if weights.rpartition(".")[2] not in choices:
            raise InputError(unknown(f"set of weights for torchvision:{name}", weights, choices))
    factory = get_model_builder(name)
    if "weights_backbone" in parameters(factory):
        arguments = {"weights_backbone": None, **arguments}
    if num_classes is not None:
        arguments = {"num_classes": num_classes, **arguments}
    if not isinstance(weights, str):
        return factory, arguments
    chosen = get_model_weights(name)[weights.rpartition(".")[2]]
    trained = len(chosen.meta.get("categories") or [])
    if num_classes is None or trained in (0, num_classes):
        return reaching(name, chosen, factory), arguments
    untrained = _torchvision_untrained(name, arguments)
    if "weights_backbone" in arguments:
        untrained = {**untrained, "weights_backbone": None}
    return with_new_head(name, chosen, factory, trained), untrained


def _timm_untrained(name: str, arguments: ModelArguments) -> ModelArguments:
    return {key: value for key, value in arguments.items() if key != "checkpoint_path"} | {
        "pretrained": False
    }


@source(
    "timm",
    usage="timm:NAME",
    summary="any model of timm; pretrained=True gives the trained one",
    untrained=_timm_untrained,
)
def timm(
    name: str, num_classes: int | None, input_shape: InputShape | None, arguments: ModelArguments
) -> tuple[Factory, ModelArguments]:
    """Resolve a model of timm, its head and first layer made for `num_classes` and the input's channels.

    Raises `InputError` for an unknown name, `MissingExtraError` without timm.
    """
    library = need("timm", extra="timm", for_="A model written timm:NAME")
    if not library.is_model(name):
        raise InputError(unknown("timm model", name, library.list_models(), "timm.list_models()"))
    if input_shape is not None:
        arguments = {"in_chans": input_shape[0], **arguments}
    if num_classes is not None:
        arguments = {"num_classes": num_classes, **arguments}
    return partial(library.create_model, name), arguments


TASKS = {
    "text-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
    "causal-lm": "AutoModelForCausalLM",
    "base": "AutoModel",
}


@source(
    "hf",
    usage="hf:PATH_OR_ID",
    summary="a transformers model from a folder or the hub; task=text-classification, image-classification, "
    "causal-lm or base",
    untrained=lambda name, arguments: arguments | {"pretrained": False},
)
def hf(
    name: str, num_classes: int | None, input_shape: InputShape | None, arguments: ModelArguments
) -> tuple[Factory, ModelArguments]:
    """Resolve a transformers model from a folder or from an id on the Hugging Face hub."""
    return partial(_transformers, name, num_classes), arguments


def _transformers(
    path: str,
    num_classes: int | None,
    *,
    task: str = "text-classification",
    pretrained: bool = True,
    dtype: str = "float32",
    **fields: Any,
) -> nn.Module:
    """Build the transformers model at `path` for `task`, trained unless `pretrained` is false.

    `fields` override fields of the model's configuration. A classifier trained for another number of classes
    gets a newly initialised last layer.
    """
    path = os.path.expanduser(path)
    if task not in TASKS:
        raise InputError(unknown("task of the model", task, list(TASKS)))
    library = need("transformers", extra="transformers", for_="A model written hf:NAME")
    auto = getattr(library, TASKS[task])
    access = {"trust_remote_code": False, "local_files_only": _local(path)}
    try:
        config = library.AutoConfig.from_pretrained(path, **access)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"No transformers model can be had from hf:{path} ({reason(error)}): "
            "give a folder with the config.json of a built-in model type, or the id of one on the hub."
        ) from error
    _override(path, config, fields)
    other_head = num_classes is not None and num_classes != config.num_labels
    if other_head:
        config.num_labels = num_classes
    if not pretrained:
        return auto.from_config(config, dtype=dtype, trust_remote_code=False)  # type: ignore[no-any-return]
    return auto.from_pretrained(  # type: ignore[no-any-return]
        path, config=config, dtype=dtype, use_safetensors=True, ignore_mismatched_sizes=other_head, **access
    )


def _override(path: str, config: Any, fields: dict[str, Any]) -> None:
    known = [key for key in config.to_dict() if not key.startswith("_")]
    for key, value in fields.items():
        if key not in known:
            raise InputError(
                unknown(f"argument or configuration field of hf:{path}", key, known, "its config.json")
            )
        setattr(config, key, value)


def _local(path: str) -> bool:
    """Tell whether only local files may be read: `path` is a folder, or HF_HUB_OFFLINE is set.

    Raises `ModelError` if it is written as a folder and there is none.
    """
    exists = Path(path).is_dir()
    if not exists and (path.startswith((".", os.sep)) or path.count("/") > 1):
        raise ModelError(f"There is no folder {path} to load a transformers model from: check the path.")
    return exists or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
