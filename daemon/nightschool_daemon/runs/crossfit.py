"""Step `crossfit`: where too few prompts are held out, trial candidates are asked what they were not trained on.

Each fold of groups is answered by a trial candidate that was trained on all the others. It is made and examined by the
steps of a run, in a directory of its own that looks like a run's: its fold is what its step `split` held out. What it
answers joins the exam of the candidate itself, which learns from every fold. So it is the recipe that is proven; the
candidate must be verified and pass the guards besides.

A trial candidate has a working tag and becomes no version. It goes as soon as it was examined; what a kill leaves of it
goes at the run's end, or is swept at the next start where the run was given up.
"""

import contextlib
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from nightschool_daemon import codec
from nightschool_daemon.config import ExamSettings, Settings
from nightschool_daemon.jobs import (
    TRIALS,
    CrossfitResult,
    ExamineResult,
    RunDirectory,
    SelectResult,
    SplitResult,
    Step,
    write_durably,
)
from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.errors import OllamaError, OllamaRefused
from nightschool_daemon.plans import duration
from nightschool_daemon.reasons import REBUILD
from nightschool_daemon.runs import rank, register, retention
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.errors import StepFailed, TimeUp
from nightschool_daemon.runs.room import run_with_room
from nightschool_daemon.runs.worker_process import run_worker
from nightschool_hookspecs.records import Recipe, Side, TrainingResult

Folds = tuple[tuple[str, ...], ...]

STEPS: Mapping[Recipe, tuple[Step, ...]] = {
    Recipe.TRAINING: (Step.SELECT, Step.TRAIN, Step.EXPORT, Step.REGISTER, Step.RANK, Step.EXAMINE),
    Recipe.EXAMPLES: (Step.SELECT, Step.REGISTER, Step.RANK, Step.EXAMINE),
}
"""What a trial candidate takes of a run's steps."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A candidate that is examined on one fold."""

    number: int
    """From 1."""
    tag: str
    context: StepContext
    """Of its own directory."""

    @property
    def is_examined(self) -> bool:
        """Whether its fold is answered."""
        return self.context.directory.is_done(Step.EXAMINE)


FEWEST_FOLDS = 2
"""So many trial candidates answer before an exam is decided early."""


def perform(context: StepContext) -> None:
    """Take every trial candidate through its steps, until the exam is decided or no time is left."""
    folds = _folds(context)
    spent_s, examined = 0.0, 0
    for number in range(1, len(folds) + 1):
        trial = _trial(context, folds, number)
        if not trial.is_examined:
            try:
                _examine(context, trial, len(folds), left_s=_left_s(context) - spent_s)
            except TimeUp as error:
                if not examined:
                    raise
                context.note(f"crossfit: {error} The exam is what {examined} of {len(folds)} folds answered.")
                _tidy(context, trial)
                break
        _tidy(context, trial)
        if not trial.is_examined:
            continue
        examined += 1
        spent_s += _trained_s(trial.context)
        # one trial candidate may be better by the luck of its training, which all of its answers share
        if examined >= FEWEST_FOLDS and trial.context.result(Step.EXAMINE, ExamineResult).decided:
            break
    context.directory.finish(Step.CROSSFIT, CrossfitResult(folds=len(folds), examined=examined, seconds=spent_s))


def clear(context: StepContext) -> Iterator[str]:
    """Remove what is left of trial candidates; a sentence for each that Ollama keeps: the next start sweeps it."""
    for path in sorted(context.directory.step(Step.CROSSFIT).glob(TRIALS)):
        try:
            _remove(context, names.trial_of(context.info.id, int(path.name)))
        except OllamaError as error:
            yield str(error)
        _clear(RunDirectory(path=path))


def _examine(context: StepContext, trial: Trial, folds: int, *, left_s: float) -> None:
    """Make a trial candidate and have it answer its fold, unless nothing is left to learn without it.

    Raises `TimeUp` where its training does not end within `left_s`.
    """
    said = f"fold {trial.number} of {folds}"
    for step in STEPS[context.info.recipe]:
        try:
            _take(trial, step, said, left_s)
        except StepFailed as error:
            # it stays the failure that it is: `TimeUp` is one too
            raise type(error)(f"{said}: {error}", plugin=error.plugin) from error
        if step is Step.SELECT and not _is_learnable(trial.context):
            context.note(f"crossfit: {said} is asked of nobody, as the others hold nothing to learn from")
            return


def _is_learnable(trial: StepContext) -> bool:
    selected = trial.result(Step.SELECT, SelectResult)
    return selected.is_learnable(trial.info.recipe, trial.settings.training.method)


def _take(trial: Trial, step: Step, said: str, left_s: float) -> None:
    if trial.context.directory.is_done(step):
        return
    trial.context.signals.check()
    trial.context.note(f"crossfit: {said}, {step}")
    trial.context.directory.begin(step)
    retention.keep_pinned(trial.context)
    if step is Step.REGISTER:
        register.perform_for_trial(trial.context, trial.tag)
        return
    if step is Step.RANK:
        rank.perform(trial.context)
        return
    if step is Step.TRAIN:
        # the trainings alone share the night's limit
        if left_s <= 0:
            raise TimeUp("no time is left for its training (training.time_limit_minutes).")
        run_with_room(trial.context, step, limit_s=left_s)
        return
    if step is Step.EXPORT:
        run_with_room(trial.context, step)
        return
    run_worker(trial.context, step)


# --------------------------------------------------------------------------- folds and time


