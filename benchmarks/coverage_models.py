"""The models that pruning is tried on: what torchvision, timm and transformers hold, small and without downloads.

Three suites of entries. `torchvision` holds every model of `list_models()` but the quantized ones, `timm` one small
variant of every family (module), `transformers` architectures built from small configurations. An entry builds its
model with random weights and gives it the smallest input it accepts.

The weights are random, yet such that a mistake in any layer shows in the output, as in a trained model. What a model
starts as a constant (biases, norms, layer scales, residual branches at zero) becomes random too: a branch multiplied
by zero would hide all that is wrong in it. And batch norms take over the statistics of random inputs: with those
they start with the signal of many a deep network fades away, until nothing but biases is left of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Built = tuple[nn.Module, Any]
"""A model and its inputs: one tensor, a tuple of arguments, or a dict of named ones."""


@dataclass(frozen=True)
class Entry:
    """One model to try: `build` gives it and its inputs.

    `detects` says that the number of rows its outputs have depends on the values, as that of found boxes.
    """

    suite: str
    name: str
    build: Callable[[], Built]
    detects: bool = False

    def make(self) -> Built:
        """Build the model in eval mode, and its inputs; every call gives the same values."""
        torch.manual_seed(0)
        model, inputs = self.build()
        scatter(model)
        calibrate(model.eval(), several(inputs))
        return model, inputs


@torch.no_grad()
def scatter(model: nn.Module) -> None:
    """Add noise of deviation 0.1 to every tensor of `model` that is a constant; variances stay positive."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        trained = isinstance(tensor, nn.Parameter) or "running_" in name
        if trained and tensor.is_floating_point() and tensor.numel() > 1 and constant(tensor):
            noise = 0.1 * torch.randn_like(tensor)
            tensor.add_(noise.abs() if name.endswith("running_var") else noise)


@torch.no_grad()
def calibrate(model: nn.Module, inputs: Any) -> None:
    """Give every batch norm of `model` the mean and variance of what reaches it when `inputs` go in."""

    def take_over(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        values = arguments[0].transpose(0, 1).flatten(1)
        variance = values.var(1, correction=0)
        norm.get_buffer("running_mean").copy_(values.mean(1))
        norm.get_buffer("running_var").copy_(variance.clamp_min(0.01 * float(variance.mean()) + 1e-6))

    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(take_over) for norm in norms if norm.running_mean is not None]
    if hooks:
        forward(model, inputs)
    for hook in hooks:
        hook.remove()


def several(inputs: Any) -> Any:
    """Return inputs like these, of four images (clips, texts, sounds) of noise."""
    if isinstance(inputs, list):
        return [torch.rand_like(inputs[0]) for _ in range(4)]
    if isinstance(inputs, tuple):
        return tuple(several(item) for item in inputs)
    if isinstance(inputs, dict):
        return {name: several(item) for name, item in inputs.items()}
    more = torch.cat([inputs] * 4)
    return torch.randn_like(more) if more.is_floating_point() else more


def constant(tensor: Tensor) -> bool:
    few = tensor.flatten()[:64]
    return bool((few == few[0]).all()) and bool((tensor == few[0]).all())


