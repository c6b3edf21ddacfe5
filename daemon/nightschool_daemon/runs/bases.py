"""What follows when a watched base appears, changes or vanishes in Ollama."""

from collections.abc import Callable, Mapping
from datetime import datetime

from nightschool_daemon.hooks import Hooks
from nightschool_daemon.ledger import Ledger, VersionState
from nightschool_daemon.ollama import names
from nightschool_daemon.ollama.errors import OllamaRefused
from nightschool_daemon.ollama.http import OllamaHttp, ShownModel
from nightschool_daemon.reasons import BY_HAND, REBUILD, RETRAIN
from nightschool_daemon.runs.planner import Planner, due_key, problem_key
from nightschool_hookspecs.records import BaseChange, InstalledModel


def absent(base: str, reason: str) -> str:
    """That Ollama does not have a base, in a sentence to whoever began a run for that reason."""
    kept = "" if reason == BY_HAND else "; its feedback is kept"
    own = names.parse(base)
    if own is not None:
        return (
            f"{base} is not in Ollama, and cannot be pulled, as Night School made it of {own.base}. Choose that one, "
            f"or another that `ollama list` shows{kept}."
        )
    return f"{base} is not in Ollama. `ollama pull {base}` brings it{kept}."


def _lost(base: str, version: str, pin: str) -> str:
    """That a base is neither under its own name, where `replace_base` put a version, nor under that of its pin."""
    return (
        f"{base} holds {version}, and the base it was made from is gone ({pin}). `ollama pull {base}` brings the base "
        "back."
    )


def pure_base(
    base: str, held: Mapping[str, str], ledger: Ledger, reason: str, refused: Callable[[str], Exception]
) -> str:
    """The tag that holds the base itself, also where `replace_base` put a version of ours under its name.

    `held`: the digest of every tag. Raises what `refused` makes of a sentence where it is gone.
    """
    if base not in held:
        raise refused(absent(base, reason))
    version = ledger.versions.by_digest(held[base])
    if version is None:
        return base
    pin = names.pin_of(base, version.base_tag_digest)
    if pin not in held:
        raise refused(_lost(base, version.tag, pin))
    return pin


def shown_by(ollama: OllamaHttp, tag: str, refused: Callable[[str], Exception]) -> ShownModel:
    """What Ollama says of a model. Raises what `refused` makes of a sentence where it can say nothing: it is damaged.

    Raises `OllamaError` where there is no such model, or no answer.
    """
    try:
        return ollama.show(tag)
    except OllamaRefused as error:
        raise refused(f"{tag} cannot be used. {error}. {names.anew(tag)}") from error


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
        sentences = _resume(model, ledger)
        if _is_our_doing(model, ledger):
            return sentences
        sentences += _ask_for_runs(model, ledger, planner)
    hooks.after_base_change(change=change, model=model)
    return sentences


def _is_our_doing(model: InstalledModel, ledger: Ledger) -> bool:
    """Whether the tag holds what `replace_base`, or its undo, put there."""
    last = ledger.moves.last_done(model.name)
    return ledger.versions.by_digest(model.digest) is not None or (last is not None and last.to_digest == model.digest)


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


def _ask_for_runs(model: InstalledModel, ledger: Ledger, planner: Planner) -> tuple[str, ...]:
    """Specialties whose version was made from another state of the base are retrained or rebuilt.

    The last version is what the base is compared with, and not the last poll: a base may be removed and come
    back as another one. A specialty without a version starts with the new base anyway.
    """
    sentences = []
    for specialty in planner.specialties():
        versions = ledger.versions.of_specialty(specialty)
        promoted = next((one for one in versions if one.state is VersionState.PROMOTED), None)
        if specialty.base != model.name or promoted is None or promoted.base_tag_digest == model.digest:
            continue
        reason = REBUILD if promoted.base_weights_digest == model.weights_digest else RETRAIN
        ledger.facts.put(due_key(specialty), reason)
        sentences.append(f"{specialty}: {reason}; the next run follows, and the alias serves meanwhile.")
    return tuple(sentences)
