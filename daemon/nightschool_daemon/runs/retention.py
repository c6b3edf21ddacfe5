"""What stays in Ollama: the base's pin, the serving version and a few older ones for undo."""

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from nightschool_daemon.config import Settings
from nightschool_daemon.jobs import PrepareResult, RunDirectory, Step, write_durably
from nightschool_daemon.ledger import FILE_NAME, Ledger, LedgerError, VersionRow, VersionState
from nightschool_daemon.locking import LockedError, StateLock, is_locked
from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.runs import going_on
from nightschool_daemon.runs.context import StepContext
from nightschool_daemon.runs.errors import StepFailed
from nightschool_hookspecs.records import RunEnd, Specialty

MANUAL_PREFIX = "train-"
"""How directories of trainings by hand begin, below the state directory."""
PINS_BEFORE = "pins-before"
"""In such a directory, as long as a training of its has anything in Ollama: the pins that were there before, one a
line."""


def discard(ledger: Ledger, ollama: OllamaHttp, version: VersionRow) -> bool:
    """Take a candidate out of Ollama; its record stays. False: an alias or another name serves it, so it stays too.

    A promoted version of the very same digest is what the alias serves then, and the candidate can go.
    """
    holder = ledger.versions.by_digest(version.tag_digest)
    is_held = any(entry.digest == version.tag_digest and not _is_version(entry.name) for entry in ollama.tags())
    if is_held and holder is not None and holder.tag == version.tag:
        return False
    delete_if_ours(ollama, version)
    ledger.versions.set_state(version.tag, VersionState.DISCARDED)
    return True


def discard_superseded(ledger: Ledger, ollama: OllamaHttp, newer: VersionRow, now: datetime) -> None:
    """Older candidates of the specialty that waited for approval have been overtaken, and their runs say so."""
    for version in ledger.versions.in_state(VersionState.CANDIDATE):
        run = ledger.runs.get(version.run_id)
        if run is None or run.end is not RunEnd.WAITING:
            continue
        if version.specialty == newer.specialty and version.number < newer.number:
            # first: what stays in Ollama after a crash is swept by that
            ledger.runs.finish(run.id, RunEnd.OVERTAKEN, f"It was overtaken by {newer.tag}.", now)
            discard(ledger, ollama, version)


def retire_old_versions(ledger: Ledger, ollama: OllamaHttp, settings: Settings, specialty: Specialty) -> None:
    """Delete promoted versions beyond the serving one and `keep_versions` older ones, and pins none of them needs.

    What the alias held before its last move is one of these, whatever its number: an undo puts that back.
    """
    last = ledger.moves.last_done(names.alias_of(specialty))
    before = last.from_tag if last is not None else None
    serving = {entry.digest for entry in ollama.tags() if entry.name in (names.alias_of(specialty), specialty.base)}
    promoted = [one for one in ledger.versions.of_specialty(specialty) if one.state is VersionState.PROMOTED]
    older = [one for one in promoted if one.tag_digest not in serving]
    older.sort(key=lambda one: one.tag != before)
    fewest = int(bool(older) and older[0].tag == before)
    for version in older[max(settings.promotion.keep_versions, fewest) :]:
        delete_if_ours(ollama, version)
        ledger.versions.set_state(version.tag, VersionState.RETIRED)
    _delete_unused_pins(ledger, ollama, specialty.base)


def sweep(ledger: Ledger, ollama: OllamaHttp) -> tuple[str, ...]:
    """Remove what crashed runs left in Ollama: candidates of ended runs, and probes. Returns a sentence for each."""
    candidates = _sweep_candidates(ledger, ollama)
    tags = [entry.name for entry in ollama.tags()]
    return (*candidates, *_sweep_trials(ledger, ollama, tags), *_sweep_probes(ollama, tags))


def sweep_trainings(state_directory: Path, ollama: OllamaHttp, now: datetime) -> tuple[str, ...]:
    """Remove what an unfinished `nightschool train` left: candidate, pin, and its directory, unless it can go on.

    Of those that can some are kept, for some days. Where nothing is at work here, probes go too. Returns a sentence for
    each directory that is gone, or unreadable, and for each probe.
    """
    if not state_directory.is_dir():
        return ()
    with going_on.comings_and_goings(state_directory):
        going_on.clear(state_directory)
        left = [one for one in trainings_in(state_directory) if not is_locked(one)]
        kept = going_on.worth_keeping(left, now)
        swept = [_sweep_training(directory, ollama, is_kept=directory in kept) for directory in left]
        if not is_locked(state_directory) and not any(map(is_locked, trainings_in(state_directory))):
            swept += _sweep_probes(ollama, [entry.name for entry in ollama.tags()])
    return tuple(sentence for sentence in swept if sentence)


