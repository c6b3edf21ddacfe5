"""Step `prepare`: the base is pinned, its file found, the specialty's events are frozen."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from nightschool_daemon import codec
from nightschool_daemon.config import Settings
from nightschool_daemon.disk import delivered_bytes
from nightschool_daemon.jobs import (
    BaseSnapshot,
    EventRow,
    PrepareResult,
    PromptRow,
    RunDirectory,
    Step,
    read_lines,
    write_durably,
)
from nightschool_daemon.ledger import Ledger, VersionRow
from nightschool_daemon.ollama import names, storage
from nightschool_daemon.ollama.http import TagEntry
from nightschool_daemon.runs import store, trajectories, unproven
from nightschool_daemon.runs.bases import pure_base, shown_by
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.errors import StepFailed
from nightschool_daemon.runs.examine import regression_key
from nightschool_daemon.runs.planner import Planner
from nightschool_hookspecs.records import Event, Specialty, TrainingResult


def perform(context: StepContext) -> None:
    """Pin the base, check its file, freeze the events."""
    specialty = context.info.specialty
    tags = {entry.name: entry for entry in context.ollama.tags()}
    base = _pin_base(context, tags)
    _require_free_disk(context, base)
    incumbent = incumbent_of(context, tags, base)
    lineage = context.ledger.versions.lineage(incumbent.examined)
    rows = context.ledger.events.of_specialty(specialty, with_unassigned=True, lineage=lineage)
    _freeze(context, "events.jsonl", rows)
    _freeze(context, "prompts.jsonl", context.ledger.events.prompts(specialty.artifact_type, specialty.base))
    store.freeze(context)
    trajectories.freeze(context, rows)
    context.directory.finish(
        Step.PREPARE,
        PrepareResult(
            base=base,
            incumbent=incumbent.examined,
            undo_tag=incumbent.undo_tag,
            undo_digest=incumbent.undo_digest,
            events=len(rows),
            incumbent_digest=incumbent.digest,
            incumbent_base=_base_of(context, tags, incumbent.examined, base),
            warm_start=warm_start(context.settings, context.ledger, incumbent.examined, base.weights_digest),
            evidence=context.ledger.evidence.so_far(specialty, incumbent.examined, context.info.recipe),
            judged_together=_planner(context).exams_of_a_season(),
            asks_all_learned=_asks_all_learned(context),
            first_scores=context.ledger.exams.first_scores(lineage),
            unproven=unproven.freeze(context, incumbent.examined),
        ),
    )


def _planner(context: StepContext) -> Planner:
    return Planner(settings=context.settings, ledger=context.ledger, hooks=context.hooks)


def _asks_all_learned(context: StepContext) -> bool:
    """Whether the last time is so long ago that a sample of what was learned before is not enough."""
    last = context.ledger.facts.get(regression_key(context.info.specialty))
    if last is None:
        return True
    age = context.info.started_at - datetime.fromisoformat(last)
    return age >= timedelta(days=context.settings.exam.regression_days)


def _base_of(context: StepContext, tags: dict[str, TagEntry], incumbent: str, base: BaseSnapshot) -> Path | None:
    """The file that the incumbent was made from: an earlier state of the base is kept by its pin."""
    version = context.ledger.versions.get(incumbent)
    if version is None or version.base_weights_digest == base.weights_digest:
        return base.gguf
    pin = names.pin_of(base.name, version.base_tag_digest)
    return storage.locate_blob(context.settings.ollama, context.ollama.show(pin)) if pin in tags else None


def warm_start(settings: Settings, ledger: Ledger, incumbent: str, weights_digest: str) -> Path | None:
    """What the version in service learned on these very weights, where training begins from that."""
    version = ledger.versions.get(incumbent) if settings.training.warm_start else None
    run = ledger.runs.get(version.run_id) if version is not None else None
    if version is None or run is None or version.base_weights_digest != weights_digest:
        return None
    directory = RunDirectory(path=run.directory)
    return directory.result(Step.TRAIN, TrainingResult).adapter if directory.is_done(Step.TRAIN) else None


def _pin_base(context: StepContext, tags: dict[str, TagEntry]) -> BaseSnapshot:
    name = context.info.specialty.base
    held = {tag: entry.digest for tag, entry in tags.items()}
    source = pure_base(name, held, context.ledger, context.info.reason, StepFailed)
    shown = shown_by(context.ollama, source, StepFailed)
    if (problem := shown.problem()) is not None:
        raise StepFailed(problem)
    pin = names.pin_of(name, tags[source].digest)
    if source != pin and (pin not in tags or tags[pin].digest != tags[source].digest):
        context.ollama.copy(source, pin)
    blob = storage.locate_blob(context.settings.ollama, shown)
    storage.check_digest(blob, shown.weights_digest)
    pinned = context.ollama.show(pin)
    if pinned.weights_digest != shown.weights_digest:
        raise StepFailed(f"{name} changed while its run began. The next run takes the new one.")
    return BaseSnapshot(
        name=name,
        tag_digest=tags[source].digest,
        weights_digest=shown.weights_digest,
        architecture=shown.architecture,
        capabilities=tuple(shown.capabilities),
        pin=pin,
        gguf=blob,
    )


@dataclass(frozen=True, kw_only=True)
class Incumbent:
    """What the candidate has to beat, and where an undo of its promotion leads."""

    examined: str
    digest: str
    """Of what is examined: its manifest's, hex."""
    undo_tag: str
    undo_digest: str


