"""Which specialties there are, which are due, and what stands in the way of the others."""

from dataclasses import dataclass, replace
from datetime import datetime

from nightschool_daemon.config import Settings, SpecialtyMode
from nightschool_daemon.evaluation.decision import items_needed
from nightschool_daemon.hooks import Hooks, PluginFailed
from nightschool_daemon.ledger import POOLED_TYPE, WAS_IN_USE, KeptLesson, Ledger, RunRow
from nightschool_daemon.ollama import names
from nightschool_daemon.reasons import FIRST_CORRECTIONS, FRESH_FEEDBACK
from nightschool_hookspecs.records import BatchStatistics, Recipe, RunEnd, Specialty


@dataclass(frozen=True, kw_only=True)
class Due:
    """A specialty whose run should start."""

    specialty: Specialty
    reason: str
    batch_size: int
    statistics: BatchStatistics
    recipe: Recipe = Recipe.TRAINING
    """Examples: a candidate of them alone is due, and no training yet."""


@dataclass(frozen=True, kw_only=True)
class SpecialtyState:
    """A specialty as `status` shows it."""

    specialty: Specialty
    alias: str
    alias_exists: bool
    serving: str | None
    """Tag of the version that the alias holds; None: the alias does not exist or holds none of ours."""
    serving_lesson: KeptLesson | None
    """How much of what was learned is in it."""
    fresh: int
    total: int
    batch_size: int
    """0: no training is due yet."""
    wants_examples: bool
    """An exam of the base with a few corrections as example messages is due."""
    last_run: RunRow | None
    problem: str | None
    """One sentence: why nothing is learned at present."""
    unwatched: str | None = None
    """Why feedback in use could not take back what was promoted lately."""


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Reads the ledger and asks the batching plugins."""

    settings: Settings
    ledger: Ledger
    hooks: Hooks

    def specialties(self) -> tuple[Specialty, ...]:
        """Every pair of a base and an artifact type that has feedback, in order of name."""
        counts = self.ledger.events.count_by_specialty()
        ignored = {names.normalise(one) for one in self.settings.specialties.ignore}
        pooled = self.settings.specialties.mode is SpecialtyMode.POOLED
        found = {
            Specialty(base=one.base, artifact_type=POOLED_TYPE if pooled else one.artifact_type)
            for one in counts
            if one.base is not None and one.base not in ignored
        }
        return tuple(sorted(found, key=str))

    def unassigned(self) -> int:
        """Events that name no model while no base learns their type: they wait for a default base."""
        counts = self.ledger.events.count_by_specialty()
        taught = {one.artifact_type for one in counts if one.base is not None}
        return sum(one.count for one in counts if one.base is None and one.artifact_type not in taught)

    def find(self, text: str) -> Specialty | None:
        """The specialty that a person means: its alias, a version of it, `base/type`, or a base with one type."""
        known = self.specialties()
        by_name = {names.alias_of(one): one for one in known} | {
            f"{one.base}/{one.artifact_type}": one for one in known
        }
        by_name |= {str(one): one for one in known}
        for name in (text, names.alias_of_version(text)):
            if name in by_name:
                return by_name[name]
        of_base = [one for one in known if one.base == names.normalise(text)]
        return of_base[0] if len(of_base) == 1 else None

    def replacement_problem(self, base: str) -> str | None:
        """Why `replace_base` leaves a base's own name alone: several specialties would have to share it."""
        settings = self.settings
        if not settings.promotion.replace_base or settings.specialties.mode is SpecialtyMode.POOLED:
            return None
        types = [one.artifact_type for one in self.specialties() if one.base == base]
        if len(types) < 2:
            return None
        return (
            f"{base} learns {len(types)} artifact types, and only one could take its name, so it keeps it. "
            'Set specialties.mode = "pooled" to learn them together, or promotion.replace_base = false.'
        )

    def statistics(self, specialty: Specialty) -> BatchStatistics:
        """What the batching plugins decide on."""
        return self.ledger.events.statistics(specialty, with_unassigned=True)

    def due(self, now: datetime) -> tuple[Due, ...]:
        """Specialties to run now: those whose base changed, then those with the most fresh feedback.

        Last those that have enough for a candidate of examples alone.
        """
        found = []
        for specialty in self.specialties():
            if self.ledger.facts.get(problem_key(specialty.base)) is not None:
                continue
            statistics = self.statistics(specialty)
            asked = self.ledger.facts.get(due_key(specialty))
            try:
                size = self.hooks.choose_batch_size(specialty=specialty, statistics=statistics)
            except PluginFailed:
                # the host has logged it and counted its strike; the other specialties learn meanwhile
                continue
            due = Due(specialty=specialty, reason=asked or FRESH_FEEDBACK, batch_size=size, statistics=statistics)
            if asked is not None or (size > 0 and not self._was_too_little(specialty)):
                found.append(due)
            elif self.wants_examples(specialty):
                found.append(replace(due, reason=FIRST_CORRECTIONS, recipe=Recipe.EXAMPLES))
        return tuple(sorted(found, key=_urgency))

    def exams_of_a_season(self) -> int:
        """How many candidates each gather evidence of their own: one a specialty and recipe.

        However few are judged in one night: evidence goes on over the nights, and each may be deceived in the end.
        """
        return max(1, sum(len(self.recipes(one)) for one in self.specialties()))

    def recipes(self, specialty: Specialty) -> tuple[Recipe, ...]:
        """How candidates may be made: also of examples where that is on and no version ever was in use."""
        versions = self.ledger.versions.of_specialty(specialty)
        is_young = not any(one.state in WAS_IN_USE for one in versions)
        return tuple(Recipe) if self.settings.training.examples_from and is_young else (Recipe.TRAINING,)

    def wants_examples(self, specialty: Specialty) -> bool:
        """Whether a candidate of examples is worth an exam.

        As many prompts were corrected as an exam needs to prove anything, no version ever was in use, and since the
        last such exam there came what it missed.
        """
        if Recipe.EXAMPLES not in self.recipes(specialty):
            return False
        enough = max(self.settings.training.examples_from, items_needed(self.settings))
        last = next(iter(self.ledger.runs.latest(1, specialty, Recipe.EXAMPLES)), None)
        if last is None or last.end in (RunEnd.FAILED, RunEnd.CANCELLED):
            return self.ledger.events.corrected(specialty) >= enough
        return self.ledger.events.corrected(specialty, since=last.started_at) >= self._missed(last, enough)

    def _missed(self, run: RunRow, most: int) -> int:
        """How many new corrections make another exam worth it: what the verdict missed, at most as for the first."""
        verdict = self.ledger.exams.verdict(run.id)
        if verdict is None:
            # it ended before anybody was asked, which costs nothing
            return 1
        return min(most, verdict.items_needed or most)

    def _was_too_little(self, specialty: Specialty) -> bool:
        """Whether a run found too little in the feedback, and nothing came since: another would find the same."""
        last = next(iter(self.ledger.runs.latest(1, specialty, Recipe.TRAINING)), None)
        newest = self.ledger.events.last_arrival(specialty, with_unassigned=True)
        return last is not None and last.end is RunEnd.NOT_ENOUGH and newest is not None and newest <= last.started_at


def _urgency(due: Due) -> tuple[bool, bool, int]:
    return due.recipe is Recipe.EXAMPLES, due.reason == FRESH_FEEDBACK, -due.statistics.available


def due_key(specialty: Specialty) -> str:
    """The fact that says why a specialty is due whatever its feedback; its value is the run's reason."""
    return f"due:{specialty.base}/{specialty.artifact_type}"


def problem_key(base: str) -> str:
    """The fact that says why a base learns nothing at present."""
    return f"problem:{base}"
