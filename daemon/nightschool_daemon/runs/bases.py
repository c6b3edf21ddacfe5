"""What follows when a watched base appears, changes or vanishes in Ollama."""

from datetime import datetime

from nightschool_daemon.hooks import Hooks
from nightschool_daemon.ledger import Ledger, VersionState
from nightschool_daemon.runs.planner import Planner, due_key, problem_key
from nightschool_daemon.runs.reasons import REBUILD, RETRAIN
from nightschool_hookspecs.records import BaseChange, InstalledModel


def follow(
    change: BaseChange, model: InstalledModel, now: datetime, *, ledger: Ledger, hooks: Hooks, planner: Planner
) -> tuple[str, ...]:
    """Note what is to be done about a change, tell the observers, return a sentence for each deed.

    A change that `replace_base` made is ours and no change of the base.
    """
    if change is BaseChange.VANISHED:
        sentences = _stop(model, ledger, planner)
        ledger.bases.forget(model.name)
    else:
        ledger.bases.put(model, now)
        if ledger.versions.by_digest(model.digest) is not None:
            return ()
        sentences = _resume(model, ledger)
        if change is BaseChange.WEIGHTS_CHANGED:
            sentences += _ask_for_runs(model, RETRAIN, ledger, planner)
        elif change is BaseChange.CONFIGURATION_CHANGED:
            sentences += _ask_for_runs(model, REBUILD, ledger, planner)
    hooks.after_base_change(change=change, model=model)
    return sentences


def _stop(model: InstalledModel, ledger: Ledger, planner: Planner) -> tuple[str, ...]:
    if not any(one.base == model.name for one in planner.specialties()):
        return ()
    sentence = (
        f"{model.name} was removed from Ollama, so it learns nothing at present; its alias still answers. "
        f"`ollama pull {model.name}` brings it back."
    )
    ledger.facts.put(problem_key(model.name), sentence)
    return (sentence,)


def _resume(model: InstalledModel, ledger: Ledger) -> tuple[str, ...]:
    if ledger.facts.get(problem_key(model.name)) is None:
        return ()
    ledger.facts.delete(problem_key(model.name))
    return (f"{model.name} is back in Ollama and learns again.",)


def _ask_for_runs(model: InstalledModel, reason: str, ledger: Ledger, planner: Planner) -> tuple[str, ...]:
    """Specialties that have a version are retrained or rebuilt; the others start with the new base anyway."""
    sentences = []
    for specialty in planner.specialties():
        promoted = any(one.state is VersionState.PROMOTED for one in ledger.versions.of_specialty(specialty))
        if specialty.base == model.name and promoted:
            ledger.facts.put(due_key(specialty), reason)
            sentences.append(f"{specialty}: {reason}; the next run follows, and the alias serves meanwhile.")
    return tuple(sentences)