def incumbent_of(context: StepContext, tags: dict[str, TagEntry], base: BaseSnapshot) -> Incumbent:
    """What the alias holds: a version of ours, else the base, in its present or an earlier state.

    Raises `StepFailed` where somebody else pointed the alias elsewhere.
    """
    alias = names.alias_of(context.info.specialty)
    entry = tags.get(alias)
    if entry is None:
        return Incumbent(examined=base.pin, digest=base.tag_digest, undo_tag=base.pin, undo_digest=base.tag_digest)
    version = serving_version(context.ledger, context.info.specialty, entry.digest)
    if version is not None:
        _keep(context, tags, alias, version.tag)
        return Incumbent(examined=version.tag, digest=entry.digest, undo_tag=version.tag, undo_digest=entry.digest)
    if _is_untouched(context, alias, entry.digest, base):
        pin = names.pin_of(base.name, entry.digest)
        _keep(context, tags, alias, pin)
        return Incumbent(examined=base.pin, digest=base.tag_digest, undo_tag=pin, undo_digest=entry.digest)
    raise StepFailed(
        f"{alias} was pointed at another model by hand, so it stays as it is and nothing is trained for it. "
        f"`ollama rm {alias}` gives it back to Night School."
    )


def _keep(context: StepContext, tags: dict[str, TagEntry], alias: str, tag: str) -> None:
    """Make a tag anew that was removed while the alias still holds what it held."""
    if tags_digest(tags, tag) != tags[alias].digest:
        context.ollama.copy(alias, tag)


def tags_digest(tags: dict[str, TagEntry], name: str) -> str | None:
    """The digest of a tag, if it is there."""
    return tags[name].digest if name in tags else None


def serving_version(ledger: Ledger, specialty: Specialty, digest: str) -> VersionRow | None:
    """The version of the specialty whose manifest an alias holds."""
    version = ledger.versions.by_digest(digest)
    return version if version is not None and version.specialty == specialty else None


def _is_untouched(context: StepContext, alias: str, digest: str, base: BaseSnapshot) -> bool:
    """Whether an alias holds what we put there; one that we never moved may hold the base."""
    last = context.ledger.moves.last_done(alias)
    return last.to_digest == digest if last is not None else digest == base.tag_digest


def _require_free_disk(context: StepContext, base: BaseSnapshot) -> None:
    """Refuse beforehand what would end with a full disk.

    A version is at least as large as its base, unless it is an adapter. What it is larger by, and what the training
    keeps, comes on top: that is asked for before the training begins, as soon as its form is known.
    """
    reserve = int(context.settings.delivery.min_free_gb * 1e9)
    size = base.gguf.stat().st_size
    for place in (context.directory.path, base.gguf.parent):
        needed = delivered_bytes(place, context.directory.path, base.gguf, size) + reserve
        free = shutil.disk_usage(place).free
        if free < needed:
            raise StepFailed(
                f"The disk of {_directory_shown(place)} has {free / 1e9:.1f} GB free, and a run of {base.name} "
                f"may need {needed / 1e9:.1f} GB there. Free some space, or lower delivery.min_free_gb."
            )


def _directory_shown(place: Path) -> str:
    return str(place.parent) if place.name == "blobs" else str(place)


def frozen_rows(directory: RunDirectory) -> tuple[EventRow, ...]:
    """What a run was prepared with, as it was then."""
    return tuple(read_lines(directory.step(Step.PREPARE) / "events.jsonl", EventRow))


def frozen_events(directory: RunDirectory) -> tuple[Event, ...]:
    """The events alone."""
    return tuple(row.event for row in frozen_rows(directory))


def _freeze(context: StepContext, name: str, rows: Sequence[EventRow] | Sequence[PromptRow]) -> None:
    lines = "".join(codec.to_json(row) + "\n" for row in rows)
    write_durably(context.directory.step(Step.PREPARE) / name, lines)
