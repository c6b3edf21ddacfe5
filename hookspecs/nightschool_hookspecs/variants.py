"""What augmentations have in common: when a question in other words may stand before the same answer.

The answer of a variant is its original's to the letter. So what the answer rests on must still be asked, and no metric
of meaning sees that: with another path in it a sentence means nearly the same. By rule a variant keeps of its question

    literals         numbers, paths, flags, addresses, quoted text, identifiers: the same in the same order, no others
    names            words with a capital within a sentence, and has no others
    deciding words   `not`, `without`, `before`, `last`, `two`, ...: as often
    shared words     those that the answer has outside of its sentences: `backup` of `mkdir backup`

It is about as long, has no more lines, differs in words, and means the same by `measure`. Each rule is strict: what it
refuses wrongly costs a variant, what it let through wrongly would teach a wrong answer. Other words may change, and a
changed one may change the meaning without any rule or metric seeing it. Deciding words are English, and the negations
of a few other languages.
"""

import difflib
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from nightschool_hookspecs.artifacts import without_thinking
from nightschool_hookspecs.records import Message, Role, TrainingExample
from nightschool_hookspecs.services import Generate, GenerationError, Measure

QUOTED = re.compile(
    r"(```.*?```|`[^`\n]+`|\"[^\"\n]+\"|“[^”\n]+”|„[^“”\n]+[“”]|«[^»\n]+»|(?<!\w)'[^'\n]+'(?!\w))", re.DOTALL
)
TECHNICAL = re.compile(r"[\d/\\_=$@#%^&*+<>|~{}\[\]]|^--?\w|^\.\w|^\.{1,2}$|\w[.:-]\w|[^\W\d_A-Z][A-Z]|^[A-Z]{2,}")
"""In a word: signs that no plain one has, a leading dash or dot, an inner capital, capitals only."""
NAME = re.compile(r"(?<=[^\s.!?:][ \t])[^\W\d_]\w+")
WORD = re.compile(r"\w+")
SENTENCE = re.compile(r"\b[^\W\d_]++(?:[,;:]?[ \u2019'-][^\W\d_]++){5,200}+[.!?](?=\s|$)")
"""Six or more plain words in a row that end with a full stop. Possessive, as no word given back brings one nearer."""
NEGATED = re.compile(r"n't\b|(?<=\bcan)not\b")
PREAMBLE = re.compile(
    r"(?:sure|certainly|okay|of course|here(?:'s| is| are)\b|i (?:can|will)|i'(?:m|ll)|as an|(?:\w+ ){0,3}"
    r"(?:request|translation|paraphrase\w*|rephras\w*|rewritten|reworded)(?: \w+){0,3}:)",
    re.IGNORECASE,
)
"""How a model begins that speaks of its task."""

FUNCTION_WORDS = frozenset(
    WORD.findall(
        "a about an and any are as at be been being by can could did do does each for from had has have he her him "
        "his how i if in into is it its me my of on or our she should so some such than that the their them then "
        "there these they this those to us was we were what when where which who why will with would you your"
    )
)
"""Words on which no answer rests, though both sides have them."""
DECIDING = frozenset(
    WORD.findall(
        # negations and exceptions
        "no not never none nor neither without except excluding unless only but "
        "nicht kein keine keinen keiner ohne nie pas jamais sans nunca sin non senza não sem niet geen zonder "
        # directions, orders and comparisons
        "before after until since first last next previous more less fewer most least older oldest newer newest larger "
        "largest smaller smallest bigger biggest longer longest shorter shortest higher highest lower lowest ascending "
        "descending above below over under up down left right inside outside "
        # scopes and states
        "hidden recursively recursive running stopped active inactive today yesterday tomorrow top bottom "
        # quantities
        "half two three four five six seven eight nine ten hundred thousand million"
    )
)
OPPOSITES = frozenset(
    frozenset(pair.split("/"))
    for pair in re.findall(
        r"\S+",
        "start/stop enable/disable encrypt/decrypt compress/decompress lock/unlock mount/unmount install/uninstall "
        "push/pull upload/download import/export open/close show/hide add/remove add/delete include/exclude allow/deny "
        "increase/decrease accept/reject attach/detach activate/deactivate connect/disconnect zip/unzip "
        "archive/extract create/delete create/remove read/write begin/end",
    )
)
"""Of which a variant may not have the one where its question has the other."""
SHORTEST, LONGEST = 0.5, 2.0
"""Words of a variant, as a share of the question's: a shorter one left something out, a longer one added."""
SPARE_TOKENS = 16
"""That a model may need beyond the length of what it says anew."""

