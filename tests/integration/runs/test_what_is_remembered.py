"""What a version has learned is known again when it comes back in other words, or its feedback is gone."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from nightschool_daemon import codec
from nightschool_daemon.jobs import MARKS, EventMark, Step, read_lines
from nightschool_daemon.learning.corrections import Kept
from nightschool_daemon.reasons import ASKED
from nightschool_daemon.wording import key_of
from nightschool_hookspecs import Context, Event, FeedbackType, Message, Metadata, Outcome, Role, Side, Specialty
from nightschool_hookspecs.records import Recipe, RunReport
from support.bare_runs import START, BareRuns, Plot, all_plugins
from support.interrupted_runs import WRITERS, InterruptedRuns

BASE, OTHER = "tiny:1b", "small:3b"
SHELL, SHELL_OF_OTHER = (Specialty(base=base, artifact_type="shell") for base in (BASE, OTHER))
PROMPTS = (
    "collect the printed invoices from every shelf",
    "describe how bakers knead sourdough in winter",
    "translate this friendly letter into business language",
    "plan a weekly menu of cheap vegetables",
    "summarise notes of the meeting where pumps were discussed",
    "explain why orange cats sleep on warm laundry",
)
SAID = "fetch bills that somebody printed and put onto shelves"


class SaysOfTheFirst:
    """A local model that has other words for the first prompt, and none for the others."""

    def __call__(self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int) -> str:
        return SAID if PROMPTS[0] in messages[-1].content else "Sure, here it is"


@pytest.fixture
def house(tmp_path: Path, tiny_gguf: Path) -> Iterator[InterruptedRuns]:
    with pytest.MonkeyPatch.context() as patch:
        made = InterruptedRuns(
            directory=tmp_path,
            gguf=tiny_gguf,
            bases=(BASE, OTHER),
            hooks=all_plugins(),
            generate=SaysOfTheFirst(),
            patch=patch,
        )
        yield made
        made.close()


def correct(
    house: BareRuns, prompts: Sequence[str], *, first: int = 0, base: str = BASE, context: Context | None = None
) -> None:
    for number, prompt in enumerate(prompts, start=first):
        house.take_in(
            Event(
                id=str(number), timestamp=START, feedback_type=FeedbackType.USER_CORRECTION, input_data=prompt,
                artifact_type="shell", model=base, ai_output="ls", corrected_output=f"ls -l {number}",
                context=context or Context(),
            )
        )  # fmt: skip


def withdraw(house: BareRuns, number: int) -> None:
    house.take_in(
        Event(
            id=str(number), timestamp=START, feedback_type=FeedbackType.EXPLICIT_NEGATIVE, input_data="",
            metadata=Metadata(deleted=True),
        )
    )  # fmt: skip


def hold(house: BareRuns, specialty: Specialty = SHELL, outcome: Outcome = Outcome.PROVEN) -> RunReport:
    return house.hold(specialty, ASKED, Recipe.TRAINING, Plot(outcome=outcome))


def learned(house: BareRuns, report: RunReport) -> set[str]:
    examples = (report.run.directory / "select" / "examples.jsonl").read_text(encoding="utf-8")
    return set(re.findall(r"user\\n(.*?)<", examples))


def side_of(house: BareRuns, number: int) -> tuple[str | None, Side | None]:
    row = house.ledger.events.get(f"dropdir/{number}")
    assert row is not None
    return row.group, row.side


STRANGERS = [f"{word} {other}" for word in ("paint", "sell", "repair", "borrow") for other in (
    "the green bicycle of my neighbour", "an unfinished wooden boat", "seven lamps without their cables")]  # fmt: skip


def waiting(house: BareRuns) -> int:
    return house.ledger.events.statistics(SHELL, with_unassigned=True).available


TODAY = [f"{word} the old lighthouse" for word in ("photograph", "whitewash", "climb", "demolish")]


@pytest.mark.parametrize("outcome", [Outcome.PROVEN, Outcome.WORSE])
def test_a_history_larger_than_a_night_has_its_turn_over_the_nights(house: InterruptedRuns, outcome: Outcome) -> None:
    """Whatever becomes of them; and what is said today does not wait behind it."""
    history = [*STRANGERS, *PROMPTS]
    correct(house, history)
    nights = [learned(house, hold(house, outcome=outcome))]
    assert waiting(house) > 0
    correct(house, TODAY, first=len(history))
    while waiting(house):
        assert len(nights) < 6, "no night brings the rest"
        nights.append(learned(house, hold(house, outcome=outcome)))
    assert len(nights) > 1
    for number, prompt in enumerate([*history, *TODAY]):
        _, side = side_of(house, number)
        assert (side is Side.TRAINING) <= (prompt in set().union(*nights)), prompt
        assert prompt not in TODAY or (side is Side.TRAINING) <= (prompt in nights[1]), prompt


def test_a_correction_that_does_not_parse_is_worth_less_and_what_was_said_of_it_is_kept(house: BareRuns) -> None:
    correct(house, PROMPTS)
    broken = house.ledger.events.get("dropdir/0")
    assert broken is not None
    house.take_in(replace(broken.event, corrected_output="ls -l '0"))
    marks = read_lines(hold(house).run.directory / "select" / MARKS, EventMark)
    worth = {one.event_id: one.priority for one in marks}
    assert worth.pop("dropdir/0") < min(worth.values())
    kept = codec.from_json((house.directory / "cache" / "corrections.json").read_bytes(), Kept)
    assert sorted(kept.scores.values(), key=str) == [0.0, *[100.0] * (len(PROMPTS) - 1)]


@pytest.mark.parametrize("outcome", [Outcome.PROVEN, Outcome.WORSE])
@pytest.mark.parametrize("prompt", [SAID, "Fetch bills that somebody printed, and put on shelves!"])
def test_who_asks_what_was_learned_as_a_variant_joins_its_original(
    house: BareRuns, prompt: str, outcome: Outcome
) -> None:
    correct(house, PROMPTS)
    assert SAID in learned(house, hold(house, outcome=outcome))
    # from now on every second new prompt is held out
    correct(house, [prompt, *STRANGERS], first=len(PROMPTS))
    hold(house)
    assert side_of(house, len(PROMPTS)) == side_of(house, 0)
    assert {side_of(house, number)[1] for number in range(7, 19)} == {Side.TRAINING, Side.HELD_OUT}


def test_who_asks_what_stood_in_a_conversation_that_was_learned_is_learned_from_by_itself(house: BareRuns) -> None:
    """It asks something else than the prompt that came after it."""
    opened = (Message(role=Role.USER, content="Hello!"), Message(role=Role.ASSISTANT, content="Hello"))
    correct(house, PROMPTS[:1], context=Context(messages=opened))
    correct(house, PROMPTS[1:], first=1)
    hold(house)
    correct(house, ["Hello", *STRANGERS], first=len(PROMPTS))
    hold(house)
    assert side_of(house, len(PROMPTS)) == (key_of("hello"), Side.TRAINING)


@pytest.mark.parametrize("change", ["withdrawn", "another prompt"])
def test_who_asks_nearly_what_was_learned_and_is_gone_joins_it(house: BareRuns, change: str) -> None:
    correct(house, PROMPTS)
    hold(house)
    group = side_of(house, 1)
    if change == "withdrawn":
        withdraw(house, 1)
    else:
        correct(house, ["sharpen all kitchen knives"], first=1)
    correct(house, ["describe how bakers knead sourdogh in winter", *STRANGERS], first=len(PROMPTS))
    hold(house)
    assert side_of(house, len(PROMPTS)) == group


@pytest.mark.parametrize("place", [Step.JUDGE, *WRITERS])
def test_of_what_is_withdrawn_while_its_run_goes_on_no_text_is_kept(house: InterruptedRuns, place: str) -> None:
    """Its lesson is learned by then, so that fingerprints stay."""
    correct(house, PROMPTS)
    house.meanwhile = lambda: withdraw(house, 0)
    if place == Step.JUDGE:
        report = house.hold(SHELL, ASKED, Recipe.TRAINING, Plot(killed_at=Step.JUDGE))
    else:
        house.dies_before = place
        report = hold(house)
    assert SAID in learned(house, report)
    of_first = {key_of(PROMPTS[0]), key_of(SAID)}
    found = [one for one in house.ledger.events.prompts("shell") if one.key in of_first]
    assert [(one.text, one.fingerprint is None, one.side) for one in found] == [(None, False, Side.TRAINING)] * 2


def test_no_variant_is_what_is_held_out_of_another_base(house: BareRuns) -> None:
    """The same prompts have the same side for all bases, so it may be asked of this one tomorrow."""
    correct(house, [*STRANGERS, *PROMPTS[1:], SAID], base=OTHER)
    hold(house, SHELL_OF_OTHER)
    correct(house, PROMPTS, first=100)
    found = learned(house, hold(house))
    held_out = side_of(house, len(STRANGERS) + len(PROMPTS) - 1)[1] is Side.HELD_OUT
    assert (SAID in found) != held_out
    assert PROMPTS[0] in found
