"""Step `prepare`: the base is pinned, its file found, the specialty's events are frozen."""

import shutil

from nightschool_daemon import codec
from nightschool_daemon.jobs import BaseSnapshot, EventRow, PrepareResult, Step, write_durably
from nightschool_daemon.ledger import VersionRow
from nightschool_daemon.ollama import names, storage
from nightschool_daemon.ollama.http import TagEntry
from nightschool_daemon.runs import store
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.errors import StepFailed
from nightschool_hookspecs.records import Specialty


def perform(context: StepContext) -> None:
    """Pin the base, check its file, freeze the events."""
    specialty = context.info.specialty
    tags = {entry.name: entry for entry in context.ollama.tags()}
    base = _pin_base(context, tags)
    _require_free_disk(context, base)
    rows = context.ledger.events.of_specialty(specialty, with_unassigned=True)
    _freeze(context, rows)
    store.freeze(context)
    context.directory.finish(
        Step.PREPARE,
        PrepareResult(
            base=base,
            incumbent=incumbent_of(context, tags, base),
            events=len(rows),
            fresh=sum(not row.trained_on for row in rows),
        ),
    )


def _pin_base(context: StepContext, tags: dict[str, TagEntry]) -> BaseSnapshot:
    name = context.info.specialty.base
    entry = tags.get(name)
    if entry is None:
        raise StepFailed(
            f"{name} is not in Ollama, so there is nothing to train. `ollama pull {name}` brings it back; "
            "its feedback is kept."
        )
    source = _pure_base(context, entry, tags)
    shown = context.ollama.show(source)
    pin = names.pin_of(name, shown.weights_digest)
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


def _pure_base(context: StepContext, entry: TagEntry, tags: dict[str, TagEntry]) -> str:
    """The tag that holds the base itself, also where `replace_base` put a version of ours under its name."""
    version = context.ledger.versions.by_digest(entry.digest)
    if version is None:
        return entry.name
    pin = names.pin_of(entry.name, version.base_weights_digest)
    if pin not in tags:
        raise StepFailed(
            f"{entry.name} holds {version.tag}, and the base it was made from is gone ({pin}). "
            f"`ollama pull {entry.name}` brings the base back."
        )
    return pin


def incumbent_of(context: StepContext, tags: dict[str, TagEntry], base: BaseSnapshot) -> str:
    """The tag that sits the exam as incumbent: the version that the alias holds, else the pinned base."""
    alias = names.alias_of(context.info.specialty)
    entry = tags.get(alias)
    if entry is None or entry.digest == tags_digest(tags, base.pin):
        return base.pin
    version = serving_version(context, context.info.specialty, entry.digest)
    if version is not None:
        return version.tag
    if entry.digest == base.tag_digest or _was_moved_there(context, alias, entry.digest):
        return base.pin
    raise StepFailed(
        f"{alias} was pointed at another model by hand, so it stays as it is and nothing is trained for it. "
        f"`ollama rm {alias}` gives it back to Night School."
    )


def tags_digest(tags: dict[str, TagEntry], name: str) -> str | None:
    """The digest of a tag, if it is there."""
    return tags[name].digest if name in tags else None


def serving_version(context: StepContext, specialty: Specialty, digest: str) -> VersionRow | None:
    """The version of the specialty whose manifest an alias holds."""
    version = context.ledger.versions.by_digest(digest)
    return version if version is not None and version.specialty == specialty else None


def _was_moved_there(context: StepContext, alias: str, digest: str) -> bool:
    last = context.ledger.moves.last_done(alias)
    return last is not None and last.to_digest == digest


def _require_free_disk(context: StepContext, base: BaseSnapshot) -> None:
    """Refuse beforehand what would end with a full disk: twice the base is the most that a run writes."""
    reserve = int(context.settings.delivery.min_free_gb * 1e9)
    needed = 2 * base.gguf.stat().st_size + reserve
    free = shutil.disk_usage(context.directory.path).free
    if free < needed:
        raise StepFailed(
            f"{context.directory.path} has {free / 1e9:.1f} GB free, and a run of {base.name} may need "
            f"{needed / 1e9:.1f} GB. Free some space, or lower delivery.min_free_gb."
        )


def frozen_keys(context: StepContext) -> tuple[str, ...]:
    """The keys of the events that the run was prepared with."""
    with (context.directory.step(Step.PREPARE) / "events.jsonl").open(encoding="utf-8") as stream:
        return tuple(codec.from_json(line, EventRow).event.key for line in stream)


def _freeze(context: StepContext, rows: tuple[EventRow, ...]) -> None:
    lines = "".join(codec.to_json(row) + "\n" for row in rows)
    write_durably(context.directory.step(Step.PREPARE) / "events.jsonl", lines)