Draft = Callable[[TrainingExample, str, random.Random], str | None]
"""Says a question of an example anew, or None where it cannot."""


# --------------------------------------------------------------------------- the question of an example


def question_of(example: TrainingExample) -> str | None:
    """What the user asked, without the retrieved texts around it; None where it cannot be told from these."""
    if not example.messages or example.messages[-1].role is not Role.USER:
        return None
    shown = example.messages[-1].content
    question = example.prompt or (shown if not example.chunks else "")
    return question if question.strip() and shown.count(question) == 1 else None


def with_question(example: TrainingExample, question: str, text: str) -> TrainingExample:
    """The variant of an example that asks `text` in place of its question."""
    *before, last = example.messages
    asked = Message(role=last.role, content=last.content.replace(question, text))
    return replace(example, messages=(*before, asked), prompt=text, parent=example.event_id)


# --------------------------------------------------------------------------- what must stay


def literals(text: str) -> tuple[str, ...]:
    """Numbers, paths, flags, addresses, quoted text and identifiers in their order."""
    found: list[str] = []
    for place, part in enumerate(QUOTED.split(text)):
        # the pattern has one group, so every second part is a quotation
        found.extend([part] if place % 2 else filter(TECHNICAL.search, map(_bare_word, part.split())))
    return tuple(found)


def shared_words(question: str, answer: str) -> frozenset[str]:
    """Words of the question, in lower case, that stand in the answer outside of its sentences, and say something."""
    written = frozenset(WORD.findall(SENTENCE.sub(" ", answer).casefold()))
    return frozenset(WORD.findall(question.casefold())) & written - FUNCTION_WORDS


@dataclass(frozen=True)
class Essentials:
    """What of a question its answer may rest on. Each part is found once, with however many it is compared."""

    question: str
    answer: str = ""

    @cached_property
    def literals(self) -> tuple[str, ...]:
        """As the function has them."""
        return literals(self.question)

    @cached_property
    def deciding(self) -> Counter[str]:
        """Deciding words, and how often each."""
        plain = NEGATED.sub(" not", self.question.casefold().replace("\u2019", "'"))
        return Counter(word for word in WORD.findall(plain) if word in DECIDING)

    @cached_property
    def names(self) -> frozenset[str]:
        """Words with a capital within a sentence."""
        return frozenset(one for one in NAME.findall(self.question) if one[0].isupper())

    @cached_property
    def words(self) -> frozenset[str]:
        """As they are written."""
        return frozenset(WORD.findall(self.question))

    @cached_property
    def folded(self) -> frozenset[str]:
        """Words without case."""
        return frozenset(word.casefold() for word in self.words)

    @cached_property
    def shared(self) -> frozenset[str]:
        """Words that the answer needs."""
        return shared_words(self.question, self.answer)

    def is_kept_by(self, variant: "Essentials") -> bool:
        """Whether a variant still has all that the answer may rest on, and nothing of the kind besides."""
        return (
            variant.literals == self.literals
            and variant.deciding == self.deciding
            and self.names <= variant.words
            and all(name.casefold() in self.folded for name in variant.names)
            and not _turns(self.folded, variant.folded)
            and self.shared <= variant.folded
        )


def keeps(question: str, variant: str, answer: str) -> bool:
    """Whether a variant still has all of its question that the answer may rest on, and nothing of the kind besides."""
    return Essentials(question, answer).is_kept_by(Essentials(variant))


def _turns(asked: frozenset[str], said: frozenset[str]) -> bool:
    """Whether a variant has an opposite of a word of its question, which the question has not."""
    return any(len(pair & asked) == 1 and pair & said - asked for pair in OPPOSITES)


def _bare_word(word: str) -> str:
    """A word without the punctuation around it; the names of the directory and of the one above are no punctuation."""
    return word if word in (".", "..") else word.rstrip(".,;:!?)'\"…").lstrip("('\"")


# --------------------------------------------------------------------------- settings and the loop


