"""The tiny architectures in transformers, with the settings that its own reader of GGUF files leaves out."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
)

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine.forms import LowRank
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.loading import from_file_layout, load_base
from nightschool_daemon.learning.peft_files import module_of, save_peft
from nightschool_daemon.ollama.storage import sha256_of

NAMES = {"token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm"}
NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}


def in_transformers(path: Path, cache: Path) -> PreTrainedModel:
    """The default of a tiny architecture as a plain model in 32-bit floats, which may be trained."""
    file = gguf_file.read(path)
    model = BUILT[file.architecture](file) if file.architecture in BUILT else _read(path, file, cache)
    model.eval()
    return model


def in_peft_layout(form: LowRank, values: dict[str, Tensor], file: GgufFile, directory: Path) -> dict[str, Tensor]:
    """Values of a form's parameters, such as their gradients, as PEFT names and orders them."""
    parameters, form.parameters = form.parameters, values
    save_peft(form, file, directory)
    form.parameters = parameters
    found: dict[str, Tensor] = load_file(directory / "adapter_model.safetensors")
    return found


def peft_gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    """What PEFT's adapter got, by the names of its files."""
    gradients = {name.replace(".default", ""): one.grad for name, one in model.named_parameters()}
    return {name: one for name, one in gradients.items() if one is not None}


def assert_same_gradients(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Every tensor agrees to a thousandth of its values, or to a ten thousandth of the largest of all."""
    assert found.keys() == expected.keys()
    largest = max(float(one.abs().max()) for one in expected.values())
    assert largest > 0.01
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one, rtol=1e-3, atol=1e-4 * largest, msg=name)


def _read(path: Path, file: GgufFile, cache: Path) -> PreTrainedModel:
    loaded = load_base(path, sha256_of(path), cache).model
    settings = loaded.config
    if file.architecture.startswith("gemma"):
        settings.query_pre_attn_scalar = settings.head_dim
        # the default attention of transformers leaves the cap of its scores out
        settings._attn_implementation = "eager"
    if file.architecture == "gemma2":
        settings.attn_logit_softcapping = _float(file, "attn_logit_softcapping")
        settings.final_logit_softcapping = _float(file, "final_logit_softcapping")
    if file.architecture == "gemma3":
        settings.rope_parameters["sliding_attention"]["rope_theta"] = _float(file, "rope.freq_base_swa")
    # trainers refuse a model that was read from a GGUF
    model = type(loaded)(settings)
    model.load_state_dict(loaded.state_dict())
    return model


def _phi3(file: GgufFile) -> PreTrainedModel:
    """transformers takes Phi 3's own special tokens for granted, which the tiny vocabulary does not have."""
    width, heads = _number(file, "embedding_length"), _number(file, "attention.head_count")
    settings = Phi3Config(
        vocab_size=file.tensors["token_embd.weight"].shape[0],
        hidden_size=width,
        intermediate_size=_number(file, "feed_forward_length"),
        num_hidden_layers=_number(file, "block_count"),
        num_attention_heads=heads,
        num_key_value_heads=_number(file, "attention.head_count_kv"),
        rms_norm_eps=_float(file, "attention.layer_norm_rms_epsilon"),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": _float(file, "rope.freq_base"),
            "partial_rotary_factor": _number(file, "rope.dimension_count") / (width // heads),
        },
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    return _with_weights(Phi3ForCausalLM(settings), _weights(file))


def _mistral3(file: GgufFile) -> PreTrainedModel:
    """As it is published: within a model that sees. transformers reads no such file."""
    settings = Mistral3Config(
        text_config={
            "model_type": "ministral3",
            "vocab_size": file.tensors["token_embd.weight"].shape[0],
            "hidden_size": _number(file, "embedding_length"),
            "intermediate_size": _number(file, "feed_forward_length"),
            "num_hidden_layers": _number(file, "block_count"),
            "num_attention_heads": _number(file, "attention.head_count"),
            "num_key_value_heads": _number(file, "attention.head_count_kv"),
            "head_dim": _number(file, "attention.key_length"),
            "rms_norm_eps": _float(file, "attention.layer_norm_rms_epsilon"),
            "max_position_embeddings": _number(file, "context_length"),
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": _float(file, "rope.freq_base"),
                "factor": _float(file, "rope.scaling.factor"),
                "original_max_position_embeddings": _number(file, "rope.scaling.original_context_length"),
                "beta_fast": _float(file, "rope.scaling.yarn_beta_fast"),
                "beta_slow": _float(file, "rope.scaling.yarn_beta_slow"),
                "mscale": 1.0,
                "mscale_all_dim": _float(file, "rope.scaling.yarn_log_multiplier"),
                "llama_4_scaling_beta": _float(file, "attention.temperature_scale"),
            },
            "tie_word_embeddings": True,
        },
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 16,
            "image_size": 28,
            "patch_size": 14,
        },
        tie_word_embeddings=True,
    )
    text = {name.replace("model.", "model.language_model.", 1): one for name, one in _weights(file).items()}
    model = Mistral3ForConditionalGeneration(settings)
    return _with_weights(model, {**model.state_dict(), **text, "lm_head.weight": text[EMBEDDING]})


EMBEDDING = "model.language_model.embed_tokens.weight"
BUILT: Mapping[str, Callable[[GgufFile], PreTrainedModel]] = {"phi3": _phi3, "mistral3": _mistral3}
"""Architectures that transformers does not read, or not with the tiny vocabulary."""


def _with_weights(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> PreTrainedModel:
    model.load_state_dict(dict(weights))
    return model


def _weights(file: GgufFile) -> dict[str, Tensor]:
    """A file's weights by the names, and in the layout, of a text model in transformers."""
    return {
        f"{_module(file, name.removesuffix('.weight'))}.weight": torch.from_numpy(
            from_file_layout(file, name, file.dequantized(name)).copy()
        )
        for name in file.tensors
    }


def _module(file: GgufFile, tensor: str) -> str:
    if tensor in NAMES:
        return NAMES[tensor]
    _, layer, part = tensor.split(".")
    return f"model.layers.{layer}.{NORMS[part]}" if part in NORMS else module_of(file, tensor)


def _number(file: GgufFile, key: str) -> int:
    value = file.number(key)
    assert value is not None
    return value


def _float(file: GgufFile, key: str) -> float:
    value = file.scalar(f"{file.architecture}.{key}")
    assert isinstance(value, float)
    return value
