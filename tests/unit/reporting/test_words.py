"""Figures in plain words, and what of somebody else's texts a terminal gets to see."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon.jobs import Watched
from nightschool_daemon.reporting.records import Drift, InUse, Level, TrackedExam, TrackRecord, Trend
from nightschool_daemon.reporting.sheet import Picture, Section, clean, markdown_of, one_line
from nightschool_daemon.reporting.words import (
    TRACK_COLUMNS,
    drift_in_words,
    nights_section,
    points_in_words,
    replayed_in_words,
    starters_in_words,
    track_table,
    trend_in_words,
    verdict_sentences,
)
from nightschool_hookspecs.records import GuardResult, Outcome, Verdict
from support.seasons import START, night, sheet


def verdict(
    gain: float = 34.0,
    interval: tuple[float, float] = (24.0, 41.0),
    outcome: Outcome = Outcome.PROVEN,
    guards: tuple[GuardResult, ...] = (),
    items_needed: int | None = None,
) -> Verdict:
    return Verdict(
        outcome=outcome,
        incumbent_mean=57.0,
        candidate_mean=57.0 + gain,
        gain=gain,
        interval=interval,
        p_value=0.01,
        noise=1.0,
        items=20,
        items_needed=items_needed,
        guards=guards,
        reason="Seen.",
    )


@pytest.mark.parametrize(
    ("gain", "interval", "told"),
    [
        (34.0, (24.0, 41.0), "34 more than before (57 before, 91 after); the truth lies between 24 and 41 more with"),
        (-6.0, (-9.0, -2.0), "6 fewer than before (57 before, 51 after); the truth lies between 9 and 2 fewer with"),
        (3.0, (-4.0, 9.0), "3 more than before (57 before, 60 after); the truth lies between 4 fewer and 9 more with"),
        (88.0, (88.1, 88.2), "88 more than before (57 before, 145 after); the truth lies at about 88 more with"),
        (0.2, (-4.0, 0.4), "as many as before (57 before, 57 after); the truth lies between 4 fewer and 0 more with"),
    ],
)
def test_an_interval_is_told_in_words(gain: float, interval: tuple[float, float], told: str) -> None:
    assert points_in_words(verdict(gain, interval)) == f"Of 100 points, {told} 95 % certainty."


@given(st.floats(-100, 100), st.floats(0, 50), st.floats(0, 50))
def test_the_figures_in_the_words_are_those_of_the_verdict(gain: float, below: float, above: float) -> None:
    told = points_in_words(verdict(gain, (gain - below, gain + above)))
    bounds = [
        int(one) for one in re.findall(r"\d+", told.partition("the truth lies")[2].removesuffix("95 % certainty."))
    ]
    assert bounds == [abs(one) for one in dict.fromkeys((round(gain - below), round(gain + above)))]
    assert f"{abs(round(gain))} more than" in told or f"{abs(round(gain))} fewer than" in told or not round(gain)


def test_a_verdict_says_what_got_worse_and_what_is_still_needed() -> None:
    broken = GuardResult(guard="liked", held=False, reason="Liked answers lost 12 points.")
    held = replace(broken, held=True)
    turned_down = " ".join(verdict_sentences(verdict(outcome=Outcome.WORSE, guards=(broken, held))))
    assert "turned down because something got worse. Liked answers lost 12 points." in turned_down
    open_one = " ".join(verdict_sentences(verdict(outcome=Outcome.NOT_ENOUGH, guards=(held,), items_needed=7)))
    assert "1 check held" in open_one
    assert "about 7 more new questions" in open_one
    unseen = replace(held, looked=False, reason="Memory was not compared.")
    told = " ".join(verdict_sentences(verdict(outcome=Outcome.PROVEN, guards=(held, unseen))))
    assert "1 check held. 1 check could not be made. Memory was not compared." in told
    assert "held" not in " ".join(verdict_sentences(verdict(outcome=Outcome.PROVEN, guards=(unseen,))))


def test_what_more_questions_would_not_change_is_named() -> None:
    noisy = replace(verdict(outcome=Outcome.PROVISIONAL), obstacle="The gain is no larger than the noise.")
    told = " ".join(verdict_sentences(noisy))
    assert told.endswith("More questions alone would not tell. The gain is no larger than the noise.")


@pytest.mark.parametrize(("items", "rarest"), [(11, 4), (20, 7), (40, 14)])
def test_a_proof_says_which_faults_it_may_not_have_met(items: int, rarest: int) -> None:
    told = " ".join(verdict_sentences(replace(verdict(), items=items)))
    assert f"that fewer than about one in {rarest} prompts shows, these {items} questions may not have met." in told


def test_an_exam_by_cross_fitting_says_that_it_was_the_recipe_that_was_examined() -> None:
    crossfitted = " ".join(verdict_sentences(verdict(outcome=Outcome.PROVEN), folds=4))
    assert "it was the recipe that was examined (cross-fitting): your feedback was divided into 4 parts" in crossfitted
    assert "The new model itself learned from all parts" in crossfitted
    assert "recipe" not in " ".join(verdict_sentences(verdict(outcome=Outcome.PROVEN)))


def test_starter_examples_are_told_with_what_they_are_not() -> None:
    assert starters_in_words(1).startswith("As there is little feedback of yours yet, 1 starter example was learned")
    assert "5 starter examples were learned beside it. None counts more than yours do on average" in starters_in_words(
        5
    )


# --------------------------------------------------------------------------- track record

TREND = Trend(answers=80, changed_at=START, before=0.4, after=0.1, p_value=0.001)
DRIFT = Drift(recent=20, earlier=60, distance=0.3, p_value=0.001, examples=("a `b`\x1b[2J",))


def test_changes_are_told_where_they_are_certain_alone() -> None:
    assert trend_in_words(TREND) == (
        "Since about 02 January 2026 fewer answers are found wanting: 10%, where it was 40% before."
    )
    assert "more answers" in trend_in_words(replace(TREND, before=0.1, after=0.4))
    assert "steady" in trend_in_words(replace(TREND, p_value=0.04))
    assert "does not tell yet" in trend_in_words(None)
    assert "`a 'b'\N{REPLACEMENT CHARACTER}[2J`" in drift_in_words(DRIFT)
    assert "same kind" in drift_in_words(replace(DRIFT, p_value=0.04))
    assert "too few prompts" in drift_in_words(None)


def test_the_record_tells_what_was_corrected_in_use() -> None:
    in_use = tuple(InUse(version=f"v{number}", answers=number, score=10.0 * number) for number in (4, 3, 2, 1))
    track = TrackRecord(base_level=None, exams=(), best=None, trend=None, drift=None, in_use=in_use)
    (told, *_) = nights_section(track).sentences
    assert told == (
        "What was corrected in use came, beside its corrections, to: v4 40 points (4 answers), "
        "v3 30 points (3 answers), v2 20 points (2 answers)."
    )


def test_the_record_tells_what_each_training_was_stopped_by() -> None:
    watched = Watched(loss=0.4125, epoch=3, epochs=5, is_apart=True)
    exams = tuple(
        TrackedExam(exam=one, level=Level(points=60.0, low=55.0, high=65.0), incumbent_level=50.0)
        for one in (
            replace(night(1, 10.0), watched=watched),
            replace(night(2, 1.0), watched=replace(watched, epoch=5, is_apart=False)),
            night(3, 1.0),
        )
    )
    table = track_table(TrackRecord(base_level=50.0, exams=exams, best="v1", trend=None, drift=None))
    assert TRACK_COLUMNS[-1] == "watched loss (epoch)"
    assert [row[-1] for row in table.rows] == ["0.412 (3 of 5)", "0.412 (5 of 5, on what was learned)", "-"]


def test_the_record_is_a_table_with_a_row_a_night() -> None:
    exams = tuple(
        TrackedExam(exam=one, level=Level(points=60.0, low=55.0, high=65.0), incumbent_level=50.0)
        for one in (night(1, 10.0, promoted=True), night(2, -3.0), night(3, 4.0, promoted=True, taken_back=True))
    )
    track = TrackRecord(base_level=50.0, exams=exams, best="v1", trend=None, drift=None)
    table = track_table(track)
    assert all(len(row) == len(TRACK_COLUMNS) for row in table.rows)
    assert [row[2] for row in table.rows] == ["yes", "no", "taken back"]
    named = replace(exams[0], exam=replace(exams[0].exam, version="tiny-nightschool:1b.shell.v1"))
    assert track_table(replace(track, exams=(named,))).rows[0][1] == "v1"
    told = " ".join(nights_section(track).sentences)
    assert "3 new versions sat an exam, and 2 were put into use. The best is v1 with 60 points" in told
    high = replace(exams[0], level=Level(points=188.0, low=180.0, high=190.0))
    assert "they pass 100" in " ".join(nights_section(replace(track, exams=(high,))).sentences)
    assert "they pass 100" not in told
    assert "The base is the best" in " ".join(nights_section(replace(track, best=None)).sentences)


# --------------------------------------------------------------------------- texts of others


@given(st.text(), st.integers(10, 200))
def test_one_line_is_one_short_harmless_line(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert not set(line) & set("\n\r\t`\x1b\x07\u202e")
    line.encode()


@given(st.text(alphabet=st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs"))))
def test_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert clean(text) == text


def test_an_answer_cannot_reach_the_terminal() -> None:
    text = markdown_of(sheet("\x1b]0;title\x07 \ud800 `rm` \u202egnp.exe"))
    assert not set(text) & set("\x1b\x07\ud800\u202e")
    assert "- after (90 of 100): `\N{REPLACEMENT CHARACTER}]0;title" in text


def test_the_terminal_gets_the_plain_part_first_and_figures_last() -> None:
    made = sheet().with_section(Section(title="Over the nights", sentences=("So far.",)), before="What was left out")
    made = made.with_pictures("The exam", [Picture(title="t", words="Of 3 questions 2 are better.", svg="<svg/>")])
    lines = [line for line in markdown_of(made).splitlines() if line.startswith("#")]
    assert lines == [
        "# A better model is in use",
        "## Before and after",
        "## The exam",
        "## Over the nights",
        "## What was left out",
        "## Your feedback, piece by piece",
        "## Technical figures",
        "### Judgement",
    ]
    assert "Of 3 questions 2 are better." in markdown_of(made)
    assert "<svg" not in markdown_of(made)


def test_pieces_of_feedback_stand_on_the_page_alone() -> None:
    assert "+1.00" not in markdown_of(sheet())
    assert "corrected" not in markdown_of(sheet())


@pytest.mark.parametrize(
    ("events", "answers", "said"),
    [
        (
            3,
            4,
            "3 of them, learned before, and 4 answers of the base's own to general prompts were gone over again: 10%",
        ),
        (1, 0, "1 of them, learned before, was gone over again: 10%"),
        (0, 1, "1 answer of the base's own to general prompts was gone over again: 10%"),
    ],
)
def test_what_was_learned_again_is_told(events: int, answers: int, said: str) -> None:
    assert replayed_in_words(events, answers, 0.1) == f"So that nothing is forgotten, {said} of all examples."
