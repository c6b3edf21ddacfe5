"""Guards that a token does not take much longer, nor a person wait much longer until an answer begins.

Time is the server's own, of generating alone: seconds of an answer over its tokens. The exam raises a suspicion where

    ratio      candidate / slower of the incumbent's two sittings, of each item that all three answered
    suspected  median ratio > 1.5, and so many ratios above 1.5 come by chance with p <= 0.05      (exact sign test)

The exam is asked in blocks, and a machine that was busy during one of them looks just like a slow candidate. So both
models are then asked prompts of the exam again in pairs, and chance says who of a pair comes first:

    broken     the same of the ratios of these pairs

Whatever else the machine does, and however it takes turns: of equal models each comes first as often as not, so that a
load makes a ratio above 1.5 with 1/2 at most, and the sign test bounds the error. Where too few pairs came in time,
nothing is broken. One unmeasured question a model comes first, as a model that was just loaded is slow.

Before an answer begins its prompt is read, and with it the examples that a candidate of them has before every
conversation: up to a thousand tokens. The same test is made of

    delay      seconds of reading: candidate - slower of the incumbent's two sittings
    suspected  median delay > 1 s, and so many above 1 s come by chance with p <= 0.05
    broken     the same of delays measured in pairs

Servers keep what they have read: where a prompt begins like the one before, the rest alone is read. So in use examples
are read once, and the delay is that of a question behind another one: the exam's are asked so, and of a pair each model
is asked another question before the one that is measured, as it may have made room for the other model. What the first
answer of a model takes longer that was just loaded is not seen.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import sub, truediv

from nightschool_hookspecs import Exam, ExamItem, GuardResult, Models, OutOfTime, Sitting, hookimpl
from nightschool_hookspecs.paired import median, sign_test

GUARD = "latency"
READING = "reading"
"""What the result on the wait for an answer is called."""

Seconds = Mapping[tuple[Sitting, str], float]
"""Of an answer, by its sitting and the id of its item."""
Take = Callable[[Sequence[ExamItem], str, int], float | None]
"""(items, model, number of the pair): seconds; None: there was no answer, or the server does not tell."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A time that both models take, and how it is told."""

    guard: str
    beside: Callable[[float, float], float]
    """The candidate's beside the incumbent's."""
    limit: float
    """Of that."""
    said: str
    """With a place for a figure of the exam."""
    said_again: str
    """The same of pairs that took turns."""
    tolerated: str
    unmeasured: int
    """Questions that come first to each model and do not count, as one that was just loaded is slow."""


