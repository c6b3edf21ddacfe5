"""Variants of a prompt in which a few words give way to others of the same meaning, without any model.

The words come from `data/synonyms.txt`, a small list of everyday words of English instructions that was written for
this plugin. A verb is replaced only where an instruction begins (`list the files`, `please list`, `how to list`), so
that a noun of the same form stays (`the list`); other words wherever they stand. What is quoted or has
the look of a name, path or flag is never touched, nor is a word behind `a` or `an` whose synonym wants the other one.
A variant is kept where it is close to the question by `measure`, differs in words, and has all that the
answer rests on (`nightschool_hookspecs.variants`); the answer stays the same.
"""

import functools
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources

from nightschool_hookspecs import Generate, Measure, TrainingExample, hookimpl
from nightschool_hookspecs.variants import QUOTED, VariantSettings, shared_words

PLAIN_WORD = re.compile(r"(?<![\w./\\$@#%_=*-])[A-Za-z]+(?![\w/\\$@#%_=*-]|[.:]\w)")
OPENING = re.compile(r"(?:^|[.!?;:\n]|\b(?:please|kindly|to|then|you|I|we))\s*$", re.IGNORECASE)
"""What stands before a verb that begins an instruction."""
LOOK_BACK = 32
"""Characters in front of a word that are looked at for that."""
ARTICLE = re.compile(r"\b(an?)\s+$", re.IGNORECASE)
VOWELS = "aeiou"


@dataclass(frozen=True, kw_only=True)
class Synonyms:
    """Words with those that can take their place."""

    verbs: Mapping[str, tuple[str, ...]]
    words: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class AugmentationSynonyms(VariantSettings):
    """`[plugins.augmentation_synonyms]`"""

    least_alike: float = 0.4
    """Similarity to the question, 0..1, below which a variant means something else."""
    most_same_words: float = 0.95
    """Share of words in common and in order, 0..1, above which a variant is the question itself."""
    words_per_variant: int = 2
    """Words that are replaced at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.words_per_variant < 1:
            raise ValueError("words_per_variant must be at least 1")

    @hookimpl
    def nightschool_augment_examples(
        self, examples: tuple[TrainingExample, ...], generate: Generate, measure: Measure, seed: int
    ) -> tuple[TrainingExample, ...]:
        return self.vary(examples, self._draft, measure, seed)

    def _draft(self, example: TrainingExample, question: str, chance: random.Random) -> str | None:
        needed = shared_words(question, example.target)
        found = [one for one in replaceable(question, synonyms()) if one[0][0].casefold() not in needed]
        if not found:
            return None
        text = question
        # from the end, so that earlier places stay where they are
        for word, others in sorted(
            chance.sample(found, min(self.words_per_variant, len(found))), key=lambda one: -one[0].start()
        ):
            text = text[: word.start()] + _cased(chance.choice(others), word[0]) + text[word.end() :]
        return text


def replaceable(question: str, known: Synonyms) -> Iterator[tuple[re.Match[str], tuple[str, ...]]]:
    """Words of a question with their synonyms, in order."""
    quoted = [range(*one.span()) for one in QUOTED.finditer(question)]
    for word in PLAIN_WORD.finditer(question):
        if any(word.start() in one for one in quoted):
            continue
        lower = word[0].lower()
        if lower not in known.verbs and lower not in known.words:
            continue
        before = question[max(0, word.start() - LOOK_BACK) : word.start()]
        begins = (word.start() <= LOOK_BACK or before.strip() != "") and OPENING.search(before) is not None
        others = known.verbs.get(lower, ()) if begins and lower in known.verbs else known.words.get(lower, ())
        fitting = tuple(one for one in others if _fits_article(before, one))
        if fitting and word[0] in (lower, lower.capitalize()):
            yield word, fitting


@functools.cache
def synonyms() -> Synonyms:
    """The list that comes with the package."""
    text = resources.files("nightschool_plugins").joinpath("data/synonyms.txt").read_text(encoding="utf-8")
    found: dict[str, dict[str, tuple[str, ...]]] = {"verbs": {}, "words": {}}
    kind = ""
    for line in filter(None, (one.partition("#")[0].strip() for one in text.splitlines())):
        if line.startswith("["):
            kind = line.strip("[]")
            continue
        giving, _, taking = (tuple(re.findall("[a-z]+", one)) for one in line.partition(">"))
        found[kind].update({word: tuple(other for other in taking or giving if other != word) for word in giving})
    return Synonyms(verbs=found["verbs"], words=found["words"])


def _fits_article(before: str, word: str) -> bool:
    article = ARTICLE.search(before)
    return article is None or (article[1].lower() == "an") == word.startswith(tuple(VOWELS))


def _cased(word: str, like: str) -> str:
    return word.capitalize() if like[0].isupper() else word


@hookimpl
def nightschool_register_settings() -> type[AugmentationSynonyms]:
    return AugmentationSynonyms
