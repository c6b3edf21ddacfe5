"""What stands in the way of a training is said in a sentence, before anything is trained."""

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.engine.architecture import FAMILIES, is_known, read_architecture
from nightschool_daemon.learning.engine.packed import Weights
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_hookspecs.services import TrainingError
from support.tiny_architectures import DEFAULTS, VARIANTS, write_tiny_architecture

Value = int | float | str | list[int]
SOUND: Mapping[str, Value] = {
    "embedding_length": 256,
    "block_count": 2,
    "feed_forward_length": 512,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-6,
}


def written(path: Path, architecture: str, keys: Mapping[str, Value], *, files: int = 1) -> GgufFile:
    """A file with these keys and one tensor."""
    writer = gguf.GGUFWriter(str(path), architecture)
    for key, value in keys.items():
        name = f"{architecture}.{key}"
        if isinstance(value, list):
            writer.add_array(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        else:
            writer.add_uint32(name, value)
    if files > 1:
        writer.add_uint16("split.count", files)
    writer.add_tensor("token_embd.weight", np.zeros((32, 256), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf_file.read(path)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_family_is_read_from_the_least_that_a_file_says(tmp_path: Path, architecture: str) -> None:
    file = written(tmp_path / "sound.gguf", architecture, SOUND)
    shape = read_architecture(file)
    assert is_known(file)
    assert (shape.layers, shape.width, shape.heads, shape.key_heads, shape.head_size) == (2, 256, 4, 2, 64)
    assert (shape.feed_forward, shape.vocabulary) == (512, 32)


@pytest.mark.parametrize(
    ("architecture", "variant"), [(one, variant) for one in FAMILIES for variant in ("", *VARIANTS[one])]
)
def test_every_tiny_variant_is_known(tmp_path: Path, architecture: str, variant: str) -> None:
    file = gguf_file.read(write_tiny_architecture(tmp_path / "one.gguf", architecture, kind="F32", variant=variant))
    assert is_known(file)
    assert read_architecture(file).head_size == DEFAULTS[architecture].head_size


@pytest.mark.parametrize("architecture", ["starcoder2", "qwen3moe", "bert"])
def test_another_architecture_is_named_and_so_are_those_that_are_known(tmp_path: Path, architecture: str) -> None:
    file = written(tmp_path / "other.gguf", architecture, SOUND)
    assert not is_known(file)
    with pytest.raises(TrainingError, match=f"does not know the architecture '{architecture}' .*llama.*gemma3"):
        read_architecture(file)


def test_experts_in_a_known_architecture_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "mixtral.gguf", "llama", {**SOUND, "expert_count": 8})
    assert not is_known(file)
    with pytest.raises(TrainingError, match="experts"):
        read_architecture(file)


def test_a_base_in_several_files_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "split.gguf", "llama", SOUND, files=3)
    assert not is_known(file)
    with pytest.raises(TrainingError, match="several files"):
        read_architecture(file)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"attention.key_length": 64, "attention.value_length": 32}, "keys and values differ in size"),
        ({"attention.head_count_kv": [2, 1]}, "head_count_kv differs by layer"),
        ({"feed_forward_length": [512, 256]}, "feed_forward_length differs by layer"),
        ({"rope.scaling.type": "spiral"}, "Rope scaling 'spiral' is not known"),
        ({"block_count": 0}, "lacks llama.block_count"),
    ],
)
def test_what_cannot_be_computed_is_refused(tmp_path: Path, changed: Mapping[str, Value], sentence: str) -> None:
    file = written(tmp_path / "odd.gguf", "llama", {**SOUND, **changed})
    with pytest.raises(TrainingError, match=sentence):
        read_architecture(file)


@pytest.mark.parametrize("missing", ["embedding_length", "block_count", "feed_forward_length", "attention.head_count"])
def test_a_size_that_is_missing_is_named(tmp_path: Path, missing: str) -> None:
    keys = {key: value for key, value in SOUND.items() if key != missing}
    with pytest.raises(TrainingError, match=f"lacks llama.{missing}"):
        read_architecture(written(tmp_path / "less.gguf", "llama", keys))


def test_tensors_that_are_missing_or_of_another_kind_are_named(tmp_path: Path) -> None:
    path = tmp_path / "tensors.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_tensor("cube", np.zeros((2, 3, 32), np.float32))
    writer.add_tensor("coarse", np.zeros((4, 66), np.uint8), raw_dtype=gguf.GGMLQuantizationType.IQ2_XXS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    weights = Weights(gguf_file.read(path))
    for name, sentence in (
        ("none", "has no tensor none"),
        ("cube", r"cube is of shape \(2, 3, 32\), and by its metadata it should be \(4, 256\)"),
        ("coarse", "coarse is in IQ2_XXS"),
    ):
        with pytest.raises(TrainingError, match=sentence):
            weights.matrix(name, (4, 256))


@pytest.mark.parametrize(
    ("architecture", "layers", "scale"),
    [("gemma2", 46, 64), ("gemma2", 26, 32), ("gemma3", 62, 64), ("gemma3", 48, 32), ("llama", 62, 32)],
)
def test_the_largest_gemmas_scale_queries_by_the_width_a_head(
    tmp_path: Path, architecture: str, layers: int, scale: int
) -> None:
    """Gemma 2 and 3 of 27B have heads of another size: llama.cpp's `f_attention_scale`, by the number of layers."""
    heads = {"attention.key_length": 32, "attention.value_length": 32}
    file = written(tmp_path / "large.gguf", architecture, {**SOUND, **heads, "block_count": layers})
    assert read_architecture(file).query_scale == pytest.approx(scale**-0.5)
