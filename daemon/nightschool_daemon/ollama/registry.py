"""Watches which base models there are. Two polls are compared; what differs becomes changes."""

from collections.abc import Mapping

from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.errors import ModelMissing
from nightschool_daemon.ollama.http import OllamaHttp, TagEntry
from nightschool_hookspecs.records import BaseChange, InstalledModel


def read_registry(ollama: OllamaHttp, known: Mapping[str, InstalledModel]) -> dict[str, InstalledModel]:
    """Every model that is not one of our own tags. Only tags whose digest changed are asked for details."""
    present: dict[str, InstalledModel] = {}
    for entry in ollama.tags():
        if names.parse(entry.name) is not None or names.is_working(entry.name):
            continue
        earlier = known.get(entry.name)
        if earlier is not None and earlier.digest == entry.digest:
            present[entry.name] = earlier
            continue
        try:
            present[entry.name] = _details(ollama, entry)
        except ModelMissing:
            # it was removed between the two calls: the next poll will not see it
            continue
    return present


def compare(
    known: Mapping[str, InstalledModel], present: Mapping[str, InstalledModel]
) -> tuple[tuple[BaseChange, InstalledModel], ...]:
    """What happened between two polls, in order of name."""
    changes: list[tuple[BaseChange, InstalledModel]] = []
    for name in sorted(known.keys() | present.keys()):
        before, after = known.get(name), present.get(name)
        if after is None and before is not None:
            changes.append((BaseChange.VANISHED, before))
        elif after is not None and before is None:
            changes.append((BaseChange.APPEARED, after))
        elif after is not None and before is not None and after.digest != before.digest:
            same_weights = after.weights_digest == before.weights_digest
            change = BaseChange.CONFIGURATION_CHANGED if same_weights else BaseChange.WEIGHTS_CHANGED
            changes.append((change, after))
    return tuple(changes)


def _details(ollama: OllamaHttp, entry: TagEntry) -> InstalledModel:
    shown = ollama.show(entry.name)
    return InstalledModel(
        name=entry.name,
        digest=entry.digest,
        weights_digest=shown.weights_digest,
        architecture=shown.architecture,
        capabilities=shown.capabilities,
        trainable=bool(shown.weights_digest) and not entry.is_remote and shown.problem() is None,
    )
