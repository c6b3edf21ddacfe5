"""Two models compared by hand: they sit the exam that a night's candidate sits, and nothing is changed by it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from nightschool_daemon.comparisons import Asked, Comparison, ComparisonRequest, Contestant
from nightschool_daemon.config import Settings
from nightschool_daemon.intake.assignment import group_of
from nightschool_daemon.jobs import EventRow, Job
from nightschool_daemon.ledger import Ledger, VersionRow
from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.runs.aside import Feedback, desk
from nightschool_daemon.runs.errors import RunRefused, StepFailed
from nightschool_daemon.runs.planner import Planner
from nightschool_daemon.runs.worker_process import Report, run_job
from nightschool_hookspecs.records import Event, Side, Specialty


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Who is compared, and on what."""

    first: str
    second: str
    specialty: Specialty
    what: Asked
    rows: tuple[EventRow, ...]
    """Those held out are asked; texts that belong to the others may stand in the prompts, and what was trained on keeps
    its near-duplicates from being asked."""
    bases: Mapping[str, str]
    """Tags of what versions of ours among both were made from, by their names."""


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Finds out who is compared, and what they are asked."""

    planner: Planner
    ledger: Ledger
    digests: Mapping[str, str]
    """Of Ollama's tags."""

    def pair_up(self, first: str | None, second: str | None, on: str | None) -> Pairing:
        """Two models on the prompts of a specialty: the one that `on` names, else the one that one of them names.

        With one name the base is compared with it, with the base's own name or none with the alias. Raises `RunRefused`
        where no specialty is meant, or one of both has learned all that there is of it.
        """
        specialty = self._specialty_of([on] if on is not None else [one for one in (first, second) if one is not None])
        if second is None:
            named = first if first is not None and names.normalise(first) != specialty.base else None
            first, second = specialty.base, named or names.alias_of(specialty)
        both = tuple(self._model(one or specialty.base, specialty) for one in (first, second))
        versions = {one: self._version_of(one) for one in both}
        what, rows = self._asked(specialty, [one.tag for one in versions.values() if one is not None])
        return Pairing(
            first=both[0],
            second=both[1],
            specialty=specialty,
            what=what,
            rows=rows,
            bases={
                name: names.pin_of(version.specialty.base, version.base_tag_digest)
                for name, version in versions.items()
                if version is not None
            },
        )

    def _model(self, name: str, specialty: Specialty) -> str:
        """A specialty may be named by what is no model."""
        is_one = self.planner.find(name) == specialty and names.model_problem(name) is not None
        return names.alias_of(specialty) if is_one else name

    def _version_of(self, name: str) -> VersionRow | None:
        """The version that a model is; None: it is none of ours, and has learned nothing here."""
        return self.ledger.versions.by_digest(self.digests.get(names.normalise(name), ""))

    def _asked(self, specialty: Specialty, versions: Sequence[str]) -> tuple[Asked, tuple[EventRow, ...]]:
        lineage = [tag for one in versions for tag in self.ledger.versions.lineage(one)]
        rows = self.ledger.events.of_specialty(specialty, with_unassigned=True, lineage=lineage)
        held = {row.group for row in rows if row.side is Side.HELD_OUT}
        if len(held) >= self.planner.settings.exam.min_items:
            return Asked.HELD_OUT, tuple(row for row in rows if row.side is Side.HELD_OUT or row.event.context.chunks)
        known = self.ledger.events.known_groups(specialty, lineage) | {row.group for row in rows if row.inherited}
        placed = tuple(_placed(row, learned=row.group in known) for row in rows)
        if not any(row.side is Side.HELD_OUT for row in placed):
            raise RunRefused(
                f"All feedback of {specialty} was learned by one of the two, and nothing is held out for exams yet. "
                "Name a file of prompts with --data."
            )
        return Asked.UNLEARNED if known else Asked.ALL, placed

    def _specialty_of(self, given: Sequence[str]) -> Specialty:
        known = self.planner.specialties()
        found = next(filter(None, map(self.planner.find, given)), None)
        if found is None and not given and len(known) == 1:
            return known[0]
        if found is None:
            why = (
                f"{' and '.join(given)}: no specialty has that name" if given else f"There are {len(known)} specialties"
            )
            raise RunRefused(
                f"{why}. Name an alias, or a specialty with --on (`nightschool status` lists both), or a file of "
                "prompts with --data."
            )
        return found


def _placed(row: EventRow, *, learned: bool) -> EventRow:
    """Asked, unless it was learned or lies between what was."""
    side = Side.TRAINING if learned or row.group is None else Side.HELD_OUT
    return replace(row, side=side, trained_on=learned)


def pair_by_file(events: Sequence[Event], what: Asked, first: str, second: str) -> Pairing:
    """Two models on the prompts of a file."""
    base = names.normalise(first)
    return Pairing(
        first=first,
        second=second,
        specialty=Specialty(base=base, artifact_type=events[0].artifact_type or "other"),
        what=what,
        rows=tuple(
            EventRow(event=event, group=group_of(event), side=Side.HELD_OUT, trained_on=False, arrival=number)
            for number, event in enumerate(events)
        ),
        bases={},
    )


def compare(settings: Settings, pairing: Pairing, report: Report, now: datetime) -> Comparison:
    """Hold the exam. Raises `RunRefused` with the reason where it cannot be held, and `OllamaError`."""
    ollama = OllamaHttp(settings.ollama)
    try:
        digests = {entry.name: entry.digest for entry in ollama.tags()}
    finally:
        ollama.close()
    request = ComparisonRequest(
        first=_contestant(pairing.first, pairing, digests),
        second=_contestant(pairing.second, pairing, digests),
        what=pairing.what,
    )
    if request.first.digest == request.second.digest:
        raise RunRefused(f"{request.first.name} and {request.second.name} are the same model.")
    feedback = Feedback(rows=pairing.rows)
    with desk(settings, pairing.specialty, Job.COMPARE, request, feedback, now) as directory:
        try:
            run_job(directory, Job.COMPARE, report)
        except StepFailed as error:
            raise RunRefused(str(error)) from error
        return directory.result(Job.COMPARE, Comparison)


def _contestant(name: str, pairing: Pairing, digests: Mapping[str, str]) -> Contestant:
    full = names.normalise(name)
    if full not in digests:
        raise RunRefused(f"{full} is not in Ollama. `ollama list` shows what is.")
    base = pairing.bases.get(name) or made_from(full, digests)
    return Contestant(name=full, digest=digests[full], base=base)


def made_from(name: str, digests: Mapping[str, str]) -> str:
    """The pin of the base of a version or an alias of ours, where there is one alone; else the model itself."""
    own = names.parse(name)
    if own is None or own.kind not in (names.Kind.ALIAS, names.Kind.VERSION):
        return name
    pins = [tag for tag in digests if names.is_pin_of(own.base, tag)]
    return pins[0] if len(pins) == 1 else name
