"""Exams of a model against itself: what is asked."""

from itertools import combinations
from pathlib import Path

import numpy
import pytest

from benchmarks import exams
from nightschool_daemon.jobs import whole_lines
from nightschool_daemon.ollama.library import ChatAnswer, OllamaLibrary, PinnedOptions
from nightschool_hookspecs.records import ExamAnswer, Message, Sitting


def test_no_two_blocks_share_a_prompt_and_each_is_sat_twice() -> None:
    asked = [{item.messages[0].content for item in exams.items_of(number)} for number in range(exams.EXAMS)]
    assert {len(one) for one in asked} == {exams.EXAM_ITEMS}
    assert sum(bool(one & other) for one, other in combinations(asked, 2)) == exams.BLOCKS
    assert asked[: exams.BLOCKS] == asked[exams.BLOCKS :]


class FakeLibrary(OllamaLibrary):
    def __init__(self) -> None:
        self.seeds: list[int] = []

    def chat(self, name: str, messages: tuple[Message, ...], options: PinnedOptions, **_: object) -> ChatAnswer:  # type: ignore[override]  # it is asked for no tools
        self.seeds.append(options.seed)
        return ChatAnswer(text="ls", latency_s=0.1, tokens=1, done_reason="stop")


def test_a_killed_exam_goes_on_with_chance_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exams, "WORK", tmp_path)
    monkeypatch.setattr(exams, "EXAM_ITEMS", 4)
    library = FakeLibrary()
    examiner = exams.Examiner(library)
    examiner.hold(3)
    file = exams.file_of(3)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    examiner.hold(3)
    answers = whole_lines(file, ExamAnswer)
    assert len({(one.sitting, one.item_id) for one in answers}) == len(answers) == 4 * len(Sitting)
    assert sorted(set(library.seeds)) == list(range(3000, 3012))
    assert exams.gains_of(exams.exam_of(3, answers)) == [0.0] * 4


def test_the_peer_of_a_fixed_number_of_items_is_not_held_back_by_the_number_of_its_flips() -> None:
    """Thirteen equal gains have p = 2^-13, and are the fewest below a level of 1 in 6000."""
    better = numpy.full((4, 40), 10.0)
    assert exams.fixed_items(better, 1 / 6000, 1.0) == 13
    p = exams.permutation_p(better[:, :8], 200_000)
    assert p == pytest.approx([2**-8] * 4, rel=0.15)


def sat(gains: list[float], items_a_look: int) -> tuple[int, bool]:
    """How many items one exam is asked, and whether it ends with a proof."""
    asked, proven = exams.sat_until_decided(numpy.array([gains]), 10.0, items_a_look)
    return int(asked[0]), bool(proven[0])


def test_an_exam_is_looked_at_after_each_round_and_at_its_end() -> None:
    """Gains of 100 points prove something by the sixth item; without a gain it is soon hopeless."""
    certain = [100.0] * 13
    assert [sat(certain, items_a_look) for items_a_look in (1, 5, 20)] == [(6, True), (10, True), (13, True)]
    assert sat([0.0] * 13, 5) == (10, False)


def test_a_proof_that_is_gone_by_the_next_look_is_none() -> None:
    gains = [100.0] * 6 + [-100.0] * 4
    assert sat(gains, 1) == (6, True)
    assert sat(gains, 10) == (10, False)


def test_the_goal_is_that_of_the_rounds_of_a_night_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exams, "SIMULATIONS", 20)
    found = list(exams.items_against_fixed(exams.SCORES[0], 20.0))
    told = [("rounds of 5" in str(one["measure"]), one["goal"], one["holds"] is None) for one in found]
    assert told == [(True, 0.7, False)] * 2 + [(False, None, True)] * 2


@pytest.mark.parametrize(("differing", "could"), [(5, False), (6, True)])
def test_too_few_items_that_differ_prove_nothing_whichever_model_they_are_for(differing: int, could: bool) -> None:
    gains = numpy.zeros(30)
    gains[:differing] = -100.0
    assert exams.could_prove(gains) is could
