"""The names of Night School's tags. They parse from the right, because artifact types have no dot.

    alias    <model>-nightschool:<base tag>.<type>          llama3.2-nightschool:3b.erd
    version  <alias>.v<number>                              llama3.2-nightschool:3b.erd.v7
    pin      <model>-nightschool:<base tag>.base-<12 hex>   keeps a base alive as it was
    saved    <model>-nightschool:<base tag>.saved-<12 hex>  the user's own tag, before `replace_base` moved it

Ollama folds case and takes 80 characters a part; a type that would go over is cut and gets six hex
digits of its hash.
"""

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum

from nightschool_hookspecs.records import Specialty

SUFFIX = "-nightschool"
PROBE = "nightschool-probe"
TRIAL = "nightschool-trial"
MAX_PART = 80
VERSION_ROOM = 8
"""Characters kept free behind an alias for `.v` and a number of six digits."""
MAX_MODEL = MAX_PART - len(SUFFIX)
MAX_TAG = MAX_PART - len(".saved-") - 12
"""The longest model and tag of a base that leave room for our names beside it."""

_TYPE = re.compile(r"[a-z0-9_][a-z0-9_-]{0,63}")
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_HOST = r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}"
_NAMESPACE = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"
_MODEL = re.compile(rf"(?:(?:{_HOST}/)?{_NAMESPACE}/)?{_PART}(?::{_PART})?")
"""[host/][namespace/]model[:tag]"""
_RESERVED_TYPE = re.compile(r"all|cloud|local|.*-cloud|v\d+|base-[0-9a-f]{12}|saved-[0-9a-f]{12}")


class Kind(StrEnum):
    """What a tag of ours is."""

    ALIAS = "alias"
    VERSION = "version"
    PIN = "pin"
    SAVED = "saved"


@dataclass(frozen=True, kw_only=True)
class OwnName:
    """A parsed tag of ours. A type that was cut is given as it stands in the tag."""

    kind: Kind
    base: str
    artifact_type: str | None = None
    number: int | None = None


def normalise(name: str) -> str:
    """Lower case, with the default tag written out."""
    name = name.strip().lower()
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"


def type_problem(artifact_type: str) -> str | None:
    """Why an artifact type cannot be part of a tag, or None where it can."""
    if not _TYPE.fullmatch(artifact_type):
        return f"artifact_type {artifact_type[:80]!r} is not allowed: use up to 64 of a-z, 0-9, _ and -"
    if _RESERVED_TYPE.fullmatch(artifact_type):
        return f"artifact_type {artifact_type!r} has a meaning of its own in Ollama's or our names: choose another"
    return None


def model_problem(name: str) -> str | None:
    """Why a text cannot be the name of a model in Ollama, or None where it can."""
    if _MODEL.fullmatch(name.strip()):
        return None
    return f"model {name[:80]!r} is no name that Ollama takes: write it as `ollama list` shows it"


def base_problem(base: str) -> str | None:
    """Why no tag of ours fits beside a base, or None where they all do."""
    name, _, tag = normalise(base).rpartition(":")
    model = name.rsplit("/", 1)[-1]
    for part, text, limit in (("model", model, MAX_MODEL), ("tag", tag, MAX_TAG)):
        if len(text) > limit:
            return (
                f"The {part} of {base} has {len(text)} characters; beyond {limit} there is no room for an alias "
                f"beside it. `ollama cp {base} NAME` gives it a shorter name; use that one."
            )
    return None


def alias_of(specialty: Specialty) -> str:
    """The alias that applications call."""
    return _own(specialty.base, specialty.artifact_type, spare=VERSION_ROOM)


def version_of(specialty: Specialty, number: int) -> str:
    """The tag of a version."""
    return f"{alias_of(specialty)}.v{number}"


def pin_of(base: str, tag_digest: str) -> str:
    """The tag that keeps a base alive as it was: its weights, its template, its parameters."""
    return _own(base, f"base-{tag_digest[:12]}")


def saved_of(base: str, tag_digest: str) -> str:
    """The tag under which the user's own is kept when `replace_base` moves it."""
    return _own(base, f"saved-{tag_digest[:12]}")


def trial_of(run_id: str, number: int) -> str:
    """The working tag of a run's trial candidate, which never becomes a version."""
    return f"{TRIAL}:{run_id}.{number}"


def run_of_trial(name: str) -> str | None:
    """The run that a trial candidate's tag belongs to; None for every other name."""
    return name.removeprefix(f"{TRIAL}:").rpartition(".")[0] if name.startswith(f"{TRIAL}:") else None


def is_probe(name: str) -> bool:
    """Whether a tag was made to find out what the server takes."""
    return name.startswith(f"{PROBE}:")


def is_working(name: str) -> bool:
    """Whether a tag is only there while something is done, and nobody's model."""
    return is_probe(name) or run_of_trial(name) is not None


def alias_of_version(name: str) -> str:
    """The alias that a version's tag belongs to; any other name is returned as it is, normalised."""
    own = parse(name)
    text = normalise(name)
    return text.removesuffix(f".v{own.number}") if own is not None and own.kind is Kind.VERSION else text


def parse(name: str) -> OwnName | None:
    """Read a tag of ours; None for every other name."""
    model, _, tag = normalise(name).rpartition(":")
    if not model.endswith(SUFFIX) or "." not in tag:
        return None
    rest, last = tag.rsplit(".", 1)
    model = model.removesuffix(SUFFIX)
    if re.fullmatch(r"base-[0-9a-f]{12}", last):
        return OwnName(kind=Kind.PIN, base=f"{model}:{rest}")
    if re.fullmatch(r"saved-[0-9a-f]{12}", last):
        return OwnName(kind=Kind.SAVED, base=f"{model}:{rest}")
    if re.fullmatch(r"v\d+", last) and "." in rest:
        base_tag, artifact_type = rest.rsplit(".", 1)
        return OwnName(kind=Kind.VERSION, base=f"{model}:{base_tag}", artifact_type=artifact_type, number=int(last[1:]))
    if type_problem(last) is None:
        return OwnName(kind=Kind.ALIAS, base=f"{model}:{rest}", artifact_type=last)
    return None


def is_pin_of(base: str, tag: str) -> bool:
    """Whether a tag keeps this base alive as it was once."""
    own = parse(tag)
    return own is not None and own.kind is Kind.PIN and own.base == base


def anew(name: str) -> str:
    """What brings the file of a tag anew, in a sentence."""
    own = parse(name)
    if own is None:
        return f"`ollama pull {name}` brings it anew."
    if own.kind in (Kind.PIN, Kind.SAVED):
        return f"`ollama pull {own.base}` brings it anew."
    return f"`ollama pull` cannot bring it anew, as Night School made it of {own.base}: choose that one."


def _own(base: str, last: str, *, spare: int = 0) -> str:
    model, _, tag = normalise(base).rpartition(":")
    room = MAX_PART - spare - len(tag) - 1
    if len(last) > room:
        digest = hashlib.sha256(last.encode()).hexdigest()[:6]
        last = f"{last[: max(1, room - 7)]}-{digest}"
    return f"{model}{SUFFIX}:{tag}.{last}"