def _sweep_training(directory: Path, ollama: OllamaHttp, *, is_kept: bool) -> str:
    """Remove what a training left, unless it goes on, or another one needs the base's pin still.

    Says so where its directory is gone, or cannot be read.
    """
    sentence = f"What an unfinished `nightschool train` left in {directory} was removed."
    try:
        lock = StateLock.take(directory)
    except LockedError:
        return ""
    try:
        # first: a step that made what is in Ollama is not to count as done without it
        going_on.shed(directory)
        try:
            bases = _remains(directory, ollama)
        except (LedgerError, sqlite3.Error) as error:
            if isinstance(error.__cause__ or error, sqlite3.OperationalError):
                # the disk is full, or away: that is no reason to lose what was learned
                return f"What an unfinished `nightschool train` left in {directory} cannot be read at present: {error}"
            bases, is_kept = set[str](), False
            sentence += f" What it had in Ollama is not known, and stays there: {error}"
        if any(not give_pins_free(directory, base, ollama) for base in bases):
            return ""
        if not is_kept:
            going_on.remove(directory)
    finally:
        lock.release()
    return "" if is_kept else sentence


def _remains(directory: Path, ollama: OllamaHttp) -> set[str]:
    """Delete the candidates of a training that is over, and return the bases that it pinned."""
    if not (is_owing(directory) and (directory / FILE_NAME).is_file()):
        return set()
    own = Ledger.open(directory / FILE_NAME)
    candidates = own.versions.in_state(VersionState.CANDIDATE)
    bases = {one.specialty.base for one in candidates} | {one.specialty.base for one in own.runs.unfinished()}
    own.close()
    for version in candidates:
        delete_if_ours(ollama, version)
    return bases


def note_pins(directory: Path, base: str, tags: Iterable[str]) -> None:
    """Write down in the directory of a training by hand which pins of its base are others' as it begins.

    What another training by hand made that goes on is no one's when both are over.
    """
    found = {tag for tag in tags if names.is_pin_of(base, tag)}
    for other in _trained_beside(directory, base):
        found &= set(_noted(other))
    write_durably(directory / PINS_BEFORE, "\n".join(sorted(found)))


def keep_pinned(context: StepContext) -> None:
    """Pin a run's base again where its pin is gone, and the base is there as it was.

    A training that goes on gave its pin free when it was interrupted, and another state directory beside the same
    Ollama may take it for nobody's. Raises `StepFailed` where the base is gone too.
    """
    base = context.result(Step.PREPARE, PrepareResult).base
    held = {entry.name: entry.digest for entry in context.ollama.tags()}
    if base.pin in held:
        return
    source = next((name for name, digest in held.items() if digest == base.tag_digest), None)
    if source is None:
        became = "holds something else now" if base.name in held else "was removed from Ollama"
        raise StepFailed(
            f"{base.name} {became}, and so was the pin that kept it as it was ({base.pin}). `ollama pull {base.name}` "
            "brings it again; then call again."
        )
    context.ollama.copy(source, base.pin)
    _own_pin(context.settings.state_directory, base.pin)


def _own_pin(directory: Path, pin: str) -> None:
    """A pin that a training by hand made again is its own, whoever had made it before."""
    noted = _noted(directory)
    if pin in noted:
        write_durably(directory / PINS_BEFORE, "\n".join(one for one in noted if one != pin))


def give_pins_free(directory: Path, base: str, ollama: OllamaHttp) -> bool:
    """Delete the pins of a base that a training in this directory made, and nobody else needs.

    False: another training by hand works on the base, and gives them free when it ends.
    """
    if _trained_beside(directory, base):
        return False
    ledger_file = directory.parent / FILE_NAME
    # where there were trainings by hand alone there is none
    ledger = Ledger.open_read_only(ledger_file) if ledger_file.is_file() else None
    _delete_unused_pins(ledger, ollama, base, spared=_noted(directory))
    if ledger is not None:
        ledger.close()
    if not _has_candidate(directory, ollama):
        (directory / PINS_BEFORE).unlink(missing_ok=True)
    return True


def is_owing(directory: Path) -> bool:
    """Whether a training by hand has, or may have, something in Ollama."""
    return (directory / PINS_BEFORE).is_file()


