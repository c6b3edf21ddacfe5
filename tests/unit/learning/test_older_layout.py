"""Files of Ollama's own converter are computed as Ollama reads them, and delivered as they are."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers

from nightschool_daemon.config import DeliveryChoice, DeliverySettings, EngineChoice
from nightschool_daemon.learning import gguf_file, rounding
from nightschool_daemon.learning.base_file import open_base
from nightschool_daemon.learning.delivery import ExportError, absent, require_possible, target_of
from nightschool_daemon.learning.engine.architecture import read_architecture
from nightschool_daemon.learning.engine.layout import Branches, lay_out
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.packed import Bench
from nightschool_daemon.learning.export import Parcel, write_fused, write_split
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.lesson import LowRankDelta, LowRankLesson
from nightschool_daemon.learning.loading import load_tokens
from nightschool_daemon.learning.older_layout import as_ollama_reads
from nightschool_daemon.learning.trainable import route_of
from nightschool_daemon.plans import Route
from nightschool_hookspecs.records import Hyperparameters, ServerAbilities, TrainedForm, TrainingMethod
from nightschool_hookspecs.services import TrainingError
from support.older_layouts import LAYOUTS, SURPLUS, USUAL, write_layouts
from support.rewritten_gguf import Told, rewritten
from support.tiny_architectures import DEFAULTS, write_tiny_architecture
from support.tiny_gguf import TURN, write_byte_level_gguf

CPU = torch.device("cpu")
SERVER = ServerAbilities(version="0.34.3", split=True, fused=True, adapter=False, architecture="gemma3")
IN_SHARDS = [which for which, layouts in LAYOUTS.items() if not layouts.has_pictures]
IDS = (1, *range(260, 320))
TEXT = "In 1234 I'LL hear HTTPServer's ping"
MERGES = [f"{left} {right}" for left, right in (("1", "2"), ("12", "3"), ("123", "4"), ("T", "P"), ("TP", "S"))]
WORDS = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "12", "123", "1234", "TP", "TPS"]


def logits(file: GgufFile) -> torch.Tensor:
    """Behind every token of a text that is longer than the tiny window."""
    network = Network(file, Bench(device=CPU, dtype=torch.float32, threads=1))
    layout = lay_out([Branches(stem=IDS, answers=())], CPU, shares=True)
    return network.logits(layout, torch.arange(len(IDS)))


@pytest.mark.parametrize("which", LAYOUTS)
def test_the_same_weights_are_the_same_network_in_either_layout(tmp_path: Path, which: str) -> None:
    older, newer = (open_base(path) for path in write_layouts(tmp_path, which))
    assert read_architecture(older) == read_architecture(newer)
    assert torch.equal(logits(older), logits(newer))


PATTERN, WINDOW = "gemma3.attention.sliding_window_pattern", "gemma3.attention.sliding_window"
PERIOD_OF_3 = [True, True, False, True, True, False, True]


def with_keys(directory: Path, keys: Mapping[str, Told | None]) -> GgufFile:
    plain = write_tiny_architecture(directory / "plain.gguf", "gemma3", kind="F32")
    return gguf_file.read(rewritten(plain, directory / "told.gguf", keys=keys))


@pytest.mark.parametrize("listed", [USUAL, [int(one) for one in USUAL], [*USUAL, False]])
def test_a_list_of_the_layers_that_are_local_anyway_is_taken(tmp_path: Path, listed: list[int]) -> None:
    shape = read_architecture(with_keys(tmp_path, {PATTERN: listed}))
    assert [shape.is_local(layer) for layer in range(shape.layers)] == USUAL


@pytest.mark.parametrize("listed", [PERIOD_OF_3, [True] * 7, [False] * 7, USUAL[:6]])
def test_a_list_of_other_local_layers_is_refused(tmp_path: Path, listed: list[int]) -> None:
    """By its version llama.cpp computes by the list, or by the architecture's own period."""
    with pytest.raises(TrainingError, match=r"sliding_window_pattern which .* not the first 5 of every 6, as usual"):
        read_architecture(with_keys(tmp_path, {PATTERN: listed}))


def test_a_list_of_local_layers_means_nothing_without_a_window(tmp_path: Path) -> None:
    shape = read_architecture(with_keys(tmp_path, {PATTERN: PERIOD_OF_3, WINDOW: None}))
    assert not any(map(shape.is_local, range(shape.layers)))


def test_a_list_of_texts_for_local_layers_is_damage(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"damaged: gemma3\.attention\.sliding_window_pattern is no list of numbers"
    ):
        read_architecture(with_keys(tmp_path, {PATTERN: ["a"]}))


