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
from collections.abc import Sequence
from dataclasses import dataclass

from nightschool_hookspecs import Exam, ExamItem, GuardResult, ModelAnswer, Models, OutOfTime, Sitting, hookimpl
from nightschool_hookspecs.paired import median, sign_test

GUARD = "latency"
READING = "reading"
"""What the result on the wait for an answer is called."""


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
        ratios = self._ratios_of_exam(exam)
        if len(ratios) < self.fewest_items:
            return None
        seen = f"A token of the candidate took {median(ratios.values()):.2f} times as long in the exam"
        if not self._is_slower(list(ratios.values())):
            return GuardResult(guard=GUARD, held=True, reason=f"{seen}; {self.largest_factor:g} are tolerated.")
        again = self._measured_again(exam, [item for item in exam.items if item.id in ratios], models, seed)
        if len(again) < self.fewest_items:
            reason = f"{seen}, but too few answers came to measure it again."
            return GuardResult(guard=GUARD, held=True, looked=False, reason=reason)
        return GuardResult(
            guard=GUARD,
            held=not self._is_slower(again),
            reason=f"{seen}, and {median(again):.2f} times as long when both took turns; "
            f"{self.largest_factor:g} are tolerated.",
        )

    @hookimpl(specname="nightschool_guard_promotion")
    def nightschool_guard_reading(self, exam: Exam, seed: int, models: Models | None) -> GuardResult | None:
        if models is None:
            return None
        delays = self._delays_of_exam(exam)
        if len(delays) < self.fewest_items:
            return None
        seen = f"Answers of the candidate began {median(delays.values()):.1f} s later in the exam"
        if not self._is_above(list(delays.values()), self.longest_delay_s):
            return GuardResult(guard=READING, held=True, reason=f"{seen}; {self.longest_delay_s:g} s are tolerated.")
        again = self._delayed_again(exam, [item for item in exam.items if item.id in delays], models, seed)
        if len(again) < self.fewest_items:
            reason = f"{seen}, but too few answers came to measure it again."
            return GuardResult(guard=READING, held=True, looked=False, reason=reason)
        return GuardResult(
            guard=READING,
            held=not self._is_above(again, self.longest_delay_s),
            reason=f"{seen}, and {median(again):.1f} s later when both took turns; "
            f"{self.longest_delay_s:g} s are tolerated.",
        )

    def _is_slower(self, ratios: Sequence[float]) -> bool:
        return self._is_above(ratios, self.largest_factor)

    def _is_above(self, measured: Sequence[float], limit: float) -> bool:
        above = sum(one > limit for one in measured)
        return median(measured) > limit and sign_test(above, len(measured)) <= self.level

    def _delays_of_exam(self, exam: Exam) -> dict[str, float]:
        """By item, where all three sittings have an answer; none where the server never tells."""
        seconds = {(one.sitting, one.item_id): one.reading_s for one in exam.answers if not one.failed}
        if not any(seconds.values()):
            return {}
        sat = [item.id for item in exam.items if all((sitting, item.id) in seconds for sitting in Sitting)]
        return {
            one: seconds[Sitting.CANDIDATE, one]
            - max(seconds[Sitting.INCUMBENT, one], seconds[Sitting.INCUMBENT_AGAIN, one])
            for one in sat
        }

    def _delayed_again(self, exam: Exam, items: Sequence[ExamItem], models: Models, seed: int) -> list[float]:
        """Delays of the pairs that came in time, each question behind another one to the same model."""
        order = (exam.incumbent, exam.candidate)
        coin = random.Random(seed)  # noqa: S311 - no secret
        delays: list[float] = []
        try:
            for number in range(self.pairs):
                taken: dict[str, float | None] = {}
                for name in coin.sample(order, len(order)):
                    models.ask(name, items[(number + 1) % len(items)].messages, max_tokens=1, seed=seed)
                    said = models.ask(name, items[number % len(items)].messages, max_tokens=1, seed=seed)
                    taken[name] = None if said is None else said.reading_s
                incumbent, candidate = (taken[name] for name in order)
                if incumbent is not None and candidate is not None:
                    delays.append(candidate - incumbent)
        except OutOfTime:
            # what came in time is enough or is not
            return delays
        return delays

    def _ratios_of_exam(self, exam: Exam) -> dict[str, float]:
        """By item, where all three sittings say how long they took."""
        seconds = {
            (one.sitting, one.item_id): taken
            for one in exam.answers
            if not one.failed and (taken := self._seconds_a_token(one.tokens, one.generation_s)) is not None
        }
        sat = [item.id for item in exam.items if all((sitting, item.id) in seconds for sitting in Sitting)]
        return {
            one: seconds[Sitting.CANDIDATE, one]
            / max(seconds[Sitting.INCUMBENT, one], seconds[Sitting.INCUMBENT_AGAIN, one])
            for one in sat
        }

    def _measured_again(self, exam: Exam, items: Sequence[ExamItem], models: Models, seed: int) -> list[float]:
        """Ratios of the pairs that came in time. Items are asked in turn, over and over where they are few."""
        order = (exam.incumbent, exam.candidate)
        coin = random.Random(seed)  # noqa: S311 - no secret
        ratios: list[float] = []
        try:
            for name in order:
                self._time(models, name, items[0], seed)
            for number in range(self.pairs):
                taken = {
                    name: self._time(models, name, items[number % len(items)], seed)
                    for name in coin.sample(order, len(order))
                }
                incumbent, candidate = (taken[name] for name in order)
                if incumbent is not None and candidate is not None:
                    ratios.append(candidate / incumbent)
        except OutOfTime:
            # what came in time is enough or is not
            return ratios
        return ratios

    def _time(self, models: Models, name: str, item: ExamItem, seed: int) -> float | None:
        answer: ModelAnswer | None = models.ask(name, item.messages, max_tokens=self.pair_tokens, seed=seed)
        return None if answer is None else self._seconds_a_token(answer.tokens, answer.generation_s)

    def _seconds_a_token(self, tokens: int, generation_s: float) -> float | None:
        """None where the answer is too short, or the server does not tell."""
        return generation_s / tokens if tokens >= self.fewest_tokens and generation_s > 0 else None


@hookimpl
def nightschool_register_settings() -> type[GuardLatency]:
    return GuardLatency