def _has_candidate(directory: Path, ollama: OllamaHttp) -> bool:
    """Whether what a training by hand made is in Ollama still: taking it away may have been interrupted."""
    if not (directory / FILE_NAME).is_file():
        return False
    own = Ledger.open_read_only(directory / FILE_NAME)
    made = {version.tag for version in own.versions.in_state(VersionState.CANDIDATE)}
    own.close()
    return any(entry.name in made for entry in ollama.tags())


def trainings_in(state_directory: Path) -> list[Path]:
    """Directories of trainings by hand, those that were left too."""
    return sorted(state_directory.glob(f"{MANUAL_PREFIX}*"))


def trainings_beside(directory: Path) -> list[Path]:
    """Directories of other trainings by hand that go on."""
    return [one for one in trainings_in(directory.parent) if one != directory and is_locked(one)]


def _trained_beside(directory: Path, base: str) -> list[Path]:
    """The same of those on the base."""
    return [one for one in trainings_beside(directory) if _learns_from(one, base)]


def _learns_from(directory: Path, base: str) -> bool:
    try:
        ledger = Ledger.open_read_only(directory / FILE_NAME)
    except LedgerError:
        # it ended a moment ago, or has not begun
        return False
    found = any(row.specialty.base == base for row in ledger.runs.unfinished())
    ledger.close()
    return found


def _noted(directory: Path) -> list[str]:
    noted = directory / PINS_BEFORE
    return noted.read_text(encoding="utf-8").splitlines() if noted.is_file() else []


def _sweep_candidates(ledger: Ledger, ollama: OllamaHttp) -> list[str]:
    swept = []
    for version in ledger.versions.in_state(VersionState.CANDIDATE):
        run = ledger.runs.get(version.run_id)
        is_over = run is None or (run.end is not None and run.end is not RunEnd.WAITING)
        if is_over and discard(ledger, ollama, version):
            swept.append(f"The candidate {version.tag} of an ended run was removed.")
    return swept


def _sweep_trials(ledger: Ledger, ollama: OllamaHttp, tags: Sequence[str]) -> list[str]:
    """A run that goes on still needs its own; those of a run that nobody here knows are another installation's."""
    swept = []
    for name in tags:
        run = ledger.runs.get(names.run_of_trial(name) or "")
        if run is not None and run.end is not None:
            ollama.delete(name)
            swept.append(f"The trial candidate {name} of an ended run was removed.")
    return swept


def _sweep_probes(ollama: OllamaHttp, tags: Sequence[str]) -> list[str]:
    probes = [name for name in tags if names.is_probe(name)]
    for name in probes:
        ollama.delete(name)
    return [f"The probe {name} of an interrupted run was removed." for name in probes]


def _is_version(name: str) -> bool:
    own = names.parse(name)
    return own is not None and own.kind is names.Kind.VERSION


def delete_if_ours(ollama: OllamaHttp, version: VersionRow) -> None:
    """Delete a version's tag unless somebody put another model under its name."""
    for entry in ollama.tags():
        if entry.name == version.tag and version.tag_digest in ("", entry.digest):
            ollama.delete(version.tag)


def _delete_unused_pins(ledger: Ledger | None, ollama: OllamaHttp, base: str, *, spared: Collection[str] = ()) -> None:
    tags = {entry.name: entry.digest for entry in ollama.tags()}
    needed = _needed_pins(ledger, base, tags) if ledger is not None else set()
    for name in tags:
        if names.is_pin_of(base, name) and name not in needed and name not in spared:
            ollama.delete(name)


def _needed_pins(ledger: Ledger, base: str, tags: Mapping[str, str]) -> set[str | None]:
    """What versions in use or waiting were made from, what runs learn from, and where an alias was and is."""
    promoted = ledger.versions.in_state(VersionState.PROMOTED)
    needed: set[str | None] = {
        names.pin_of(base, version.base_tag_digest)
        for version in (*promoted, *ledger.versions.in_state(VersionState.CANDIDATE))
        if version.specialty.base == base
    }
    under_way = [RunDirectory(path=row.directory) for row in ledger.runs.unfinished() if row.specialty.base == base]
    for run in under_way:
        if run.is_done(Step.PREPARE):
            prepared = run.result(Step.PREPARE, PrepareResult)
            needed.update({prepared.base.pin, prepared.undo_tag})
    if base in tags and (needed or under_way):
        needed.add(names.pin_of(base, tags[base]))
    for specialty in {version.specialty for version in promoted}:
        last = ledger.moves.last_done(names.alias_of(specialty))
        needed.update({last.from_tag, last.to_tag} if last is not None else ())
    return needed