@pytest.mark.parametrize("architecture", DEFAULTS)
def test_a_file_with_the_keys_of_llama_cpp_is_read_as_it_stands(tmp_path: Path, architecture: str) -> None:
    file = gguf_file.read(write_tiny_architecture(tmp_path / "tiny.gguf", architecture, kind="F32"))
    assert as_ollama_reads(file) is file


def test_only_where_ollama_sees_an_older_file_it_puts_in_a_base_of_rotations(tmp_path: Path) -> None:
    plain = write_tiny_architecture(tmp_path / "plain.gguf", "gemma3", kind="F32")
    without: dict[str, Told | None] = {"gemma3.rope.freq_base": None}
    newer = gguf_file.read(rewritten(plain, tmp_path / "newer.gguf", keys=without))
    assert read_architecture(newer).rope.base == 10_000
    marked: dict[str, Told | None] = {**without, "tokenizer.ggml.add_padding_token": False}
    assert read_architecture(gguf_file.read(rewritten(plain, tmp_path / "m.gguf", keys=marked))).rope.base == 1_000_000


def test_a_short_context_is_not_stretched(tmp_path: Path) -> None:
    older, _ = write_layouts(tmp_path, "gemma3 with pictures")
    short = rewritten(older, tmp_path / "short.gguf", keys={"gemma3.context_length": 32_768})
    assert read_architecture(gguf_file.read(short)).rope.factor == 1
    assert read_architecture(gguf_file.read(older)).rope.factor == 8


def test_tokens_without_a_vector_are_none(tmp_path: Path) -> None:
    older, newer = (
        load_tokens(open_base(path), path.stem, tmp_path) for path in write_layouts(tmp_path, "gemma3 with pictures")
    )
    text = f"a{SURPLUS[0]}b"
    assert older.prompt(text) == newer.prompt(text)
    assert older.pieces() == newer.pieces()


def test_more_tokens_than_vectors_are_damage_elsewhere(tmp_path: Path) -> None:
    keys = {key: value for key, value in LAYOUTS["gemma3 with pictures"].older.items() if key.startswith("tokenizer")}
    plain = write_tiny_architecture(tmp_path / "plain.gguf", "gemma3", kind="F32")
    with pytest.raises(TrainingError, match="so it is damaged"):
        open_base(rewritten(plain, tmp_path / "more.gguf", keys=keys))


def byte_level(path: Path, pre: str | None, architecture: str, more: Mapping[str, Told | None]) -> GgufFile:
    """A file of an architecture with a byte-level tokenizer, whose beginning it does not tell."""
    source = write_byte_level_gguf(path.with_suffix(".bytes"), pre="gpt-2", tokens=WORDS, merges=MERGES)
    keys: dict[str, Told | None] = {
        "general.architecture": architecture,
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.add_bos_token": None,
        **more,
    }
    return gguf_file.read(rewritten(source, path, keys=keys))


def llama3(path: Path, pre: str | None) -> GgufFile:
    """With Llama 3's tokens where Ollama looks for them."""
    tokens = [*WORDS, *TURN, *(f"<|reserved_{number}|>" for number in range(len(WORDS) + len(TURN), 128_010))]
    tokens[128_006], tokens[128_009] = "<|start_header_id|>", "<|eot_id|>"
    kinds = [1] * len(WORDS) + [3] * (len(tokens) - len(WORDS))
    return byte_level(path, pre, "llama", {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds})


@pytest.mark.parametrize("pre", [None, "", "default"])
def test_the_first_files_of_llama_3_are_cut_as_the_later_ones(tmp_path: Path, pre: str | None) -> None:
    older, newer = llama3(tmp_path / "older.gguf", pre), llama3(tmp_path / "newer.gguf", "llama-bpe")
    ids = load_tokens(newer, "newer", tmp_path).prompt(TEXT)
    assert load_tokens(older, "older", tmp_path).prompt(TEXT) == ids
    assert ids[0] == newer.scalar("tokenizer.ggml.bos_token_id")


def test_without_the_tokens_of_llama_3_nothing_is_put_in(tmp_path: Path) -> None:
    file = byte_level(tmp_path / "other.gguf", None, "llama", {})
    assert as_ollama_reads(file) is file