def _folds(context: StepContext) -> Folds:
    folds = context.result(Step.SPLIT, SplitResult).folds
    selected = context.result(Step.SELECT, SelectResult)
    if not (selected.folded or selected.folded_pairs) or context.info.reason == REBUILD:
        # nothing of them would count; a rebuild has no recipe, as it takes the lesson that there is
        return ()
    trained_s = _trained_s(context)
    taken = affordable(folds, trained_s=trained_s, left_s=_left_s(context))
    if len(taken) < len(folds):
        context.note(f"crossfit: two folds in place of {len(folds)}: more go beyond training.time_limit_minutes.")
    return taken


def affordable(folds: Folds, *, trained_s: float, left_s: float) -> Folds:
    """The folds, or two that hold them all where the time that is left is too short.

    `trained_s` is what the candidate's own training took. A trial candidate learns from less, but fewer examples may be
    gone through more often: it takes as long at most. Raises `StepFailed` where not one would be done.
    """
    if len(folds) * trained_s <= left_s:
        return folds
    if trained_s > left_s:
        raise StepFailed(
            f"A training for an exam by cross-fitting may take as long as the candidate's ({duration(trained_s)}), and "
            f"training.time_limit_minutes leaves {duration(left_s)}. Raise it, or lower training.max_tokens."
        )
    return halved(folds)


def halved(folds: Folds) -> Folds:
    """Two folds that hold all others, alternately: what shared a fold still does."""
    return tuple(tuple(key for fold in folds[first::2] for key in fold) for first in range(2))


def _trained_s(context: StepContext) -> float:
    trained = context.result_if_done(Step.TRAIN, TrainingResult)
    return trained.seconds if trained is not None else 0.0


def _left_s(context: StepContext) -> float:
    """What the candidate's own training left of the night's limit."""
    return context.settings.training.time_limit_s - _trained_s(context)


# --------------------------------------------------------------------------- the directory of a trial candidate


def _trial(context: StepContext, folds: Folds, number: int) -> Trial:
    """Lay out a directory as a run has it when its prompts are split. What is there already stays, if it fits."""
    directory = RunDirectory(path=context.directory.step(Step.CROSSFIT) / f"{number:02}")
    selected = context.result(Step.SELECT, SelectResult)
    found = replace(
        split_of_trial(context.result(Step.SPLIT, SplitResult), folds, number, _counted(context)),
        closing=selected.closing,
        material=selected.material,
    )
    if directory.is_done(Step.SPLIT) and directory.result(Step.SPLIT, SplitResult) != found:
        shutil.rmtree(directory.path)
    own = replace(context, directory=directory, settings=_settings(context, len(folds)))
    if not directory.is_done(Step.SPLIT):
        for step in (Step.PREPARE, Step.SPLIT):
            directory.step(step).mkdir(parents=True, exist_ok=True)
        for file in context.directory.step(Step.PREPARE).iterdir():
            link = directory.step(Step.PREPARE) / file.name
            link.unlink(missing_ok=True)
            link.symlink_to(file)
        write_durably(directory.info, context.directory.info.read_text(encoding="utf-8"))
        write_durably(directory.settings, codec.to_json(own.settings))
        directory.finish(Step.SPLIT, found)
    return Trial(number=number, tag=names.trial_of(context.info.id, number), context=own)


def split_of_trial(found: SplitResult, folds: Folds, number: int, counted: int) -> SplitResult:
    """What the trial candidate of a fold learns from, and what it is asked: its fold. The held-out side is left out."""
    asked = frozenset(folds[number - 1])
    sides = {
        key: Side.HELD_OUT if key in asked else Side.TRAINING
        for key, side in found.sides.items()
        if side is Side.TRAINING
    }
    return replace(found, choices=(), sides=sides, folds=(), counted=counted)


def _counted(context: StepContext) -> int:
    selected, exam = context.result(Step.SELECT, SelectResult), context.settings.exam
    questions, pairs = selected.items + selected.folded, selected.pairs + selected.folded_pairs
    return min(questions, exam.max_items) + min(pairs, exam.max_pairs)


def _settings(context: StepContext, folds: int) -> Settings:
    settings, selected = context.settings, context.result(Step.SELECT, SelectResult)
    return replace(settings, exam=caps_of_trial(settings.exam, selected, folds))


def caps_of_trial(exam: ExamSettings, selected: SelectResult, folds: int) -> ExamSettings:
    """The night's caps, as far as they are one trial candidate's."""
    share = _share(selected.folded, selected.items) / folds
    return replace(
        exam,
        # no exam has room for less, also where the folds have pairs alone
        max_items=max(1, math.ceil(exam.max_items * share)),
        max_guard_items=math.ceil(exam.max_guard_items * share),
        max_pairs=math.ceil(exam.max_pairs * _share(selected.folded_pairs, selected.pairs) / folds),
    )


def _share(folded: int, held_out: int) -> float:
    """Of what counts, what trial candidates are asked; all of it where nothing counts."""
    return folded / (folded + held_out) if folded + held_out else 1.0


def _tidy(context: StepContext, trial: Trial) -> None:
    """A trial candidate that was examined, or will not be, goes at once."""
    _remove(context, trial.tag)
    _clear(trial.context.directory)


def _remove(context: StepContext, tag: str) -> None:
    """Take a trial candidate out of Ollama's memory and store."""
    if any(entry.name == tag for entry in context.ollama.tags()):
        if any(one.name == tag for one in context.ollama.loaded()):
            with contextlib.suppress(OllamaRefused):
                # somebody asks it: its time in memory runs out by itself
                context.ollama.unload(tag)
        context.ollama.delete(tag)


def _clear(directory: RunDirectory) -> None:
    """Leave of what was trained and written no more than was said of it."""
    for step in (Step.TRAIN, Step.EXPORT):
        for path in (one for one in directory.step(step).glob("*") if one.name != "result.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