@dataclass(frozen=True, kw_only=True)
class VariantSettings:
    """Settings of a plugin that says questions anew. Its own class inherits them."""

    variants_per_example: int = 1
    """1..2; a training set grows to three times its size at most."""
    least_alike: float = 0.35
    """Similarity to the question, 0..1, below which a variant means something else."""
    most_same_words: float = 0.9
    """Share of words in common and in order, 0..1, above which a variant is the question itself."""
    longest_question: int = 4000
    """Characters; a longer question is left as it is."""

    def __post_init__(self) -> None:
        if self.variants_per_example not in (1, 2):
            raise ValueError("variants_per_example must be 1 or 2")
        if self.longest_question < 1:
            raise ValueError("longest_question must be at least 1")
        for name in ("least_alike", "most_same_words"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1")

    def vary(
        self, examples: Sequence[TrainingExample], draft: Draft, measure: Measure, seed: int
    ) -> tuple[TrainingExample, ...]:
        """The variants that keep the rules, in rounds: a second one of an example comes after the first of all.

        Those come first at which the model fails (`hardness`). Of equally hard ones the order is by `seed`, so that a
        budget does not always serve the same ones. All drafts are
        made before the first is measured: a model that generates and one that embeds may not fit into memory together.
        """
        asked = [(one, text) for one in examples if one.parent is None and (text := question_of(one)) is not None]
        random.Random(seed).shuffle(asked)  # noqa: S311 - a choice of examples, not a secret
        asked.sort(key=lambda one: -one[0].hardness)
        asked = [one for one in asked if len(one[1]) <= self.longest_question]
        known = [[question] for _, question in asked]
        drafted: list[tuple[TrainingExample, str, str]] = []
        for number in range(self.variants_per_example):
            for (example, question), texts in zip(asked, known, strict=True):
                chance = random.Random(f"{seed}/{example.event_id}/{number}")  # noqa: S311 - no secret
                text = draft(example, question, chance)
                if text is not None and self._may_stand(text, texts) and keeps(question, text, example.target):
                    texts.append(text)
                    drafted.append((example, question, text))
        return tuple(
            with_question(example, question, text)
            for example, question, text in drafted
            if measure([question], [text]).values[0] >= self.least_alike
        )

    def _may_stand(self, text: str, known: Sequence[str]) -> bool:
        """Whether a text has the size of the question, the first of `known`, and differs from all of them."""
        question, words = known[0], _folded(text)
        size = len(words) / max(1, len(_folded(question)))
        return (
            SHORTEST <= size <= LONGEST
            and len(text.strip().splitlines()) <= len(question.strip().splitlines())
            and all(_same_words(_folded(one), words) <= self.most_same_words for one in known)
            and all(_folded(one) != words for one in known)
        )


def _folded(text: str) -> list[str]:
    """Words without case, space and punctuation."""
    return WORD.findall(text.casefold())


def _same_words(left: Sequence[str], right: Sequence[str]) -> float:
    """Share of words that are in both in the same order, 0..1 (Ratcliff and Obershelp, by difflib)."""
    return difflib.SequenceMatcher(None, left, right, autojunk=False).ratio()


@dataclass(frozen=True, kw_only=True)
class AskingSettings(VariantSettings):
    """The same of a plugin that has the local model say them."""

    most_questions: int = 60
    """Questions to the model for a training set; each trial candidate of cross-fitting has its own."""
    max_tokens: int = 256
    """Of an answer of the model."""
    longest_question: int = 600
    """Characters; a longer question is not said anew. So many must fit into `max_tokens`."""
    failures_in_a_row: int = 3
    """After so many the model is asked nothing more for this training set."""
    temperature: float = 0.7
    """Of the model. At 0 it says the same each night."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("most_questions", "max_tokens", "failures_in_a_row"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if not 0 <= self.temperature <= 2:
            raise ValueError("temperature must be between 0 and 2")


class AskedModel:
    """A local model that is asked within a budget. What it fails at costs that question; it is given up after a few."""

    def __init__(self, generate: Generate, settings: AskingSettings) -> None:
        self._generate = generate
        self._settings = settings
        self._left = settings.most_questions
        self._failures = 0

    def can_answer(self, questions: int) -> bool:
        """Whether so many questions more are in the budget, and the model was not given up."""
        return questions <= self._left and self._failures < self._settings.failures_in_a_row

    def ask(self, text: str, question: str, chance: random.Random) -> str | None:
        """What the model says, without quotes around it; None where it failed, or speaks of its task.

        `question` is what it is to say anew: it is given tokens for about as much, so that none is spent on an essay.
        """
        if not self.can_answer(1):
            return None
        self._left -= 1
        try:
            answer = self._generate(
                (Message(role=Role.USER, content=text),),
                # no token is less than a byte
                max_tokens=min(self._settings.max_tokens, len(question.encode()) + SPARE_TOKENS),
                temperature=self._settings.temperature,
                seed=chance.getrandbits(31),
            )
        except GenerationError:
            self._failures += 1
            return None
        self._failures = 0
        return _plain(answer)


def _plain(answer: str) -> str | None:
    text = without_thinking(answer)
    if len(text) > 1 and (text[0], text[-1]) in {('"', '"'), ("“", "”"), ("«", "»")}:
        text = text[1:-1].strip()
    return text if text and not PREAMBLE.match(text) else None
