"""Pairs among answers that the model in use is asked for, where a validator can score them.

A prompt that is learned from is put to it a few times at a temperature. Its answers and the wanted one are scored by
the validator of their artifact type, and of two that are more than 10 points apart

    chosen, rejected   the better and the worse one
    margin             gap / 100

So what it answers wrongly becomes the worse side. The wanted answer is never that, whatever a validator says of it.
Scores of two validators are not compared; those of validators that are ignored rank nothing. A run takes so many
prompts, in an order by its seed, so that others have their turn the next night.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from nightschool_hookspecs import AnswerScore, ExamItem, GenerationError, PreferencePair, Sample, Validate, hookimpl
from nightschool_hookspecs.pairing import PairingSettings


@dataclass(frozen=True, kw_only=True)
class Scored:
    """An answer and what its validator says."""

    text: str
    found: AnswerScore


@dataclass(frozen=True, kw_only=True)
class PreferencePairs(PairingSettings):
    """`[plugins.preference_pairs]`"""

    samples: int = 4
    """Answers to a prompt."""
    temperature: float = 0.8
    """Above 0, or all answers to a prompt are the same."""
    max_tokens: int = 512
    """Of an answer. One that is cut off there is no answer."""
    prompts: int = 64
    """A run, those whose answers are kept from earlier nights among them."""
    minutes: float = 30.0
    """A run, for questions. When they are over, the answers that there are count."""
    failures_in_a_row: int = 3
    """After so many prompts without a whole answer nothing more is asked."""
    ignored_validators: tuple[str, ...] = ("text",)
    """Whose scores rank nothing. By `text` an answer in other words is a bad one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("samples", "max_tokens", "prompts", "failures_in_a_row"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more")
        if not 0 < self.temperature <= 2:
            raise ValueError("temperature must be above 0, and 2 at most")
        if not self.minutes >= 0:
            raise ValueError("minutes must be 0 or more")

    @hookimpl
    def nightschool_build_sampled_pairs(
        self, items: tuple[ExamItem, ...], sample: Sample, validate: Validate, seed: int
    ) -> tuple[PreferencePair, ...]:
        asked = tuple(islice(self._rankable(items, validate, seed), self.prompts))
        drawn = sample(
            [item.messages for item, _ in asked],
            answers=self.samples,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            minutes=self.minutes,
            failures_in_a_row=self.failures_in_a_row,
        )
        return tuple(
            pair
            for (item, wanted), texts in zip(asked, drawn, strict=True)
            for pair in self._pairs(item, (*wanted, *self._scored(item, _new(texts, item), validate)))
        )

    def _rankable(
        self, items: Iterable[ExamItem], validate: Validate, seed: int
    ) -> Iterator[tuple[ExamItem, tuple[Scored, ...]]]:
        """The items that a validator can score, each with its wanted answer, where one is known."""
        for item in sorted(items, key=lambda one: hashlib.sha256(f"{seed}/{one.key}".encode()).digest()):
            wanted = tuple(self._scored(item, [] if item.reference is None else [item.reference], validate))
            if wanted or item.reference is None:
                yield item, wanted

    def _scored(self, item: ExamItem, texts: Iterable[str], validate: Validate) -> Iterator[Scored]:
        for text in texts:
            try:
                found = validate(item, text)
            except GenerationError:
                # a model was to judge it and did not; other answers may be judged
                continue
            # of what took too long on a busy machine nobody knows whether it is right
            if found is not None and not found.is_out_of_time and found.validator not in self.ignored_validators:
                yield Scored(text=text, found=found)

    def _pairs(self, item: ExamItem, scored: Iterable[Scored]) -> Iterator[PreferencePair]:
        by_validator: dict[str, list[tuple[float, str]]] = {}
        for one in scored:
            by_validator.setdefault(one.found.validator, []).append((one.found.score, one.text))
        for ranked in by_validator.values():
            for better, worse, margin in self.pair_up(ranked):
                if worse != item.reference:
                    yield PreferencePair(
                        event_id=item.event_id, messages=item.messages, chosen=better, rejected=worse, margin=margin
                    )


def _new(texts: Iterable[str], item: ExamItem) -> list[str]:
    """What says something, and not what another has said or was wanted, white space around it apart."""
    known = {"", (item.reference or "").strip()}
    found: dict[str, str] = {}
    for text in texts:
        if text.strip() not in known:
            found.setdefault(text.strip(), text)
    return list(found.values())


@hookimpl
def nightschool_register_settings() -> type[PreferencePairs]:
    return PreferencePairs
