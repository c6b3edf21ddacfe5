"""Rows of q and k in the wrong order do not get through; the engine's tokens are ours."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.jobs import Losses, VerifyResult
from nightschool_daemon.learning import gguf_file, loading
from nightschool_daemon.learning.export import Parcel, write_fused
from nightschool_daemon.learning.lesson import LowRankDelta, LowRankLesson
from nightschool_daemon.learning.loading import Base, from_file_layout, load_base, load_tokens, require_same_weights
from nightschool_daemon.learning.rounding import Demand
from nightschool_daemon.learning.variants import LoadedVariants, Variant
from nightschool_daemon.learning.verification import Limits, choose_positions, compare, judged, own_logprobs
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.ollama.library import OllamaLibrary
from nightschool_daemon.ollama.publish import Publication, publish
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_hookspecs.records import DeliveryForm, TrainingText
from nightschool_hookspecs.services import TrainingError
from support.night import import_tiny
from support.ollama_server import OllamaServer

PIN = "rows-nightschool:1m.base-0123456789ab"
TEXTS = [
    TrainingText(event_id=f"t-{number}", prompt=f"greet guest {number} now:\n", completion="hello to you")
    for number in range(6)
]
LIMITS = Limits(max_length=256, context_tokens=256)
QUERY_AND_KEY = {
    f"blk.{layer}.attn_{letter}.weight": f"model.layers.{layer}.self_attn.{letter}_proj"
    for layer in range(2)
    for letter in "qk"
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def settings(ollama: OllamaServer, tiny_gguf: Path) -> OllamaSettings:
    import_tiny(ollama, tiny_gguf, PIN)
    return OllamaSettings(host=ollama.url)


@pytest.fixture
def base(tiny_gguf: Path, cache: Path) -> Base:
    return load_base(tiny_gguf, sha256_of(tiny_gguf), cache)


@pytest.fixture
def client(settings: OllamaSettings) -> Iterator[OllamaHttp]:
    one = OllamaHttp(settings)
    yield one
    one.close()


def lesson() -> dict[str, LowRankDelta]:
    """A large change of what every layer attends to, in the file's order of rows."""
    generator = np.random.default_rng(3)

    def factors(module: str) -> LowRankDelta:
        down = generator.standard_normal((8, 256)).astype(np.float32)
        up = generator.standard_normal((256 if "q_proj" in module else 128, 8)).astype(np.float32)
        return LowRankDelta(module=module, down=down, up=up, scale=0.1)

    return {name: factors(module) for name, module in QUERY_AND_KEY.items()}


def served(
    base: Base,
    client: OllamaHttp,
    settings: OllamaSettings,
    delivered: dict[str, LowRankDelta],
    directory: Path,
    tag: str,
) -> VerifyResult:
    """Serve one lesson and compare with the network that `lesson()` makes."""
    parcel = Parcel(
        lesson=LowRankLesson(base.file, delivered),
        name="rows",
        directory=directory,
        demand=Demand(allowed_noise=0.0),
        report=lambda _done, _total, _text: None,
    )
    files = write_fused(parcel)
    publish(client, Publication(tag=tag, form=DeliveryForm.FUSED, files=files, base_tag=PIN, models_directory=None))
    positions = choose_positions(base.tokens, TEXTS, 32, 1, LIMITS)
    variants = LoadedVariants(base, LowRankLesson(base.file, lesson()))
    library = OllamaLibrary(settings)
    before, after = (
        [library.next_token(name, one.prefix, context_tokens=256) for one in positions] for name in (PIN, tag)
    )
    plain = own_logprobs(variants, positions)
    variants.use(Variant.TRAINED)
    table = compare(base.tokens, positions, (before, after), (plain, own_logprobs(variants, positions)))
    held_out = Losses(base_loss=0, trained_loss=0, delivered_loss=0)
    return judged(table, asked=len(positions), held_out=held_out, held_out_texts=0, prompts_equal=True)


def test_the_right_rows_pass(base: Base, client: OllamaHttp, settings: OllamaSettings, tmp_path: Path) -> None:
    result = served(base, client, settings, lesson(), tmp_path, "rows-nightschool:1m.right.v1")
    assert result.pairs > 0
    assert result.passed, result


