"""What two models are not asked, because one of them has learned nearly the same."""

from nightschool_daemon.evaluation.similarity import no_embeddings
from nightschool_daemon.jobs import EventRow
from nightschool_daemon.learning.comparison import both_stand, unlike
from nightschool_daemon.learning.grouping import NearPrompts
from nightschool_daemon.wording import fold
from nightschool_hookspecs.records import Side
from nightschool_hookspecs.testing import FakeMeasure, sample_event

LEARNED = "List the five largest files below the current folder"


def row(prompt: str) -> EventRow:
    event = sample_event(prompt, input_data=prompt)
    return EventRow(event=event, group=prompt, side=Side.HELD_OUT, trained_on=False, arrival=1)


def test_what_is_nearly_what_one_of_them_learned_is_not_asked() -> None:
    rows = [row(LEARNED.replace("largest", "largset")), row("Show how much memory is free"), row(LEARNED.lower())]
    find_near = NearPrompts(FakeMeasure(), no_embeddings, 0.9).across
    assert unlike(rows, [fold(LEARNED)], find_near) == [rows[1]]
    assert unlike(rows, [], find_near) == rows


def test_what_is_told_of_one_of_two_answers_says_both() -> None:
    """Of an answer that only talks to its judge nothing is left that the other could be held against."""
    assert both_stand(75.0, 30.0) == (75.0, 30.0)
    assert both_stand(None, 0.0) == (100.0, 0.0)
    assert both_stand(0.0, None) == (0.0, 100.0)
    assert both_stand(None, None) is None
