"""Tokenizers built from a GGUF's own lists count as the engine does, whatever the text."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.learning import gguf_file, tokenizer
from nightschool_daemon.learning.loading import load_tokens
from nightschool_daemon.learning.tokenizer import SPLITS, build_tokenizer
from nightschool_daemon.ollama.library import OllamaLibrary
from nightschool_hookspecs.services import TrainingError
from support.night import import_tiny
from support.ollama_server import OllamaServer
from support.rewritten_gguf import rewritten
from support.tiny_gguf import write_byte_level_gguf

ROOT = Path(__file__).resolve().parents[3]
TEXTS = (
    "I'll don't WE'RE it's",
    "numbers 1 22 333 4444 55555 and 1,234.5",
    "½ x½ ½½½ Ⅷ ²",
    "  two  spaces and a tab\tand a line\n\nand another \n",
    "Grüße, 世界 🎉 — हिन्दी ไทย العربية",
    "def f(x):\n    return x**2  # comment\r\n",
    "find . -name '*.txt' -exec grep -l \"a b\" {} \\;",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "CamelCase snake_case kebab-case",
    "HTTPServer iPhone DON'T aB/cD//\n/e ÄÖÜßen ÉtÉ ПРИВЕТ мир ǅ ªº",
    "a",
    "\n",
    " ",
)


def merges() -> tuple[list[str], list[str]]:
    """A small byte-level vocabulary and its merges, learned from the README."""
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=sorted(alphabet), show_progress=False)
    learned.train_from_iterator([(ROOT / "README.md").read_text(encoding="utf-8")], trainer)
    found = learned.get_vocab()
    tokens = sorted(found, key=lambda token: found[token])
    parts = [_parts(token, set(tokens)) for token in tokens if len(token) > 1]
    return tokens, [f"{left} {right}" for left, right in parts]


def _parts(token: str, known: set[str]) -> tuple[str, str]:
    """Some two tokens that make this one: which two is of no matter, since both sides read the same list."""
    cuts = ((token[:cut], token[cut:]) for cut in range(len(token) - 1, 0, -1))
    return next(pair for pair in cuts if known.issuperset(pair))


@pytest.fixture(scope="module")
def vocabulary() -> tuple[list[str], list[str]]:
    return merges()


@pytest.mark.parametrize("pre", SPLITS)
def test_byte_level_merges_count_as_in_the_engine(
    ollama: OllamaServer, tmp_path: Path, vocabulary: tuple[list[str], list[str]], pre: str
) -> None:
    gguf = write_byte_level_gguf(tmp_path / "bytes.gguf", pre=pre, tokens=vocabulary[0], merges=vocabulary[1])
    import_tiny(ollama, gguf, f"bytes-{pre}:1m")
    made, library = build_tokenizer(gguf_file.read(gguf)), OllamaLibrary(OllamaSettings(host=ollama.url))
    for text in TEXTS:
        ids = made.encode(text, add_special_tokens=False).ids
        assert made.decode(ids, skip_special_tokens=False) == text
        counted = library.next_token(f"bytes-{pre}:1m", text, context_tokens=512).prompt_tokens
        assert counted == len(ids), (text, [made.id_to_token(one) for one in ids])


@pytest.mark.parametrize("pre", SPLITS)
def test_where_the_file_does_not_say_it_begins_as_in_the_engine(
    ollama: OllamaServer, tmp_path: Path, vocabulary: tuple[list[str], list[str]], pre: str
) -> None:
    said = write_byte_level_gguf(tmp_path / "said.gguf", pre=pre, tokens=vocabulary[0], merges=vocabulary[1])
    gguf = rewritten(said, tmp_path / "bytes.gguf", keys={"tokenizer.ggml.add_bos_token": None})
    import_tiny(ollama, gguf, f"begins-{pre}:1m")
    tokens, library = load_tokens(gguf_file.read(gguf), pre, tmp_path), OllamaLibrary(OllamaSettings(host=ollama.url))
    counted = library.next_token(f"begins-{pre}:1m", "hello", context_tokens=512).prompt_tokens
    assert counted == len(tokens.prompt("hello"))


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_characters="▁", exclude_categories=["Cs"]), max_size=60))
def test_any_text_comes_back(tiny_gguf: Path, text: str) -> None:
    """The tiny tokenizer knows every byte; only its own control tokens may swallow what is around them."""
    made = build_tokenizer(gguf_file.read(tiny_gguf))
    assert made.decode(made.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


def test_pairs_are_merged_by_the_score_of_what_they_make() -> None:
    tokens, scores = ["a", "b", "ab", "ba", "aba"], [-9.0, -9.0, -2.0, -1.0, -3.0]
    assert tokenizer.merges_by_score(tokens, scores, [1] * 5) == [("b", "a"), ("a", "b"), ("a", "ba"), ("ab", "a")]


def test_lists_that_do_not_belong_together_are_told(tiny_gguf: Path, tmp_path: Path) -> None:
    file = gguf_file.read(tiny_gguf)
    short = gguf_file.Field(key="tokenizer.ggml.scores", raw=file.fields["tokenizer.ggml.scores"].raw[:-8], scalar=None)
    fields = [short if one.key == short.key else one for one in file.fields.values()]
    broken = gguf_file.GgufFile(
        path=tmp_path / "broken.gguf",
        fields={one.key: one for one in fields},
        tensors=file.tensors,
        content=file.content,
    )
    with pytest.raises(TrainingError, match="is damaged"):
        build_tokenizer(broken)


def test_a_kind_that_nobody_knows_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    keys = {"tokenizer.ggml.model": "zebra", "tokenizer.ggml.scores": None}
    path = rewritten(tiny_gguf, tmp_path / "zebra.gguf", keys=keys)
    with pytest.raises(TrainingError, match=r"The tokenizer of this base \(zebra, default\) cannot be read"):
        load_tokens(gguf_file.read(path), "digest", tmp_path)
