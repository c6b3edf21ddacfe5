"""The tokenizer of a GGUF as a `tokenizers.Tokenizer`, built straight from the file's own lists.

It gives the ids that llama.cpp gives. transformers can do the same by `gguf_file`, in half a minute for 262,144 tokens;
it stays the route for the kinds that are not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nightschool_daemon.learning import gguf_file
from nightschool_daemon.learning.base_file import ADVICE
from nightschool_daemon.learning.gguf_file import LIST_HEAD, Field, GgufFile, Type, shown
from nightschool_hookspecs.services import TrainingError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

RECIPE = 2
"""What is built is kept (`loading.load_tokens`) under this number. It must be raised with whatever gives a file another
tokenizer than before: a change in here, a kind that is newly known, or other corrections of what transformers builds.
"""
PREFIX = "tokenizer.ggml."
CONTROL, USER_DEFINED, BYTE = 3, 4, 6
"""Kinds of tokens (`llama_token_type`)."""
SPACE = "▁"
LONGEST_TOKEN = 1024
"""Letters. Every cut of a token is tried, so that a token of a million would take for ever."""

GPT2_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
# letters that are no small ones of ASCII, then letters that are no capitals of it: llama.cpp cuts CamelCase like this,
# where the makers' own expression takes classes of letters and marks
TEKKEN_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?((?=\p{L})[^a-z])*((?=\p{L})[^A-Z])+|[^\r\n\p{L}\p{N}]?((?=\p{L})[^a-z])+((?=\p{L})[^A-Z])*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS: dict[str, tuple[str, ...]] = {
    "gpt-2": (GPT2_SPLIT,),
    "llama-bpe": (LLAMA3_SPLIT,),
    "llama3": (LLAMA3_SPLIT,),
    "pixtral": (LLAMA3_SPLIT,),
    "falcon3": (LLAMA3_SPLIT,),
    "dbrx": (LLAMA3_SPLIT,),
    "qwen2": (QWEN2_SPLIT,),
    "deepseek-r1-qwen": (QWEN2_SPLIT,),
    "smollm": (r"\p{N}", GPT2_SPLIT),
    "tekken": (TEKKEN_SPLIT,),
}
"""By `tokenizer.ggml.pre`: at what a text is cut before merges begin (`llama-vocab.cpp`)."""
WHOLE_WORDS = frozenset({"llama-bpe", "llama3", "pixtral", "falcon3", "tekken"})
"""Those that take a whole word that is a token before they look at merges. They begin a text with BOS, where the file
does not say."""


def is_known(file: GgufFile) -> bool:
    """Whether the tokenizer of a file can be built here."""
    model = file.scalar(f"{PREFIX}model")
    return model == "llama" or (model == "gpt2" and file.scalar(f"{PREFIX}pre") in SPLITS)


def build_tokenizer(file: GgufFile) -> Tokenizer:
    """Build it. It adds no token of its own: what begins a text is its user's to add.

    Raises `TrainingError` where the file's lists do not belong together.
    """
    try:
        made = _by_scores(file) if file.scalar(f"{PREFIX}model") == "llama" else _by_merges(file)
        _add_whole_tokens(made, file)
    except Exception as error:  # the library raises plain ones, in Rust's words
        raise TrainingError(f"The tokenizer in {file.path} is damaged ({_told(error)}). {ADVICE}") from error
    return made


def _told(error: Exception) -> str:
    return shown(" ".join(f"{type(error).__name__}: {error}".split()))


def _by_scores(file: GgufFile) -> Tokenizer:
    """SentencePiece: the pair whose token has the highest score is merged first; the unknown falls to bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    tokens = list(_texts(file, "tokens"))
    scores = _numbers(file, "scores", len(tokens))
    unknown = file.scalar(f"{PREFIX}unknown_token_id")
    made = Tokenizer(
        models.BPE(
            vocab=_vocabulary(tokens),
            merges=merges_by_score(tokens, scores, _numbers(file, "token_type", len(tokens))),
            unk_token=tokens[unknown] if isinstance(unknown, int) else None,
            fuse_unk=True,
            byte_fallback=True,
            ignore_merges=False,
        )
    )
    spaces = normalizers.Replace(" ", SPACE)
    is_spaced = file.scalar(f"{PREFIX}add_space_prefix") is not False
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if is_spaced else spaces
    made.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return made


def _by_merges(file: GgufFile) -> Tokenizer:
    """Byte-level BPE with the merges that the file lists."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    tokens = list(_texts(file, "tokens"))
    merges = [(left, right) for left, _, right in (pair.partition(" ") for pair in _texts(file, "merges"))]
    pre = str(file.scalar(f"{PREFIX}pre"))
    made = Tokenizer(models.BPE(vocab=_vocabulary(tokens), merges=merges, ignore_merges=pre in WHOLE_WORDS))
    cuts = [pre_tokenizers.Split(Regex(one), behavior="isolated") for one in SPLITS[pre]]
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    return made


def merges_by_score(tokens: Sequence[str], scores: Sequence[float], kinds: Sequence[float]) -> list[tuple[str, str]]:
    """Every pair of tokens whose text together is a token, the likeliest first."""
    places = {token: place for place, token in enumerate(tokens)}
    found: list[tuple[float, int, int, str, str]] = []
    for place, token in enumerate(tokens):
        if len(token) < 2 or kinds[place] in (CONTROL, USER_DEFINED, BYTE):
            continue
        if len(token) > LONGEST_TOKEN:
            raise ValueError(f"token {place} has {len(token)} letters")
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in places and right in places:
                found.append((-scores[place], places[left], places[right], left, right))
    found.sort(key=lambda one: one[:3])
    return [(left, right) for _, _, _, left, right in found]


def _add_whole_tokens(made: Tokenizer, file: GgufFile) -> None:
    """Control tokens, and those that the model's maker defined, are found in a text before anything else."""
    from tokenizers import AddedToken

    of_kind: dict[float, list[AddedToken]] = {CONTROL: [], USER_DEFINED: []}
    tokens = list(_texts(file, "tokens"))
    for token, kind in zip(tokens, _numbers(file, "token_type", len(tokens)), strict=True):
        if kind in of_kind:
            of_kind[kind].append(AddedToken(token, normalized=False, special=kind == CONTROL))
    made.add_special_tokens(of_kind[CONTROL])
    made.add_tokens(of_kind[USER_DEFINED])


def _vocabulary(tokens: Sequence[str]) -> dict[str, int]:
    return {token: place for place, token in enumerate(tokens)}


def _numbers(file: GgufFile, name: str, expected: int) -> Sequence[float]:
    """A list of so many numbers of the tokenizer, one a token."""
    found = gguf_file.numbers(_list(file, name))
    if len(found) != expected:
        raise ValueError(f"{PREFIX}{name} has {len(found)} numbers for {expected} tokens")
    return found


def _texts(file: GgufFile, name: str) -> Iterator[str]:
    """A list of texts of the tokenizer."""
    field = _list(file, name)
    if LIST_HEAD.unpack_from(field.raw)[1] != Type.STRING:
        raise ValueError(f"{PREFIX}{name} is no list of texts")
    return gguf_file.texts(field)


def _list(file: GgufFile, name: str) -> Field:
    field = file.fields.get(f"{PREFIX}{name}")
    if field is None or field.scalar is not None:
        raise ValueError(f"{PREFIX}{name} is missing or no list")
    return field
