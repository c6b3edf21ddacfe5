"""Hooks of evaluation: who sits the exam, how answers are scored, who guards, who judges, also after a promotion."""

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import (
    AnswerScore,
    Exam,
    ExamItem,
    GuardResult,
    LiveFeedback,
    LiveVerdict,
    PromptGroup,
    SideChoice,
    Verdict,
)
from nightschool_hookspecs.services import Generate, Measure, Models


@hookspec(firstresult=True)
def nightschool_select_held_out(groups: tuple[PromptGroup, ...], seed: int) -> tuple[SideChoice, ...] | None:
    """Choose the side of every group of prompts that has none yet.

    Called once at the start of each run, in the worker, with all groups of an artifact type. A side
    that was decided never changes, and a group that was trained on is never held out: such choices
    are refused. Nothing is learned from a conversation in which a held-out prompt was put before, so
    better do not hold out what `goes_on`. None: no opinion; the first answer counts. Where all say
    None, new groups go to the training side. Not asked in a training by hand, which no exam follows.
    """


@hookspec(firstresult=True)
def nightschool_select_folds(groups: tuple[PromptGroup, ...]) -> tuple[tuple[str, ...], ...] | None:
    """Divide prompts that are learned from into folds, where too few are held out for an exam.

    Called once in each run, in the worker, with all groups of the specialty and their sides, in order of their first
    event. Return the keys of each fold: its prompts are answered by a trial candidate that is trained on all others.
    A group is in one fold at most, on the training side, and unknown to every version that is or was in use; other
    choices are refused. Keep a group in its fold from night to night. With fewer than two folds, only held-out
    prompts are asked. None: no opinion; the first answer counts. Not asked in a training by hand.
    """


@hookspec(firstresult=True)
def nightschool_validate_answer(
    item: ExamItem, answer: str, measure: Measure, generate: Generate
) -> AnswerScore | None:
    """Score an answer to an exam item from 0 to 100.

    Called for every answer of an exam, in the worker that examines, and where the dataset is built: for the
    answer of a failed check, to see whether it is an item without reference, for the answers of variants, and
    for answers of the incumbent that are ranked to be learned from. `generate` asks the model of
    `exam.judge_model`. Never execute what is in the answer, but for the tests that an item brings along, and
    these by `nightschool_hookspecs.confined` alone, which runs nothing where it cannot lock its child down.
    None: not an artifact type of yours; the first answer counts. Where all say None, the run fails.
    Let a `GenerationError` of `generate` pass: while the dataset is built, nobody has looked at the answer then.
    A score that says how the answer stands to the reference, as one of two, `is_relative`: where two models are
    compared by hand on prompts alone, the answer of one is the reference of the other's. It is 50 where both are
    equally good, and good from there on; any other score is good above 70. One that a busy machine decided
    `is_out_of_time`: an exam counts it, but of a correction nobody has looked at it then.
    """


@hookspec
def nightschool_guard_promotion(exam: Exam, seed: int, measure: Measure, models: Models | None) -> GuardResult | None:
    """Look at one thing that must not get worse.

    Called once in a run, in the worker, after the exam. One broken guard stops promotion, whatever
    the gain. The same result for the same answers and seed. `models` asks `exam.incumbent` and
    `exam.candidate` what the exam did not; it is None where no promotion depends on it: the exam
    itself speaks against one, or two models are compared by hand. None: this guard has nothing to
    look at here.
    """


@hookspec(firstresult=True)
def nightschool_judge_exam(exam: Exam, guards: tuple[GuardResult, ...], seed: int) -> Verdict | None:
    """Judge whether the candidate is better.

    Called in the worker after each round of the exam, with what was answered so far and without
    guards, to see whether it is decided; and once after the guards. The same verdict for the same
    seed. None: no opinion; the first answer counts. Where all say None, the run fails.
    """


@hookspec(firstresult=True)
def nightschool_judge_feedback(live: LiveFeedback) -> LiveVerdict | None:
    """Judge a candidate by the feedback that came while it was in use.

    Called in the daemon whenever feedback came in, for every alias on probation after a promotion and for every share
    of use that a candidate gets: so it is asked again and again, with all answers so far, and its error must stay
    bounded however often it is. A candidate that is worse is taken back at once; one that is proven better gets the
    alias. None: no opinion; the first answer counts. Where all say None, nothing is moved.
    """
