"""A sound GGUF whose metadata lie is refused with a sentence, before anything is computed with them."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.base_file import open_base, require_language_model
from nightschool_daemon.learning.engine.examples import Answer, Example
from nightschool_daemon.learning.engine.forms import LowRank
from nightschool_daemon.learning.engine.layout import lay_out
from nightschool_daemon.learning.engine.loop import Plan, train
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.engine.packed import Bench
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.loading import load_tokens
from nightschool_daemon.learning.packed_route import make_form
from nightschool_daemon.learning.tokenizer import LONGEST_TOKEN, build_tokenizer
from nightschool_hookspecs.records import Hyperparameters, TrainedForm, TrainingMethod
from nightschool_hookspecs.services import TrainingError
from support.rewritten_gguf import Told, field_of, rewritten
from support.tiny_architectures import write_tiny_architecture
from support.tiny_gguf import FEED_FORWARD, TOKENS, WIDTH, write_byte_level_gguf

Tensors = Mapping[str, NDArray[np.float32] | None]


@pytest.fixture(scope="module")
def sound(tiny_gguf: Path) -> GgufFile:
    return open_base(tiny_gguf)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Matrices this small are slower on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def telling(file: GgufFile, keys: Mapping[str, Told | None]) -> GgufFile:
    """The file as it would be with other metadata."""
    kept = {key: one for key, one in file.fields.items() if key not in keys}
    return replace(file, fields=kept | {key: field_of(key, value) for key, value in keys.items() if value is not None})


def test_a_norm_that_holds_no_number_is_found_as_the_file_is_opened(tmp_path: Path, tiny_gguf: Path) -> None:
    """Else hours may go by until a loss shows it, and a plan never would."""
    norm = np.ones(WIDTH, np.float32)
    norm[3] = np.nan
    path = rewritten(tiny_gguf, tmp_path / "nan.gguf", tensors={"blk.1.ffn_norm.weight": norm})
    with pytest.raises(TrainingError, match=r"blk\.1\.ffn_norm\.weight in .*nan\.gguf holds what is no number"):
        open_base(path)


def test_a_list_of_whole_numbers_among_the_tensors_is_no_norm(tmp_path: Path, tiny_gguf: Path) -> None:
    """Nobody computes with it, and gguf does not turn it into floats."""
    file, content = gguf_file.read(tiny_gguf), np.arange(8, dtype=np.int32).tobytes()
    places = gguf_file.NewTensor(name="places", shape=(8,), type=GGMLQuantizationType.I32, data=lambda: content)
    kept = [gguf_file.copied(file, name) for name in file.tensors]
    gguf_file.write(tmp_path / "places.gguf", file.fields.values(), [*kept, places])
    assert "places" in open_base(tmp_path / "places.gguf").tensors


def bench() -> Bench:
    return Bench(device=torch.device("cpu"), dtype=torch.float32, threads=1)


def tried(file: GgufFile) -> None:
    """All that a training asks of a base before its first step."""
    require_language_model(file)
    build_tokenizer(file)
    computed(file)


def computed(file: GgufFile) -> None:
    """A pass forth through the whole network."""
    network = Network(file, bench())
    example = Example(prompt=(1, 300, 301), answers=(Answer(tokens=(302, 303)),))
    with torch.no_grad():
        network.log_probabilities(lay_out([example.branches()], torch.device("cpu"), shares=True))


def of_llama(**keys: Told | None) -> dict[str, Told | None]:
    """Keys of the architecture; names have double underscores for dots."""
    return {f"llama.{key.replace('__', '.')}": value for key, value in keys.items()}


def of_tokenizer(**keys: Told | None) -> dict[str, Told | None]:
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


YARN: Mapping[str, Told | None] = {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0}
METADATA: Mapping[str, tuple[Mapping[str, Told | None], str]] = {
    "no architecture": ({"general.architecture": None}, r"names no general\.architecture"),
    "an architecture that is a number": ({"general.architecture": 7}, r"names no general\.architecture"),
    "an adapter": ({"general.type": "adapter"}, "of the kind 'adapter'"),
    "no heads": (of_llama(attention__head_count=0), r"lacks llama\.attention\.head_count"),
    "heads below nothing": (of_llama(attention__head_count=-4), r"head_count is -4"),
    "heads that do not part the width": (of_llama(attention__head_count=3), r"head_count_kv is 2"),
    "more heads than width": (of_llama(attention__head_count=2**31), r"head_count is 2\.14748e\+09"),
    "no heads of keys": (of_llama(attention__head_count_kv=0), "head_count_kv is 0"),
    "heads of keys that do not part the heads": (of_llama(attention__head_count_kv=3), "head_count_kv is 3"),
    "heads of keys beyond the heads": (of_llama(attention__head_count_kv=2**31), "head_count_kv is 2"),
    "keys of no size": (of_llama(attention__key_length=0), "key_length is 0"),
    "heads of another size": (
        of_llama(attention__key_length=32, attention__value_length=32, rope__dimension_count=32),
        r"attn_q\.weight is of shape \(256, 256\), and by its metadata it should be \(128, 256\)",
    ),
    "no layers": (of_llama(block_count=0), r"lacks llama\.block_count"),
    "a layer more": (of_llama(block_count=3), "claims 3 layers and has tensors of 2"),
    "2^31 layers": (of_llama(block_count=2**31), "claims 2147483648 layers and has tensors of 2"),
    "layers below nothing": (of_llama(block_count=-1), "block_count is -1"),
    "another feed-forward width": (
        of_llama(feed_forward_length=FEED_FORWARD + 32),
        r"ffn_gate\.weight is of shape \(512, 256\), and by its metadata it should be \(544, 256\)",
    ),
    "another width": (of_llama(embedding_length=WIDTH * 2), r"token_embd\.weight is of shape \(\d+, 256\)"),
    "a width of 2^31": (of_llama(embedding_length=2**31), r"token_embd\.weight is of shape"),
    "odd rotations": (of_llama(rope__dimension_count=63), "dimension_count is 63"),
    "no rotations": (of_llama(rope__dimension_count=0), "dimension_count is 0"),
    "rotations beyond the head": (of_llama(rope__dimension_count=128), "dimension_count is 128"),
    "rotations by nothing": (of_llama(rope__freq_base=0.0), "freq_base is 0"),
    "rotations by one": (of_llama(rope__freq_base=1.0, **YARN), "freq_base is 1"),
    "rotations by no number": (of_llama(rope__freq_base=math.nan), "freq_base is nan"),
    "YaRN over nothing": (of_llama(context_length=0, **YARN), "original_context_length is 0"),
    "a stretch that is no number": (of_llama(rope__scaling__factor=math.nan), "scaling.factor is nan"),
    "a stretch below nothing": (of_llama(rope__scaling__factor=-4.0), "scaling.factor is -4"),
    "an epsilon that is no number": (of_llama(attention__layer_norm_rms_epsilon=math.nan), "rms_epsilon is nan"),
    "an epsilon below nothing": (of_llama(attention__layer_norm_rms_epsilon=-1.0), "rms_epsilon is -1"),
    "an epsilon without end": (of_llama(attention__layer_norm_rms_epsilon=math.inf), "rms_epsilon is inf"),
    "temperature over nothing": (
        of_llama(attention__temperature_scale=0.5, context_length=0),
        "original_context_length is 0",
    ),
    "scaling that moves the cursor": (of_llama(rope__scaling__type="\x1b[2J"), r"Rope scaling '\\x1b\[2J'"),
    "more tokens than vectors": (of_tokenizer(tokens=[*TOKENS, "beyond"]), "tokens and vectors of"),
    "no tokens": (of_tokenizer(tokens=None), r"no tokens in tokenizer\.ggml\.tokens"),
    "an empty list of tokens": (of_tokenizer(tokens=()), r"no tokens in tokenizer\.ggml\.tokens"),
    "tokens that are numbers": (of_tokenizer(tokens=[1, 2, 3]), r"no tokens in tokenizer\.ggml\.tokens"),
    "tokens that are one text": (of_tokenizer(tokens="abc"), r"no tokens in tokenizer\.ggml\.tokens"),
    "fewer scores than tokens": (of_tokenizer(scores=[0.0] * 5), "scores has 5 numbers for"),
    "no scores": (of_tokenizer(scores=None), "scores is missing"),
    "scores that are texts": (of_tokenizer(scores=["a"] * len(TOKENS)), "scores is no list of numbers"),
    "scores that are one number": (of_tokenizer(scores=1.0), "scores is missing or no list"),
    "more kinds than tokens": (of_tokenizer(token_type=[1] * (len(TOKENS) + 1)), "token_type has"),
    "an unknown token beyond the list": (of_tokenizer(unknown_token_id=2**31), "IndexError"),
    "a token without end": (
        of_tokenizer(tokens=[*TOKENS[:-3], "a" * (LONGEST_TOKEN + 1), *TOKENS[-2:]]),
        "token .* has 1025 letters",
    ),
}


@pytest.mark.parametrize("which", METADATA)
def test_metadata_that_lie_are_refused(sound: GgufFile, which: str) -> None:
    keys, sentence = METADATA[which]
    with pytest.raises(TrainingError, match=sentence) as caught:
        tried(telling(sound, keys))
    assert str(caught.value).isprintable()
    assert str(caught.value).endswith(("another.", "base.", "anew."))


def ones(*shape: int) -> NDArray[np.float32]:
    return np.ones(shape, np.float32)


TENSORS: Mapping[str, tuple[Tensors, str]] = {
    "no last norm": ({"output_norm.weight": None}, r"no tensor output_norm\.weight"),
    "no norm in a layer": ({"blk.1.ffn_norm.weight": None}, r"no tensor blk\.1\.ffn_norm\.weight"),
    "no embedding": ({"token_embd.weight": None}, r"no token_embd\.weight"),
    "an embedding of a row": (
        {"token_embd.weight": ones(WIDTH)},
        r"it should be \(256, 256\)|tokens and vectors of 256",
    ),
    "a norm of a matrix": ({"output_norm.weight": ones(1, WIDTH)}, r"is of shape \(1, 256\), .* \(256,\)"),
    "a norm of another width": ({"blk.0.attn_norm.weight": ones(255)}, r"is of shape \(255,\)"),
    "a matrix on its side": ({"blk.0.attn_k.weight": ones(WIDTH, 128)}, r"it should be \(128, 256\)"),
    "a matrix of nothing": ({"blk.0.attn_k.weight": ones(0, WIDTH)}, r"is of shape \(0, 256\)"),
    "a matrix of three dimensions": ({"blk.0.attn_k.weight": ones(2, 64, WIDTH)}, r"is of shape \(2, 64, 256\)"),
    "a layer without values": ({"blk.1.attn_v.weight": None}, r"no tensor blk\.1\.attn_v\.weight"),
    "a head of other tokens": ({"output.weight": ones(7, WIDTH)}, r"output\.weight is of shape \(7, 256\)"),
    "a bias of another length": ({"blk.0.attn_q.bias": ones(3)}, r"attn_q\.bias is of shape \(3,\)"),
    "a norm of queries alone": ({"blk.0.attn_q_norm.weight": ones(64)}, r"no tensor blk\.0\.attn_k_norm\.weight"),
    "rotations for another head": ({"rope_freqs.weight": ones(5)}, r"rope_freqs\.weight is of shape \(5,\)"),
}


@pytest.mark.parametrize("which", TENSORS)
def test_tensors_that_do_not_fit_the_metadata_are_refused(tiny_gguf: Path, tmp_path: Path, which: str) -> None:
    tensors, sentence = TENSORS[which]
    file = gguf_file.read(rewritten(tiny_gguf, tmp_path / "lie.gguf", tensors=tensors))
    with pytest.raises(TrainingError, match=sentence):
        tried(file)


@pytest.mark.parametrize("identifier", [-1, len(TOKENS), 2**31])
def test_a_first_token_that_is_none_is_refused(sound: GgufFile, tmp_path: Path, identifier: int) -> None:
    lie = telling(sound, of_tokenizer(bos_token_id=identifier))
    with pytest.raises(TrainingError, match=f"begins texts with the token {identifier} and has"):
        load_tokens(lie, "digest", tmp_path)


def test_merges_of_what_is_no_token_are_refused(tmp_path: Path) -> None:
    file = gguf_file.read(
        write_byte_level_gguf(tmp_path / "bytes.gguf", pre="gpt-2", tokens=["a", "b"], merges=["a zebra"])
    )
    with pytest.raises(TrainingError, match=r"is damaged .*out of vocabulary"):
        build_tokenizer(file)


def test_a_base_whose_weights_are_no_numbers_is_refused_as_damaged(tiny_gguf: Path, tmp_path: Path) -> None:
    """It is not the learning rate that is to blame."""
    nothing = np.full(WIDTH, math.nan, np.float32)
    file = gguf_file.read(rewritten(tiny_gguf, tmp_path / "nan.gguf", tensors={"output_norm.weight": nothing}))
    network = Network(file, bench())
    form = LowRank(network.linears(), rank=2, alpha=4, group=1, generator=torch.Generator().manual_seed(0))
    examples = [Example(prompt=(1, 2), answers=(Answer(tokens=(3, 4)),))]
    plan = Plan(
        method=TrainingMethod.SFT,
        hyperparameters=Hyperparameters(form=TrainedForm.LORA, learning_rate=2e-4, num_epochs=1),
        seed=0,
        tokens_a_pass=512,
        output=tmp_path,
        signature="",
    )
    with pytest.raises(TrainingError, match="its weights are damaged"):
        train(network, form, examples, plan, lambda *_: None)
    assert not (tmp_path / "best.safetensors").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_neurons_are_not_added_to_weights_that_are_no_numbers(tiny_gguf: Path, tmp_path: Path, value: float) -> None:
    """The plugin that asks for them is not to blame."""
    damaged = np.full((FEED_FORWARD, WIDTH), value, np.float32)
    file = gguf_file.read(rewritten(tiny_gguf, tmp_path / "nan.gguf", tensors={"blk.1.ffn_up.weight": damaged}))
    settings = Hyperparameters(form=TrainedForm.NEURONS)
    with pytest.raises(TrainingError, match=r"blk\.1\.ffn_up in .*nan\.gguf are no numbers, so the base is damaged\."):
        make_form(Network(file, bench()), settings, seed=0)


NUMBERS = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.temperature_scale",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "rope.scaling.yarn_log_multiplier",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.global.freq_base",
    "rope.local.freq_base",
    "rope.scaling.beta_fast",
    "rope.scaling.beta_slow",
    "rope.scaling.mscale_all_dim",
    "rope.scaling_beta",
    "mm.tokens_per_image",
)
told = st.one_of(
    st.sampled_from((0, 1, 2, 3, 63, 64, 128, 256, 512, 2**31 - 1, 2**31, 2**32 - 1, -1, -(2**31))),
    st.integers(-(2**31), 2**32 - 1),
    st.floats(width=32),
    st.text(max_size=5),
)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], GgufFile]:
    directory = tmp_path_factory.mktemp("tiny")
    files: dict[str, GgufFile] = {}

    def one(architecture: str) -> GgufFile:
        if architecture not in files:
            path = directory / f"{architecture}.gguf"
            files[architecture] = open_base(write_tiny_architecture(path, architecture, kind="Q8_0"))
        return files[architecture]

    return one


@settings(max_examples=100, deadline=None)
@given(
    architecture=st.sampled_from(("llama", "mistral3", "gemma2", "gemma3", "phi3")),
    keys=st.dictionaries(st.sampled_from(NUMBERS), told, min_size=1, max_size=3),
    scaling=st.sampled_from((None, "none", "linear", "yarn", "longrope")),
)
def test_whatever_the_metadata_say_it_is_computed_or_refused(
    opened: Callable[[str], GgufFile], architecture: str, keys: dict[str, int | float | str], scaling: str | None
) -> None:
    whole: dict[str, Told | None] = {f"{architecture}.{key}": value for key, value in keys.items()}
    if scaling is not None:
        whole[f"{architecture}.rope.scaling.type"] = scaling
    try:
        lie = telling(opened(architecture), whole)
        require_language_model(lie)
        computed(lie)
    except TrainingError as error:
        refusal = str(error)
    else:
        refusal = ""
    assert refusal.isprintable()