def test_a_served_model_with_its_rows_in_the_wrong_order_does_not_pass(
    base: Base, client: OllamaHttp, settings: OllamaSettings, tmp_path: Path
) -> None:
    wrong = {name: replace(one, up=from_file_layout(base.file, name, one.up)) for name, one in lesson().items()}
    result = served(base, client, settings, wrong, tmp_path, "rows-nightschool:1m.wrong.v1")
    assert result.pairs > 0
    assert not result.passed, result
    assert "served model" in result.reason


def test_the_layouts_that_we_know_are_those_of_the_loaded_weights(base: Base) -> None:
    require_same_weights(base, QUERY_AND_KEY.values())


@pytest.mark.parametrize("name", ["blk.0.attn_q.weight", "blk.1.attn_k.weight"])
def test_a_layout_that_we_do_not_know_is_refused(base: Base, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "PERMUTED", frozenset())
    with pytest.raises(TrainingError, match=rf"The layout of {name} .*'llama' is not known"):
        require_same_weights(base, [QUERY_AND_KEY[name]])


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "greet guest 7 now:\n",
        "  two  spaces and a tab\tand a line\n\nand another ",
        "Grüße, 世界 🎉 — ½",
        "<|im_start|>user\ngreet<|im_end|>\n<|im_start|>assistant\n",
        "<bos>begins with the one that Ollama takes off",
        "<bos><bos>begins with two",
        "ends with <bos>",
        "<s>begins with the letters of a control token</s>",
        '{"json": [1, 2.5, null], "text": "a\\"b"}',
        "0123456789" * 20,
    ],
)
def test_ollama_counts_as_many_tokens_as_we_do(base: Base, settings: OllamaSettings, text: str) -> None:
    counted = OllamaLibrary(settings).next_token(PIN, text, context_tokens=512).prompt_tokens
    assert counted == len(base.tokens.prompt(text))


@pytest.mark.parametrize("says", [True, None])
def test_a_tokenizer_that_adds_spaces_adds_them_where_ollama_does(
    ollama: OllamaServer, settings: OllamaSettings, tiny_gguf: Path, cache: Path, tmp_path: Path, says: bool | None
) -> None:
    file = gguf_file.read(tiny_gguf)
    key = "tokenizer.ggml.add_space_prefix"
    keys = [one for one in file.fields.values() if one.key != key]
    if says is not None:
        keys.append(gguf_file.field(key, gguf_file.Type.BOOL, says))
    spaced = tmp_path / "spaced.gguf"
    digest = gguf_file.write(spaced, keys, [gguf_file.copied(file, name) for name in file.tensors])
    import_tiny(ollama, spaced, "rows:spaced")
    tokens, library = load_tokens(gguf_file.read(spaced), digest, cache), OllamaLibrary(settings)
    for text in ("abc", " abc", " ", "a\n b", "<|im_start|>user", "<|im_end|>\n<|im_start|>a b<|im_end|>c"):
        counted = library.next_token("rows:spaced", text, context_tokens=256).prompt_tokens
        assert counted == len(tokens.prompt(text)), text


def test_positions_are_within_what_was_learned_and_within_the_context(base: Base) -> None:
    """A character is a token here, and BOS is one more."""
    prompt = len(base.tokens.prompt(TEXTS[0].prompt))
    whole = prompt + len(TEXTS[0].completion)
    lengths = {len(one.ids) for one in choose_positions(base.tokens, TEXTS, 32, 1, LIMITS)}
    assert max(lengths) >= prompt + 3
    short = Limits(max_length=whole, context_tokens=prompt + 2)
    found = {len(one.ids) for one in choose_positions(base.tokens, TEXTS, 32, 1, short)}
    assert found == {one for one in lengths if one <= prompt + 1}
    with pytest.raises(TrainingError, match=r"prompt of less than 256 tokens.*Raise exam\.context_tokens"):
        choose_positions(base.tokens, TEXTS, 32, 1, replace(LIMITS, max_length=prompt))