@pytest.mark.parametrize("pre", [None, "default"])
def test_older_files_of_mistral_3_are_cut_by_tekken(tmp_path: Path, pre: str | None) -> None:
    marked = {"mistral3.rope.scaling_beta": 0.1}
    older = byte_level(tmp_path / "older.gguf", pre, "mistral3", marked)
    newer = byte_level(tmp_path / "newer.gguf", "tekken", "mistral3", {})
    ids = load_tokens(newer, "newer", tmp_path).prompt(TEXT)
    assert load_tokens(older, "older", tmp_path).prompt(TEXT) == ids


def test_a_model_of_embeddings_that_calls_itself_gemma3_is_refused(tmp_path: Path) -> None:
    plain = write_tiny_architecture(tmp_path / "plain.gguf", "gemma3", kind="F32")
    dense = {"dense.0.weight": np.ones((8, 8), np.float32)}
    with pytest.raises(TrainingError, match="a model of embeddings and no language model"):
        open_base(rewritten(plain, tmp_path / "embeds.gguf", tensors=dense))


def test_transformers_is_not_given_a_file_that_it_reads_otherwise(tmp_path: Path) -> None:
    older, newer = (open_base(path) for path in write_layouts(tmp_path, "gemma3"))
    lora = Hyperparameters(form=TrainedForm.LORA)
    assert route_of(older, EngineChoice.AUTO, TrainingMethod.SFT, lora) is Route.PACKED
    assert route_of(newer, EngineChoice.TRANSFORMERS, TrainingMethod.SFT, lora) is Route.TRANSFORMERS
    with pytest.raises(TrainingError, match=r'reads otherwise than Ollama\. Set training\.engine = "auto"'):
        route_of(older, EngineChoice.TRANSFORMERS, TrainingMethod.SFT, lora)


# --------------------------------------------------------------------------- the delivery


def lesson_of(path: Path) -> LowRankLesson:
    file = gguf_file.read(path)
    rows, columns = file.tensors["blk.0.ffn_up.weight"].shape
    down, up = np.ones((1, columns), np.float32), np.ones((rows, 1), np.float32)
    return LowRankLesson(file, {"blk.0.ffn_up.weight": LowRankDelta(module="m", down=down, up=up, scale=0.1)})


def parcel_of(directory: Path, lesson: LowRankLesson) -> Parcel:
    return Parcel(
        lesson=lesson,
        name="tiny",
        directory=directory,
        demand=rounding.LADDER[0],
        report=lambda _done, _of, _what: None,
    )


def raws(file: GgufFile) -> dict[str, bytes]:
    return {key: one.raw for key, one in file.fields.items() if not key.startswith("split.")}


@pytest.mark.parametrize("which", LAYOUTS)
def test_what_is_delivered_keeps_the_keys_of_its_base(tmp_path: Path, which: str) -> None:
    """So that Ollama sees an older file in it too, and translates it again."""
    base = lesson_of(write_layouts(tmp_path, which)[0])
    (file,) = write_fused(parcel_of(tmp_path, base))
    delivered = gguf_file.read(file.path)
    assert raws(delivered) == raws(base.file)
    assert list(delivered.tensors) == list(base.file.tensors)
    assert raws(as_ollama_reads(delivered)) == raws(as_ollama_reads(base.file)) != raws(base.file)


@pytest.mark.parametrize("which", IN_SHARDS)
def test_ollama_finds_in_the_first_shard_all_that_it_translates_by(tmp_path: Path, which: str) -> None:
    base = lesson_of(write_layouts(tmp_path, which)[0])
    assert target_of(base, SERVER, rounding.LADDER[0]).server.split
    first, _ = (gguf_file.read(one.path) for one in write_split(parcel_of(tmp_path, base)))
    assert raws(first) == raws(base.file)
    assert raws(as_ollama_reads(first)) == raws(as_ollama_reads(base.file))


def test_a_base_with_pictures_stays_in_one_file(tmp_path: Path) -> None:
    """Ollama passes over pictures' tensors, and counts the embedding's rows, in the first file alone."""
    base = lesson_of(write_layouts(tmp_path, "gemma3 with pictures")[0])
    target = target_of(base, SERVER, rounding.LADDER[0])
    assert (target.server.split, target.server.fused) == (False, True)
    assert "Ollama takes this base in one file only" in next(absent([], target))


def test_shards_of_a_base_with_pictures_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    older, newer = (open_base(path) for path in write_layouts(tmp_path, "gemma3 with pictures"))
    in_shards = DeliverySettings(form=DeliveryChoice.SPLIT)
    with pytest.raises(ExportError, match="Ollama takes this base in one file only"):
        require_possible(older, in_shards)
    require_possible(older, DeliverySettings())
    require_possible(newer, in_shards)