@dataclass(frozen=True, kw_only=True)
class GuardLatency:
    """`[plugins.guard_latency]`"""

    largest_factor: float = 1.5
    level: float = 0.05
    """Ratios above the factor count where chance makes so many this rarely."""
    fewest_items: int = 5
    """With fewer, nothing can be significant."""
    fewest_tokens: int = 4
    """Of shorter answers the clock says little."""
    pairs: int = 20
    """Pairs that are measured again."""
    pair_tokens: int = 32
    """Longest answer of these."""
    longest_delay_s: float = 1.0
    """So much later may an answer begin; it is what a person who waits begins to notice."""

    def __post_init__(self) -> None:
        if not self.largest_factor >= 1:
            raise ValueError("largest_factor must be 1 or more")
        if not self.longest_delay_s > 0:
            raise ValueError("longest_delay_s must be above 0")
        if not 0 < self.level < 1:
            raise ValueError("level must lie between 0 and 1")
        if self.fewest_items < 2 or self.pairs < self.fewest_items:
            raise ValueError("fewest_items must be 2 or more, and pairs as many or more")
        if self.fewest_tokens < 1 or self.pair_tokens < self.fewest_tokens:
            raise ValueError("fewest_tokens must be 1 or more, and pair_tokens as many or more")

    @hookimpl
    def nightschool_guard_promotion(self, exam: Exam, seed: int, models: Models | None) -> GuardResult | None:
        if models is None:
            return None
        token = Kind(
            guard=GUARD,
            beside=truediv,
            limit=self.largest_factor,
            said="A token of the candidate took {:.2f} times as long",
            said_again="{:.2f} times as long",
            tolerated=f"{self.largest_factor:g} are tolerated.",
            unmeasured=1,
        )
        seconds = {
            (one.sitting, one.item_id): taken
            for one in exam.answers
            if not one.failed and (taken := self._seconds_a_token(one.tokens, one.generation_s)) is not None
        }

        def take(items: Sequence[ExamItem], name: str, number: int) -> float | None:
            said = models.ask(name, items[number % len(items)].messages, max_tokens=self.pair_tokens, seed=seed)
            return None if said is None else self._seconds_a_token(said.tokens, said.generation_s)

        return self._looked_at(exam, token, seconds, take, seed)

    @hookimpl(specname="nightschool_guard_promotion")
    def nightschool_guard_reading(self, exam: Exam, seed: int, models: Models | None) -> GuardResult | None:
        if models is None:
            return None
        wait = Kind(
            guard=READING,
            beside=sub,
            limit=self.longest_delay_s,
            said="Answers of the candidate began {:.1f} s later",
            said_again="{:.1f} s later",
            tolerated=f"{self.longest_delay_s:g} s are tolerated.",
            unmeasured=0,
        )
        seconds = {(one.sitting, one.item_id): one.reading_s for one in exam.answers if not one.failed}
        if not any(seconds.values()):
            # this server never tells
            return None

        def take(items: Sequence[ExamItem], name: str, number: int) -> float | None:
            # behind another question to the same model
            models.ask(name, items[(number + 1) % len(items)].messages, max_tokens=1, seed=seed)
            said = models.ask(name, items[number % len(items)].messages, max_tokens=1, seed=seed)
            return None if said is None else said.reading_s

        return self._looked_at(exam, wait, seconds, take, seed)

    def _looked_at(self, exam: Exam, kind: Kind, seconds: Seconds, take: Take, seed: int) -> GuardResult | None:
        """Suspect by the exam, and measure again what is suspected; None: too few answers tell anything."""
        in_exam = _in_exam(exam, kind, seconds)
        if len(in_exam) < self.fewest_items:
            return None
        seen = f"{kind.said.format(median(in_exam.values()))} in the exam"
        if not self._is_above(list(in_exam.values()), kind.limit):
            return GuardResult(guard=kind.guard, held=True, reason=f"{seen}; {kind.tolerated}")
        items = [item for item in exam.items if item.id in in_exam]
        again = self._in_turns(exam, kind, partial(take, items), seed)
        if len(again) < self.fewest_items:
            reason = f"{seen}, but too few answers came to measure it again."
            return GuardResult(guard=kind.guard, held=True, looked=False, reason=reason)
        return GuardResult(
            guard=kind.guard,
            held=not self._is_above(again, kind.limit),
            reason=f"{seen}, and {kind.said_again.format(median(again))} when both took turns; {kind.tolerated}",
        )

    def _is_above(self, measured: Sequence[float], limit: float) -> bool:
        above = sum(one > limit for one in measured)
        return median(measured) > limit and sign_test(above, len(measured)) <= self.level

    def _in_turns(self, exam: Exam, kind: Kind, take: Callable[[str, int], float | None], seed: int) -> list[float]:
        """Of the pairs that came in time. Items are asked in turn, over and over where they are few."""
        order = (exam.incumbent, exam.candidate)
        coin = random.Random(seed)  # noqa: S311 - no secret
        found: list[float] = []
        try:
            for name in order * kind.unmeasured:
                take(name, 0)
            for number in range(self.pairs):
                taken = {name: take(name, number) for name in coin.sample(order, len(order))}
                incumbent, candidate = (taken[name] for name in order)
                if incumbent is not None and candidate is not None:
                    found.append(kind.beside(candidate, incumbent))
        except OutOfTime:
            # what came in time is enough or is not
            return found
        return found

    def _seconds_a_token(self, tokens: int, generation_s: float) -> float | None:
        """None where the answer is too short, or the server does not tell."""
        return generation_s / tokens if tokens >= self.fewest_tokens and generation_s > 0 else None


def _in_exam(exam: Exam, kind: Kind, seconds: Seconds) -> dict[str, float]:
    """The candidate beside the slower of the incumbent's sittings, by item, where all three have a time."""
    sat = [item.id for item in exam.items if all((sitting, item.id) in seconds for sitting in Sitting)]
    return {
        one: kind.beside(
            seconds[Sitting.CANDIDATE, one],
            max(seconds[Sitting.INCUMBENT, one], seconds[Sitting.INCUMBENT_AGAIN, one]),
        )
        for one in sat
    }


@hookimpl
def nightschool_register_settings() -> type[GuardLatency]:
    return GuardLatency
