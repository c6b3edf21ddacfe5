"""Guards what has nothing to do with the lesson: sums, facts, instructions, a few lines of prose.

The prompts of `data/general_prompts.toml` are put to both models. A model can do a prompt

    with a checkable answer   where its answer matches
    without one               where its answer is more like the incumbent's own to this prompt than to any other, and
                              does not run in circles: a base that only repeats the question can do nothing

The incumbent is judged by the second rule too, by an answer that it draws at temperature 0.7: what it does not
recognise itself by it cannot do. With the prompts that the incumbent alone can do, and those that the
candidate alone can do,

    p      = P(X >= lost), X ~ binomial(lost + gained, 1/2)      (exact McNemar test)
    held     lost - gained <= 5 % of what the incumbent can do, or p > 0.05, of each kind of prompt by itself

so that a small model, which fails at most of them, is held to what it can do, and a few slips break nothing.

Slips of many nights would add up, each held beside the one before. So the candidate is compared with the base by the
same rule, and where that does not hold it must have lost no more than it gained beside the incumbent: what went in
earlier nights stops no candidate, but nothing further may go. What a model answered on an earlier night is not asked
again.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from nightschool_hookspecs import Exam, GuardResult, Measure, Message, Models, OutOfTime, Role, hookimpl
from nightschool_hookspecs.circling import says_something
from nightschool_hookspecs.paired import Losses, compare_abilities

GUARD = "general"
DRAWN_AT = 0.7
"""Temperature of the incumbent's second answer: its own spread, where greedy answers would show none."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A general prompt; `answer` is what an answer must match, None where it is compared with the incumbent's."""

    text: str
    answer: re.Pattern[str] | None


Prompts = tuple[tuple[Prompt, ...], tuple[Prompt, ...]]
"""Those with a checkable answer, and those without, in the order of the file."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a model before the candidate answers, in the order of the prompts; None where it gave no whole answer."""

    facts: list[str | None]
    """To those with a checkable answer."""
    prose: list[str | None]
    drawn: list[str | None]
    """To the same prompts as `prose`, at a temperature."""


Pairs = list[tuple[bool, bool]]
"""Whether the model before it, and whether the candidate, can do each prompt."""


