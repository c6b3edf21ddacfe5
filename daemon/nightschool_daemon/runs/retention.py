"""What stays in Ollama: the base's pin, the serving version and a few older ones for undo."""

from nightschool_daemon.config import Settings
from nightschool_daemon.ledger import Ledger, VersionRow, VersionState
from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_hookspecs.records import RunEnd, Specialty


def discard(ledger: Ledger, ollama: OllamaHttp, version: VersionRow) -> None:
    """Take a candidate out of Ollama; its record stays."""
    _delete_if_ours(ollama, version)
    ledger.versions.set_state(version.tag, VersionState.DISCARDED)


def retire_old_versions(ledger: Ledger, ollama: OllamaHttp, settings: Settings, specialty: Specialty) -> None:
    """Delete promoted versions beyond the serving one and `keep_versions` older ones, and pins none of them needs."""
    serving = {entry.digest for entry in ollama.tags() if entry.name in (names.alias_of(specialty), specialty.base)}
    promoted = [one for one in ledger.versions.of_specialty(specialty) if one.state is VersionState.PROMOTED]
    older = [one for one in promoted if one.tag_digest not in serving]
    for version in older[settings.promotion.keep_versions :]:
        _delete_if_ours(ollama, version)
        ledger.versions.set_state(version.tag, VersionState.RETIRED)
    _delete_unused_pins(ledger, ollama, specialty.base)


def sweep(ledger: Ledger, ollama: OllamaHttp) -> tuple[str, ...]:
    """Remove what crashed runs left in Ollama: candidates of ended runs, and probes. Returns a sentence for each."""
    return tuple(_sweep_candidates(ledger, ollama)) + tuple(_sweep_probes(ollama))


def _sweep_candidates(ledger: Ledger, ollama: OllamaHttp) -> list[str]:
    swept = []
    for version in ledger.versions.in_state(VersionState.CANDIDATE):
        run = ledger.runs.get(version.run_id)
        if run is None or (run.end is not None and run.end is not RunEnd.WAITING):
            discard(ledger, ollama, version)
            swept.append(f"The candidate {version.tag} of an ended run was removed.")
    return swept


def _sweep_probes(ollama: OllamaHttp) -> list[str]:
    probes = [entry.name for entry in ollama.tags() if names.is_probe(entry.name)]
    for name in probes:
        ollama.delete(name)
    return [f"The probe {name} of an interrupted run was removed." for name in probes]


def _delete_if_ours(ollama: OllamaHttp, version: VersionRow) -> None:
    """Delete a version's tag unless somebody put another model under its name."""
    for entry in ollama.tags():
        if entry.name == version.tag and version.tag_digest in ("", entry.digest):
            ollama.delete(version.tag)


def _delete_unused_pins(ledger: Ledger, ollama: OllamaHttp, base: str) -> None:
    tags = {entry.name: entry for entry in ollama.tags()}
    needed = {
        names.pin_of(base, version.base_weights_digest)
        for version in ledger.versions.in_state(VersionState.PROMOTED)
        if version.specialty.base == base
    }
    if base in tags and ledger.versions.by_digest(tags[base].digest) is None:
        needed.add(names.pin_of(base, ollama.show(base).weights_digest))
    for name in tags:
        own = names.parse(name)
        if own is not None and own.kind is names.Kind.PIN and own.base == base and name not in needed:
            ollama.delete(name)