def forward(model: nn.Module, inputs: Any) -> Any:
    """Run `model` on the inputs of its entry."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


# torchvision ---------------------------------------------------------------------------------------------------

SIDES = {"maxvit_t": 224, "vit_": 224, "inception_v3": 75}
"""Sides of images by prefix of the name, 64 for all else."""
CLIPS = {"mvit_": (16, 224), "s3d": (16, 224), "swin3d_": (4, 64)}
"""Frames and side of clips by prefix of the name, (8, 64) for all else."""
BOXES = {"score_thresh": 0.0, "detections_per_img": 10, "min_size": 128, "max_size": 128}
REGIONS = {
    "box_score_thresh": 0.0,
    "box_detections_per_img": 10,
    "rpn_post_nms_top_n_test": 50,
    "min_size": 128,
    "max_size": 128,
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
    "fcos_": BOXES,
    "retinanet_": BOXES,
    "ssd": {"score_thresh": 0.0, "detections_per_img": 10},
    "fasterrcnn_": REGIONS,
    "keypointrcnn_": REGIONS,
    "maskrcnn_": REGIONS,
}
"""What models are built with beside their defaults, by prefix of the name: no heads of training, and detectors that
are small and report some boxes even with random weights."""


def by_prefix(table: dict[str, Any], name: str, default: Any) -> Any:
    return next((value for prefix, value in table.items() if name.startswith(prefix)), default)


def image(side: int) -> Tensor:
    return torch.randn(1, 3, side, side)


def clip(frames: int, side: int) -> Tensor:
    return torch.randn(1, 3, frames, side, side)


def torchvision_entry(name: str, inputs: Callable[[str], Any], downloads: bool, detects: bool) -> Entry:
    def build() -> Built:
        from torchvision import models

        arguments = {"weights_backbone": None} if downloads else {}
        arguments |= by_prefix(ARGUMENTS, name, {})
        return models.get_model(name, weights=None, **arguments), inputs(name)

    return Entry("torchvision", name, build, detects)


def torchvision_entries() -> Iterator[Entry]:
    from torchvision import models

    kinds: dict[Any, Callable[[str], Any]] = {
        models: lambda name: image(by_prefix(SIDES, name, 64)),
        models.segmentation: lambda name: image(64),
        models.detection: lambda name: ([torch.rand(3, 128, 128)],),
        models.video: lambda name: clip(*by_prefix(CLIPS, name, (8, 64))),
        models.optical_flow: lambda name: (image(128), image(128)),
    }
    for module, inputs in kinds.items():
        downloads = module in (models.segmentation, models.detection)
        for name in models.list_models(module):
            yield torchvision_entry(name, inputs, downloads, detects=module is models.detection)


# timm ----------------------------------------------------------------------------------------------------------

FAMILIES = {
    "beit": ("beit_base_patch16_224", 224),
    "byoanet": ("halonet_h1", 256),
    "byobnet": ("mobileone_s1", 64),
    "cait": ("cait_xxs24_224", 224),
    "coat": ("coat_tiny", 224),
    "convit": ("convit_tiny", 224),
    "convmixer": ("convmixer_768_32", 64),
    "convnext": ("convnext_atto", 64),
    "cpubone": ("cpubone_nano", 64),
    "crossvit": ("crossvit_tiny_240", 240),
    "csatv2": ("csatv2", 64),
    "cspnet": ("cs3darknet_focus_s", 64),
    "cspnext": ("cspnext_tiny", 64),
    "davit": ("davit_tiny", 64),
    "deepseek_vit": ("deepseek_vit_412m", 126),
    "deit": ("deit_tiny_patch16_224", 224),
    "densenet": ("densenet121", 64),
    "dla": ("dla46_c", 64),
    "dpn": ("dpn48b", 64),
    "edgenext": ("edgenext_xx_small", 64),
    "efficientformer": ("efficientformer_l1", 224),
    "efficientformer_v2": ("efficientformerv2_s0", 224),
    "efficientnet": ("efficientnet_b0", 64),
    "efficientvim": ("efficientvim_m1", 64),
    "efficientvit_mit": ("efficientvit_b0", 64),
    "efficientvit_msra": ("efficientvit_m0", 224),
    "eva": ("eva02_tiny_patch14_224", 224),
    "fasternet": ("fasternet_t0", 64),
    "fastvit": ("fastvit_t8", 64),
    "focalnet": ("focalnet_tiny_srf", 64),
    "gcvit": ("gcvit_xxtiny", 224),
    "gemma4_vit": ("gemma4_vit_167m", 64),
    "ghostnet": ("ghostnet_050", 64),
    "hardcorenas": ("hardcorenas_b", 64),
    "hgnet": ("hgnetv2_b0", 64),
    "hiera": ("hiera_tiny_224", 224),
    "hieradet_sam2": ("hieradet_small", 64),
    "hrnet": ("hrnet_w18_small", 64),
    "iformer": ("iformer_t", 64),
    "inception_next": ("inception_next_atto", 64),
    "inception_resnet_v2": ("inception_resnet_v2", 96),
    "inception_v3": ("inception_v3", 96),
    "inception_v4": ("inception_v4", 96),
    "lcnetv2": ("lcnetv2_small", 64),
    "levit": ("levit_128s", 224),
    "lowformer": ("lowformer_b0", 64),
    "mambaout": ("mambaout_femto", 64),
    "maxxvit": ("maxvit_pico_rw_256", 256),
    "metaformer": ("poolformerv2_s12", 64),
    "mlp_mixer": ("mixer_s32_224", 224),
    "mobilenetv3": ("mobilenetv3_small_050", 64),
    "mobilenetv5": ("mobilenetv5_base", 64),
    "mobilevit": ("mobilevit_xxs", 64),
    "mvitv2": ("mvitv2_tiny", 224),
    "naflexvit": ("naflexvit_base_patch16_gap", 64),
    "nasnet": ("nasnetalarge", 64),
    "nest": ("nest_tiny", 224),
    "nextvit": ("nextvit_small", 64),
    "nfnet": ("nf_regnet_b0", 64),
    "pit": ("pit_ti_224", 224),
    "pnasnet": ("pnasnet5large", 64),
    "pvt_v2": ("pvt_v2_b0", 64),
    "qwen3_vit": ("qwen3_vit_88m", 64),
    "rdnet": ("rdnet_tiny", 64),
    "regnet": ("regnetx_002", 64),
    "repghost": ("repghostnet_050", 64),
    "repvit": ("repvit_m1", 64),
    "res2net": ("res2next50", 64),
    "resnest": ("resnest14d", 64),
    "resnet": ("resnet10t", 64),
    "resnetv2": ("resnetv2_18", 64),
    "rexnet": ("rexnet_100", 64),
    "selecsls": ("selecsls42", 64),
    "senet": ("legacy_seresnet18", 64),
    "sequencer": ("sequencer2d_s", 224),
    "shvit": ("shvit_s1", 64),
    "sknet": ("skresnet18", 64),
    "starnet": ("starnet_s050", 64),
    "swiftformer": ("swiftformer_xs", 224),
    "swin_transformer": ("swin_tiny_patch4_window7_224", 224),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", 256),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", 224),
    "tiny_vit": ("tiny_vit_5m_224", 64),
    "tnt": ("tnt_s_patch16_224", 224),
    "tresnet": ("tresnet_m", 64),
    "twins": ("twins_svt_small", 224),
    "vgg": ("vgg11", 64),
    "visformer": ("visformer_tiny", 224),
    "vision_transformer": ("vit_tiny_patch16_224", 224),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", 224),
    "vision_transformer_relpos": ("vit_relpos_small_patch16_224", 224),
    "vision_transformer_sam": ("samvit_base_patch16_224", 224),
    "vitamin": ("vitamin_small_224", 224),
    "volo": ("volo_d1_224", 224),
    "vovnet": ("ese_vovnet19b_slim_dw", 64),
    "xception": ("legacy_xception", 64),
    "xception_aligned": ("xception41p", 64),
    "xcit": ("xcit_nano_12_p8_224", 224),
}
"""Family → its variant with the fewest parameters (or, where that is an odd one, the best known small one), and the
smallest side of an image that it takes."""


def timm_entry(family: str, variant: str, side: int) -> Entry:
    def build() -> Built:
        import timm

        arguments: dict[str, Any] = (
            {"depth": 4} if variant == "deepseek_vit_412m" else {}
        )  # its smallest has 24 layers
        return timm.create_model(variant, pretrained=False, **arguments), image(side)

    return Entry("timm", f"{family}/{variant}", build)


def timm_entries() -> Iterator[Entry]:
    for family, (variant, side) in FAMILIES.items():
        yield timm_entry(family, variant, side)


# transformers --------------------------------------------------------------------------------------------------

VOCABULARY = 256
TEXT = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WIDE = {
    **TEXT,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "use_cache": False,
}
"""The sizes of most text models."""
GQA = {**WIDE, "num_key_value_heads": 2, "head_dim": 16}
"""Two query heads for each key and value head."""
GPT = {**TEXT, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "use_cache": False}
EXPERTS = {**GQA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
SEQ2SEQ = {
    **TEXT,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
    "use_cache": False,
}
T5 = {
    **TEXT,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "use_cache": False,
}
VISION = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 16,
}
STAGES = {"image_size": 64, "depths": [1, 1, 2, 1], "hidden_sizes": [16, 32, 64, 128]}
WINDOWS = {"image_size": 64, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
PYRAMID = {**STAGES, "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 8]}
SPEECH = {
    **WIDE,
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 4, 4),
    "conv_kernel": (10, 4, 4),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
TOWERS = {
    "text_config": {**WIDE, "projection_dim": 32},
    "vision_config": {**VISION, "projection_dim": 32},
}


def words() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(3, VOCABULARY, (2, 16))}


def pair() -> dict[str, Tensor]:
    return {**words(), "decoder_input_ids": torch.randint(3, VOCABULARY, (2, 12))}


def pixels() -> dict[str, Tensor]:
    return {"pixel_values": image(64)}


def sound() -> dict[str, Tensor]:
    return {"input_values": torch.randn(1, 4000)}


def captioned() -> dict[str, Tensor]:
    return {**words(), **pixels()}


def spectrogram() -> dict[str, Tensor]:
    return {
        "input_features": torch.randn(1, 16, 64),
        "decoder_input_ids": torch.randint(3, VOCABULARY, (1, 12)),
    }


CLASSIFIER, LM, MASKED = "SequenceClassification", "CausalLM", "MaskedLM"

ARCHITECTURES: dict[tuple[str, Callable[[], dict[str, Tensor]]], dict[str, dict[str, Any]]] = {
    (CLASSIFIER, words): {
        "albert": {**WIDE, "embedding_size": 32},
        "bert": WIDE,
        "big_bird": {**WIDE, "attention_type": "original_full"},
        "camembert": WIDE,
        "convbert": {**WIDE, "embedding_size": 32},
        "deberta": {
            **WIDE,
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "pooler_hidden_size": 64,
        },
        "deberta-v2": {
            **WIDE,
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "position_buckets": 8,
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "pooler_hidden_size": 64,
        },
        "distilbert": {**TEXT, "dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4},
        "electra": {**WIDE, "embedding_size": 32},
        "ernie": WIDE,
        "funnel": {
            **TEXT,
            "block_sizes": [2, 2],
            "d_model": 64,
            "n_head": 4,
            "d_head": 16,
            "d_inner": 128,
        },
        "longformer": {**WIDE, "attention_window": 8},
        "megatron-bert": WIDE,
        "mobilebert": {
            **WIDE,
            "embedding_size": 32,
            "intra_bottleneck_size": 32,
            "num_feedforward_networks": 2,
        },
        "modernbert": {**WIDE, "num_hidden_layers": 3, "cls_token_id": 1, "sep_token_id": 2},
        "mpnet": WIDE,
        "nystromformer": {**WIDE, "num_landmarks": 4, "segment_means_seq_len": 16},
        "rembert": {**WIDE, "input_embedding_size": 32, "output_embedding_size": 32},
        "roberta": WIDE,
        "roformer": {**WIDE, "embedding_size": 32},
        "squeezebert": {**WIDE, "embedding_size": 64},
        "xlm-roberta": WIDE,
        "xlnet": {
            **TEXT,
            "d_model": 64,
            "n_layer": 2,
            "n_head": 4,
            "d_inner": 128,
            "use_mems_eval": False,
        },
    },
    (MASKED, words): {
        "esm": {**WIDE, "mask_token_id": 3, "position_embedding_type": "rotary"},
        "fnet": WIDE,
        "xmod": {**WIDE, "default_language": "en_XX"},
    },
    (LM, words): {
        "biogpt": WIDE,
        "bloom": {**TEXT, "hidden_size": 64, "n_layer": 2, "n_head": 4, "use_cache": False},
        "codegen": {**GPT, "rotary_dim": 8},
        "cohere": GQA,
        "cohere2": GQA,
        "falcon": {**WIDE, "new_decoder_architecture": False, "multi_query": True},
        "falcon_mamba": {
            **TEXT,
            "hidden_size": 64,
            "state_size": 8,
            "num_hidden_layers": 2,
            "use_cache": False,
        },
        "gemma": GQA,
        "gemma2": GQA,
        "gemma3_text": GQA,
        "glm": GQA,
        "gpt2": GPT,
        "gpt_bigcode": GPT,
        "gpt_neo": {
            **WIDE,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
        },
        "gpt_neox": WIDE,
        "gptj": {**GPT, "rotary_dim": 8},
        "granite": GQA,
        "llama": GQA,
        "mamba": {**TEXT, "hidden_size": 64, "state_size": 8, "num_hidden_layers": 2, "use_cache": False},
        "mamba2": {
            **TEXT,
            "hidden_size": 64,
            "state_size": 8,
            "num_hidden_layers": 2,
            "num_heads": 8,
            "head_dim": 16,
            "n_groups": 2,
            "chunk_size": 8,
            "use_cache": False,
        },
        "mistral": GQA,
        "mixtral": {**GQA, "num_local_experts": 4},
        "mpt": {**TEXT, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, "use_cache": False},
        "nemotron": GQA,
        "olmo": GQA,
        "olmo2": GQA,
        "olmoe": {**EXPERTS, "intermediate_size": 64},
        "opt": {**WIDE, "ffn_dim": 128, "word_embed_proj_dim": 64},
        "persimmon": WIDE,
        "phi": GQA,
        "phi3": GQA,
        "qwen2": GQA,
        "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 128},
        "qwen3": GQA,
        "qwen3_moe": EXPERTS,
        "rwkv": {**TEXT, "hidden_size": 64, "num_hidden_layers": 2, "use_cache": False},
        "smollm3": GQA,
        "stablelm": GQA,
        "starcoder2": GQA,
        "xglm": {
            **TEXT,
            "d_model": 64,
            "num_layers": 2,
            "attention_heads": 4,
            "ffn_dim": 128,
            "use_cache": False,
        },
    },
    ("Seq2SeqLM", pair): {
        "bart": SEQ2SEQ,
        "blenderbot-small": SEQ2SEQ,
        "m2m_100": SEQ2SEQ,
        "marian": {**SEQ2SEQ, "decoder_vocab_size": VOCABULARY},
        "mbart": SEQ2SEQ,
        "mt5": T5,
        "pegasus": SEQ2SEQ,
        "switch_transformers": {
            **T5,
            "num_experts": 4,
            "num_sparse_encoder_layers": 1,
            "num_sparse_decoder_layers": 1,
        },
        "t5": T5,
    },
    ("ImageClassification", pixels): {
        "beit": {**VISION, "use_relative_position_bias": True},
        "convnext": STAGES,
        "convnextv2": STAGES,
        "deit": {**VISION, "architectures": ["DeiTForImageClassification"]},
        "dinov2": VISION,
        "focalnet": {"image_size": 64, "embed_dim": 32, "depths": [1, 2], "hidden_sizes": [32, 64]},
        "mobilenet_v2": {"image_size": 64},
        "poolformer": STAGES,
        "pvt": PYRAMID,
        "regnet": {
            "embedding_size": 16,
            "hidden_sizes": [16, 32, 64, 128],
            "depths": [1, 1, 2, 1],
            "groups_width": 8,
        },
        "resnet": {"embedding_size": 16, "hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 2, 1]},
        "swin": WINDOWS,
        "swinv2": WINDOWS,
        "vit": VISION,
    },
    ("SemanticSegmentation", pixels): {
        "segformer": {**PYRAMID, "decoder_hidden_size": 64, "num_labels": 10},
    },
    ("ObjectDetection", pixels): {
        "yolos": {**VISION, "image_size": [64, 64], "num_detection_tokens": 10},
    },
    ("", captioned): {"clip": {**TOWERS, "projection_dim": 32}, "siglip": TOWERS},
    ("CTC", sound): {"hubert": SPEECH, "wav2vec2": SPEECH, "wavlm": SPEECH},
    ("SpeechSeq2Seq", spectrogram): {
        "whisper": {**SEQ2SEQ, "num_mel_bins": 16, "max_source_positions": 32, "max_target_positions": 32},
    },
}
"""Task (of AutoModelFor…) and inputs → model type → configuration."""


def transformers_entry(kind: str, task: str, inputs: Callable[[], Any], sizes: dict[str, Any]) -> Entry:
    def build() -> Built:
        import transformers

        transformers.logging.set_verbosity_error()
        auto = getattr(transformers, f"AutoModelFor{task}" if task else "AutoModel")
        config = transformers.AutoConfig.for_model(kind, initializer_range=0.1, **sizes)
        return auto.from_config(config), inputs()

    return Entry("transformers", kind, build)


def transformers_entries() -> Iterator[Entry]:
    for (task, inputs), kinds in ARCHITECTURES.items():
        for kind, sizes in kinds.items():
            yield transformers_entry(kind, task, inputs, sizes)


SUITES: dict[str, Callable[[], Iterator[Entry]]] = {
    "torchvision": torchvision_entries,
    "timm": timm_entries,
    "transformers": transformers_entries,
}
