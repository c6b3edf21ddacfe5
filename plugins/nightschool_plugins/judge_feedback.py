"""Judges by feedback in use, with a sequential test that may be looked at after every event.

Answers are paired as they arrive, one of each version from one source, each of a conversation of its own: turns of one
are liked or disliked together. Pairs of which one was liked and the other not
tell the versions apart: where the candidate is not worse, it is the disliked one in at most half of them. With w such
pairs against the candidate and l for it, n = w + l, the likelihood ratio to one half, mixed over a uniform prior on
(1/2, 1), is an e-process:

    e(w, l) = 2 * integral over 1/2 < p < 1 of p^w (1 - p)^l dp / 2^-n
            = sum over i <= w of C(n + 1, i) / ((n + 1) C(n, w))

By Ville's inequality it ever reaches 1 / level with a probability of at most `level` (Robbins 1970; Ramdas et al. 2023,
"Game-theoretic statistics and safe anytime-valid inference"). Eight pairs, all against the candidate, give 57.

Against the candidate there is a pair only with an answer of the incumbent that was liked. Where feedback is corrections
alone, each pair has two disliked answers, and nothing ever shows the candidate worse: the verdict says how many liked
ones are missing. That corrections came oftener than before is no evidence, as use may have changed.
"""

import bisect
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

from nightschool_hookspecs import LiveAnswer, LiveFeedback, LiveVerdict, Outcome, hookimpl

LARGEST = 1e300
"""Evidence is cut here: beyond it there is no float."""


@dataclass(frozen=True, kw_only=True)
class JudgeFeedback:
    """`[plugins.judge_feedback]`"""

    level: float = 0.025
    """How often a candidate that is no worse is taken back all the same, and one that is no better is kept."""

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError("level must lie between 0 and 1")

    @hookimpl
    def nightschool_judge_feedback(self, live: LiveFeedback) -> LiveVerdict:
        paired, waiting = pair_up(live.answers)
        differing = [candidate for incumbent, candidate in paired if incumbent != candidate]
        against, without = sum(differing), len(differing) - sum(differing)
        liked = sum(not one.by_candidate and not one.negative for one in waiting)
        worse, better = evidence(against, without), evidence(without, against)
        return LiveVerdict(
            outcome=self._outcome(worse, better),
            evidence_worse=worse,
            evidence_better=better,
            reason=f"{_reason(live, against, len(differing))} "
            f"Evidence (e-value) that it is worse: {worse:.3g}; that it is better: {better:.3g}.",
            liked_missing=self._missing(against + liked, without),
        )

    def _missing(self, against: int, without: int) -> int:
        """How many liked answers of the incumbent are missing, were all of them to stand against a disliked one."""

        def is_enough(more: int) -> bool:
            return evidence(against + more, without) >= 1 / self.level

        # there may be thousands: each more is more evidence, and each look takes longer
        most = next(2**power for power in itertools.count() if is_enough(2**power))
        return bisect.bisect_left(range(most), True, key=is_enough)

    def _outcome(self, worse: float, better: float) -> Outcome:
        if worse >= 1 / self.level:
            return Outcome.WORSE
        return Outcome.PROVEN if better >= 1 / self.level else Outcome.NOT_ENOUGH


def evidence(against: int, without: int) -> float:
    """The e-value for "more than half of such pairs are against it"."""
    n = against + without
    above = sum(math.comb(n + 1, number) for number in range(against + 1))
    below = (n + 1) * math.comb(n, against)
    return LARGEST if above > below * int(LARGEST) else above / below


def pair_up(answers: Iterable[LiveAnswer]) -> tuple[list[tuple[bool, bool]], list[LiveAnswer]]:
    """Of each pair whether the incumbent's and the candidate's answer were disliked; and the answers that wait.

    An answer is paired with the newest one of the other version that waits. Later answers never change earlier pairs.
    """
    waiting: dict[str, list[LiveAnswer]] = {}
    found: list[tuple[bool, bool]] = []
    for answer in answers:
        others = waiting.setdefault(answer.source, [])
        if not others or others[-1].by_candidate is answer.by_candidate:
            others.append(answer)
            continue
        other = others.pop()
        incumbent, candidate = (other, answer) if answer.by_candidate else (answer, other)
        found.append((incumbent.negative, candidate.negative))
    return found, [one for of_source in waiting.values() for one in of_source]


def _reason(live: LiveFeedback, against: int, differing: int) -> str:
    return (
        f"Feedback on {live.candidate}: {_share(live, by_candidate=True)} negative; on {live.incumbent}: "
        f"{_share(live, by_candidate=False)}. Of {differing} pairs that differ {against} are against "
        f"{live.candidate}."
    )


def _share(live: LiveFeedback, *, by_candidate: bool) -> str:
    said = [one.negative for one in live.answers if one.by_candidate is by_candidate]
    return f"{sum(said)} of {len(said)}"


@hookimpl
def nightschool_register_settings() -> type[JudgeFeedback]:
    return JudgeFeedback
