"""Variants of a prompt with other retrieved texts around the same question, without any model.

One text of several is dropped, or one is exchanged for what a varied query finds, or the order is another. So a model
learns to find what it needs wherever it stands, and to pass over what it does not need. Question and answer stay to the
letter, and so does what the answer rests on:

    a text is needed where it has a word of the answer that the question has not

and a needed text is neither dropped nor exchanged. An answer that names texts by their number (`[2]`) is left as it is,
and so is a prompt into which the application itself put the texts. The query is the question without some of its words,
by chance; whoever fetches the texts of a prompt is asked it. What takes another's place must be like it, or
like the question, by `measure`: what has nothing to do with either teaches nothing.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from nightschool_hookspecs import Chunk, Measure, Retrieve, TrainingExample, hookimpl
from nightschool_hookspecs.variants import FUNCTION_WORDS, WORD

CITATION = re.compile(r"\[\d+\]")

Chunks = tuple[Chunk, ...]


@dataclass(frozen=True, kw_only=True)
class AugmentationContext:
    """`[plugins.augmentation_context]`"""

    variants_per_example: int = 1
    """1..2; a training set grows to three times its size at most."""
    searched: int = 4
    """Texts that are looked for to exchange one. 0: none is exchanged."""
    query_share: float = 0.6
    """Of the question's words, above 0 and below 1, that a varied query has."""
    least_alike: float = 0.15
    """Similarity to the question or to the text whose place it takes, 0..1, that a text must have."""

    def __post_init__(self) -> None:
        if self.variants_per_example not in (1, 2):
            raise ValueError("variants_per_example must be 1 or 2")
        if self.searched < 0:
            raise ValueError("searched must be at least 0")
        if not 0 < self.query_share < 1:
            raise ValueError("query_share must be above 0 and below 1")
        if not 0 <= self.least_alike <= 1:
            raise ValueError("least_alike must be between 0 and 1")

    @hookimpl
    def nightschool_vary_context(
        self, example: TrainingExample, retrieve: Retrieve, measure: Measure, seed: int
    ) -> tuple[Chunks, ...]:
        example = replace(example, chunks=_shown(example))
        if not example.chunks or CITATION.search(example.target):
            return ()
        chance = random.Random(f"{seed}/{example.event_id}")  # noqa: S311 - a choice of texts, not a secret
        moves: list[Callable[[], Chunks | None]] = [
            lambda: _dropped(example, chance),
            lambda: _reordered(example, chance),
            lambda: self._exchanged(example, retrieve, measure, chance),
        ]
        chance.shuffle(moves)
        made = filter(None, (move() for move in moves))
        return tuple(dict.fromkeys(one for one in made if one != example.chunks))[: self.variants_per_example]

    def _exchanged(
        self, example: TrainingExample, retrieve: Retrieve, measure: Measure, chance: random.Random
    ) -> Chunks | None:
        spare = _spare(example)
        if not spare or not self.searched:
            return None
        place = chance.choice(spare)
        present = {chunk.text for chunk in example.chunks}
        found = [one for one in retrieve(self._query(example, chance), limit=self.searched) if one.text not in present]
        for other in found:
            likeness = measure([example.prompt, example.chunks[place].text], [other.text]).values
            if max(likeness) >= self.least_alike:
                return (*example.chunks[:place], other, *example.chunks[place + 1 :])
        return None

    def _query(self, example: TrainingExample, chance: random.Random) -> str:
        """Some of the question's words, in their order."""
        words = example.prompt.split()
        kept = chance.sample(range(len(words)), max(1, round(self.query_share * len(words)))) if words else []
        return " ".join(words[place] for place in sorted(kept))


def _shown(example: TrainingExample) -> Chunks:
    """The texts that its builder put around the question: all, or what fits; none where the application put any."""
    *before, last = [message.content for message in example.messages] or [""]
    if any(chunk.text.strip() in text for chunk in example.chunks for text in (*before, example.prompt)):
        return ()
    return tuple(chunk for chunk in example.chunks if chunk.text in last)


def _spare(example: TrainingExample) -> list[int]:
    """The places of the texts on which the answer does not rest."""
    wanted = _words(example.target) - _words(example.prompt)
    return [place for place, chunk in enumerate(example.chunks) if wanted.isdisjoint(_words(chunk.text))]


def _dropped(example: TrainingExample, chance: random.Random) -> Chunks | None:
    spare = _spare(example)
    if not spare or len(example.chunks) < 2:
        return None
    place = chance.choice(spare)
    return (*example.chunks[:place], *example.chunks[place + 1 :])


def _reordered(example: TrainingExample, chance: random.Random) -> Chunks:
    return tuple(chance.sample(example.chunks, len(example.chunks)))


def _words(text: str) -> frozenset[str]:
    return frozenset(WORD.findall(text.casefold())) - FUNCTION_WORDS


@hookimpl
def nightschool_register_settings() -> type[AugmentationContext]:
    return AugmentationContext