@dataclass(frozen=True, kw_only=True)
class GuardGeneral:
    """`[plugins.guard_general]`"""

    tolerated_share: float = 0.05
    """Of what the incumbent can do."""
    level: float = 0.05
    """More losses break the guard where chance makes so many this rarely."""
    short_tokens: int = 48
    """Longest answer to a prompt with a checkable answer."""
    long_tokens: int = 64
    """Longest answer to any other."""

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError("level must lie between 0 and 1")
        if self.short_tokens < 1 or self.long_tokens < 1:
            raise ValueError("short_tokens and long_tokens must be 1 or more")

    @hookimpl
    def nightschool_guard_promotion(
        self, exam: Exam, seed: int, measure: Measure, models: Models | None
    ) -> GuardResult | None:
        if models is None:
            return None
        checkable, free = prompts = read_prompts()
        try:
            # one model all its questions, then the other: memory may hold one
            base = self._said(models, exam.base_apart, prompts, seed) if exam.base_apart else None
            incumbent = self._said(models, exam.incumbent, prompts, seed)
            answered = self._asked(models, exam.candidate, checkable, seed)
            written = self._asked(models, exam.candidate, free, seed)
        except OutOfTime as error:
            return GuardResult(
                guard=GUARD, held=True, looked=False, reason=f"General prompts were not compared: {error}"
            )

        def beside(said: Said) -> tuple[Pairs, Pairs]:
            return (
                _pairs(said.facts, _matches(checkable, said.facts), _matches(checkable, answered)),
                _pairs(
                    said.prose, recognised(said.drawn, said.prose, measure), recognised(written, said.prose, measure)
                ),
            )

        return self._judged(beside(incumbent), None if base is None else beside(base))

    def _said(self, models: Models, name: str, prompts: Prompts, seed: int) -> Said:
        checkable, free = prompts
        return Said(
            facts=self._asked(models, name, checkable, seed),
            prose=self._asked(models, name, free, seed),
            drawn=self._asked(models, name, free, seed, temperature=DRAWN_AT),
        )

    def _asked(
        self, models: Models, name: str, prompts: Sequence[Prompt], seed: int, temperature: float = 0.0
    ) -> list[str | None]:
        """Answers in order; None where the model gave none that was whole."""
        answers = (
            models.ask(
                name,
                (Message(role=Role.USER, content=one.text),),
                max_tokens=self.long_tokens if one.answer is None else self.short_tokens,
                seed=seed,
                temperature=temperature,
                kept=True,
            )
            for one in prompts
        )
        return [None if answer is None else answer.text for answer in answers]

    def _judged(self, beside_incumbent: tuple[Pairs, ...], beside_base: tuple[Pairs, ...] | None) -> GuardResult | None:
        """Prose that is recognised by luck makes up for no fact that is lost: each kind is judged by itself."""
        able = sum(before for pairs in beside_incumbent for before, _ in pairs)
        if not able:
            return None
        tonight = self._compared(beside_incumbent)
        since_base = tonight if beside_base is None else self._compared(beside_base)
        reason = (
            f"Of {able} general prompts that the incumbent can do, the candidate fails at "
            f"{sum(one.lost for one in tonight)}; it can do {sum(one.gained for one in tonight)} that the incumbent "
            "cannot."
        )
        if beside_base is not None:
            reason += (
                f" Beside the base it fails at {sum(one.lost for one in since_base)} more, and can do "
                f"{sum(one.gained for one in since_base)} more."
            )
        return GuardResult(
            guard=GUARD,
            held=all(
                now.held and (since.held or now.lost <= now.gained)
                for now, since in zip(tonight, since_base, strict=True)
            ),
            reason=reason,
        )

    def _compared(self, kinds: tuple[Pairs, ...]) -> list[Losses]:
        return [
            compare_abilities(
                pairs, tolerated=self.tolerated_share * sum(before for before, _ in pairs), level=self.level
            )
            for pairs in kinds
        ]


def read_prompts() -> Prompts:
    """The general prompts that come with the guard."""
    import tomllib

    text = resources.files("nightschool_plugins").joinpath("data/general_prompts.toml").read_text(encoding="utf-8")
    prompts = [
        Prompt(text=one["text"], answer=re.compile(one["answer"], re.IGNORECASE) if "answer" in one else None)
        for one in tomllib.loads(text)["prompts"]
    ]
    return (
        tuple(one for one in prompts if one.answer is not None),
        tuple(one for one in prompts if one.answer is None),
    )


def recognised(answers: Sequence[str | None], own: Sequence[str | None], measure: Measure) -> list[bool]:
    """Whether each answer says something, and is more like the incumbent's own to its prompt than to any other."""
    alike = measure([one or "" for one in answers], [one or "" for one in own])
    rows = [alike.values[row * alike.columns : (row + 1) * alike.columns].tolist() for row in range(alike.rows)]
    return [says_something(answers[place] or "") and _is_nearest(row, place) for place, row in enumerate(rows)]


def _is_nearest(alike: Sequence[float], place: int) -> bool:
    return all(alike[place] > like for at, like in enumerate(alike) if at != place)


def _matches(prompts: Sequence[Prompt], answers: Sequence[str | None]) -> list[bool]:
    return [
        one.answer is not None and answer is not None and one.answer.search(answer) is not None
        for one, answer in zip(prompts, answers, strict=True)
    ]


def _pairs(asked: Sequence[str | None], before: list[bool], after: list[bool]) -> Pairs:
    """Whether each model can do each prompt. A server that failed the incumbent says nothing."""
    return [pair for answer, pair in zip(asked, zip(before, after, strict=True), strict=True) if answer is not None]


@hookimpl
def nightschool_register_settings() -> type[GuardGeneral]:
    return GuardGeneral
