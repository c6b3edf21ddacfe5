"""Scores a structured document, YAML or JSON: workflows, OpenAPI, whatever has a schema.

score = 100 * (0.5 F1(key paths) + 0.5 F1(key paths with values))     with a reference
score = 100 / (1 + faults)                                            without one

A key path leads from the root to a key or a value; the elements of a list share one, so that their order does not
count, except that 100 is kept for documents that are equal with it. Words for people (`description`, `summary`) count
as present, whatever they say. A document that does not parse scores 0; one that breaks its schema keeps half.

Schemas are the item's own JSON Schema (jsonschema), OpenAPI's for a document that says `openapi` or `swagger`
(openapi-spec-validator), and what every GitHub workflow needs for one with `jobs`. References to other documents are
never followed. YAML is read as version 1.2 by a safe loader, and a document that aliases would blow up is refused.
"""

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from nightschool_hookspecs import AnswerScore, ExamItem, Measure, hookimpl
from nightschool_hookspecs.artifacts import candidates, f1, missing, weighted_f1

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

Plain = dict[str, object] | list[object] | str | int | float | bool | None

LANGUAGES = frozenset({"yaml", "yml", "json", "jsonc", "openapi", "swagger"})
START = re.compile(r"^(?:[{\[]|---[ \t]*$|[\"']?[\w.$-]+[\"']?[ \t]*:(?:[ \t]|$))", re.MULTILINE)
FOR_PEOPLE = frozenset({"description", "summary", "title", "example", "termsOfService"})
MOST_DEPTH = 64
MOST_FAULTS = 50
"""Faults of a document that are counted."""
MOST_WRITTEN_OUT, MOST_LOOPS = 50_000, 20
"""Keys and values of an OpenAPI document with its references written out, and how often one may lead back to itself."""
PATTERN_S = 0.2
"""What matching one pattern of a schema may take."""
NULL, TRUE, FALSE = frozenset({"", "~", "null", "Null", "NULL"}), ("true", "True", "TRUE"), ("false", "False", "FALSE")
WHOLE = re.compile(r"[-+]?[0-9]{1,300}\Z")
NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
GITHUB_WORKFLOW: Mapping[str, object] = {
    "type": "object",
    "required": ["on", "jobs"],
    "properties": {
        "jobs": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "type": "object",
                "anyOf": [{"required": ["uses"]}, {"required": ["runs-on", "steps"]}],
                "properties": {
                    "steps": {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "object", "oneOf": [{"required": ["uses"]}, {"required": ["run"]}]},
                    },
                    "needs": {"type": ["string", "array"]},
                },
            },
        }
    },
}
"""What GitHub refuses a workflow for, of what can be told without its other files."""


class UnreadableError(ValueError):
    """A text is no document; the message says why."""


@dataclass(frozen=True, kw_only=True)
class EvaluationDocument:
    """`[plugins.evaluation_document]`"""

    artifact_types: tuple[str, ...] = ("workflows", "api_docs", "json", "yaml", "openapi")
    mixed_types: tuple[str, ...] = ("api_docs",)
    """Types of which some items are documents and others are text, which is left to others."""
    key_weight: float = 0.5
    value_weight: float = 0.5
    highest_unequal_score: float = 99.0
    largest_characters: int = 100_000
    """A longer answer is not parsed and scores 0."""
    most_nodes: int = 20_000
    """Keys and values of a document, with every alias written out."""

    def __post_init__(self) -> None:
        if min(self.key_weight, self.value_weight) <= 0:
            raise ValueError("key_weight and value_weight must be above 0")
        if not 0 <= self.highest_unequal_score < 100:
            raise ValueError("highest_unequal_score must be 0 or more and below 100")

    @hookimpl
    def nightschool_validate_answer(self, item: ExamItem, answer: str, measure: Measure) -> AnswerScore | None:
        if item.artifact_type not in self.artifact_types:
            return None
        try:
            reference = None if item.reference is None else self._read(item.reference)
        except UnreadableError:
            return None
        try:
            given = self._read(answer)
        except UnreadableError as error:
            checkable = reference is not None or item.schema is not None
            return None if item.artifact_type in self.mixed_types and not checkable else _score(0.0, str(error))
        if reference is not None and _same(given, reference):
            return _score(100.0, "")
        faults = _faults(given, item.schema)
        if reference is None:
            return _score(100.0 / (1 + len(faults)), "; ".join(faults[:3]))
        return self._compare(given, reference, faults)

    def _compare(self, given: Plain, reference: Plain, faults: list[str]) -> AnswerScore:
        ours, theirs = Counter(_paths(given)), Counter(_paths(reference))
        keys = f1(Counter(path for path, _ in ours.elements()), Counter(path for path, _ in theirs.elements()))
        share = weighted_f1([(self.key_weight, keys), (self.value_weight, f1(ours, theirs))]) or 0.0
        score = min(self.highest_unequal_score, 100 * share)
        if faults:
            return _score(score / 2, f"it breaks its schema: {faults[0]}")
        return _score(score, missing(_shown(ours), _shown(theirs)) or "the order differs")

    def _read(self, text: str) -> Plain:
        """The first document that parses. Raises `UnreadableError`."""
        if len(text) > self.largest_characters:
            raise UnreadableError(f"the answer has over {self.largest_characters} characters")
        problem = "there is no document in the answer"
        for candidate in candidates(text, LANGUAGES, START):
            try:
                return self._load(candidate.strip())
            except UnreadableError as error:
                problem = str(error)
        raise UnreadableError(problem)

    def _load(self, text: str) -> Plain:
        value = _json(text) if text[:1] in "{[" else None
        if value is None:
            value = _yaml(text, self.most_nodes)
        if not isinstance(value, dict | list) or not value:
            raise UnreadableError("there is no document in the answer, only words")
        if isinstance(value, list) and not any(isinstance(one, dict | list) for one in value) and text[:1] != "[":
            raise UnreadableError("there is no document in the answer, only a list of words")
        if isinstance(value, dict) and len(value) == 1 and text[:1] != "{" and not _inside(_inside(value)[0]):
            raise UnreadableError("there is no document in the answer, only a word before a colon")
        if _size(value, self.most_nodes) > self.most_nodes:
            raise UnreadableError(f"the document has over {self.most_nodes} keys and values")
        return value


def _size(value: Plain, most: int) -> int:
    """Keys and values, counted up to a little over `most`. Raises `UnreadableError` where it is nested too deeply."""
    count, level = 0, [value]
    for _ in range(MOST_DEPTH):
        count += len(level)
        level = [inner for one in level for inner in _inside(one)]
        if not level or count > most:
            return count
    raise UnreadableError(f"the document is nested deeper than {MOST_DEPTH} levels")


def _inside(value: Plain) -> list[Plain]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return cast("list[Plain]", list(inner))


# --------------------------------------------------------------------------- text to values


def _json(text: str) -> Plain:
    """The value of a JSON text; None where it is none, since it may be YAML in flow style."""
    try:
        return cast(Plain, json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique))
    except UnreadableError:
        raise
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> object:
    raise UnreadableError(f"{name} is no JSON number")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UnreadableError("a key stands there twice")
    return found


def _yaml(text: str, most_nodes: int) -> Plain:
    """The value of a YAML text as version 1.2 reads it. Raises `UnreadableError`."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        depth = 0
        # composing is recursive in C: what is nested too deeply must be refused before
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH:
                raise UnreadableError(f"the document is nested deeper than {MOST_DEPTH} levels")
        node = next(iter(yaml.compose_all(text, Loader=loader)), None)
    except (yaml.YAMLError, ValueError) as error:
        raise UnreadableError("the YAML does not parse: " + " ".join(str(error).split())[:160]) from None
    budget = iter(range(most_nodes))
    return None if node is None else _construct(node, budget, 0)


def _construct(node: object, budget: Iterator[int], depth: int) -> Plain:
    """A node as plain values, with aliases written out as long as the budget of nodes lasts."""
    import yaml

    if next(budget, None) is None or depth > MOST_DEPTH:
        raise UnreadableError("the document is too large with its aliases written out")
    if isinstance(node, yaml.SequenceNode):
        return [_construct(one, budget, depth + 1) for one in node.value]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(node) if isinstance(node, yaml.ScalarNode) else None
    found: dict[str, object] = {}
    merged: dict[str, object] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise UnreadableError("a key of the document is a list or a mapping")
        inner = _construct(value, budget, depth + 1)
        if key.value == "<<" and not key.style:
            for one in inner if isinstance(inner, list) else [inner]:
                merged |= one if isinstance(one, dict) else {}
        elif key.value in found:
            raise UnreadableError(f"the key {key.value[:60]!r} stands there twice")
        else:
            found[key.value] = inner
    return merged | found


def _scalar(node: object) -> Plain:
    """A scalar by YAML's core schema: `on`, `yes` and `1_000` are texts."""
    text, plain = str(getattr(node, "value", "")), not getattr(node, "style", None)
    if not plain:
        return text
    if text in NULL:
        return None
    if text in TRUE or text in FALSE:
        return text in TRUE
    if WHOLE.match(text):
        return int(text)
    if len(text) < 300 and NUMBER.match(text) and math.isfinite(float(text)):
        return float(text)
    return text


# --------------------------------------------------------------------------- comparison


def _same(one: Plain, other: Plain) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _paths(value: Plain, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every key path with its value; one that leads further has none."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(cast(Plain, inner), (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(cast(Plain, inner), (*path, "[]"))
    if path:
        holds = isinstance(value, dict | list) or (path[-1] in FOR_PEOPLE and isinstance(value, str))
        yield path, "" if holds else json.dumps(value)


def _shown(paths: Counter[tuple[tuple[str, ...], str]]) -> Counter[str]:
    return Counter(".".join(path)[-50:] + (f" = {value[:40]}" if value else "") for path, value in paths.elements())


# --------------------------------------------------------------------------- schemas


def _faults(value: Plain, schema: str | None) -> list[str]:
    """What is wrong with a document by its schemas, in words."""
    found: list[str] = []
    if isinstance(value, dict) and ("openapi" in value or "swagger" in value):
        found += _openapi_faults(value)
    elif isinstance(value, dict) and "jobs" in value:
        found += _schema_faults(value, json.dumps(GITHUB_WORKFLOW))
    if schema is not None and schema.lstrip().startswith("{"):
        found += _schema_faults(value, schema)
    return found[:MOST_FAULTS]


def _schema_faults(value: Plain, schema: str) -> list[str]:
    from jsonschema.exceptions import SchemaError
    from referencing.exceptions import Unresolvable

    try:
        checker = _checker(schema)
        found = []
        for error in checker.iter_errors(cast(dict[str, Any], value)):
            found.append(f"{'.'.join(map(str, error.absolute_path)) or 'the document'}: {error.message[:120]}")
            if len(found) == MOST_FAULTS:
                break
    except ArithmeticError:
        return ["a number is too large for the schema"]
    except (SchemaError, ValueError, RecursionError, Unresolvable) as error:
        return [f"the schema cannot be used: {str(error).splitlines()[0][:120]}"]
    return found


@functools.lru_cache(maxsize=32)
def _checker(schema: str) -> "Validator":
    """A validator that follows no reference to other documents and matches no pattern for long."""
    from jsonschema.validators import Draft202012Validator, extend, validator_for
    from referencing import Registry

    plain = cast("dict[str, object]", _without_name_patterns(json.loads(schema)))
    kind = validator_for(plain, default=Draft202012Validator)
    kind.check_schema(plain)
    # the registry's own default fetches nothing
    made = cast("type[Validator]", extend(kind, {"pattern": _pattern}))  # type: ignore[no-untyped-call]  # made at run time
    return made(plain, registry=Registry())


def _without_name_patterns(schema: object) -> object:
    """A schema without `patternProperties`, and without what depends on them: matching names cannot be bounded."""
    if isinstance(schema, list):
        return [_without_name_patterns(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    named = isinstance(schema.get("patternProperties"), dict)
    dropped = {"patternProperties", "additionalProperties", "unevaluatedProperties"} if named else set()
    return {key: _without_name_patterns(inner) for key, inner in schema.items() if key not in dropped}


def _pattern(validator: object, pattern: str, instance: object, schema: object) -> Iterator[Exception]:
    import regex
    from jsonschema.exceptions import ValidationError

    if not isinstance(instance, str):
        return
    try:
        fits = regex.search(pattern, instance, timeout=PATTERN_S)
    except TimeoutError:
        yield ValidationError(f"matching {pattern[:60]!r} takes too long")
    except regex.error:
        return
    else:
        if not fits:
            yield ValidationError(f"{instance[:60]!r} does not match {pattern[:60]!r}")


def _openapi_faults(value: dict[str, object]) -> list[str]:
    from openapi_spec_validator import OpenAPIV2SpecValidator, OpenAPIV30SpecValidator, OpenAPIV31SpecValidator

    version = str(value.get("openapi") or value.get("swagger"))
    kinds = {"2": OpenAPIV2SpecValidator, "3.0": OpenAPIV30SpecValidator, "3.1": OpenAPIV31SpecValidator}
    kind = next((one for prefix, one in kinds.items() if version.startswith(prefix)), None)
    if kind is None:
        return [f"there is no OpenAPI {version[:20]}"]
    found = []
    try:
        if _written_out(value) > MOST_WRITTEN_OUT:
            return ["its references to each other blow it up"]
        for error in kind(_bounded(value)).iter_errors():
            found.append(f"{'.'.join(map(str, error.absolute_path)) or 'the document'}: {error.message[:120]}")
            if len(found) == MOST_FAULTS:
                break
    # the validator walks into what it has just found wrong, and raises whatever happens there
    except Exception as error:  # noqa: BLE001
        found.append(f"it cannot be checked to its end: {type(error).__name__} {error}"[:120])
    return found


def _written_out(document: dict[str, object]) -> float:
    """Keys and values with every reference inside the document written out; infinite where too many lead back.

    The validator follows references without remembering where it was, so its time grows with this.
    """
    known: dict[str, float] = {}

    def size(one: object, within: tuple[str, ...]) -> float:
        if isinstance(one, list):
            return 1 + sum(size(inner, within) for inner in one)
        if not isinstance(one, dict):
            return 1
        reference = one.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return 1 + sum(size(inner, within) for inner in one.values())
        if reference in within:
            loops[reference] += 1
            return 1 if loops[reference] < MOST_LOOPS else math.inf
        if reference not in known:
            known[reference] = 1 + size(_target(document, reference), (*within, reference))
        return known[reference]

    loops: Counter[str] = Counter()
    return size(document, ())


def _target(document: object, reference: str) -> object:
    """What a reference of the document leads to; None where there is nothing."""
    for step in reference[2:].split("/"):
        document = document.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(document, dict) else None
    return document


def _bounded(value: object) -> dict[str, object]:
    """An OpenAPI document without patterns, and without references that leave it: neither is followed or matched."""

    def clean(one: object) -> object:
        if isinstance(one, list):
            return [clean(inner) for inner in one]
        if not isinstance(one, dict):
            return one
        reference = one.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#"):
            return {}
        return {key: clean(inner) for key, inner in one.items() if not (key == "pattern" and isinstance(inner, str))}

    return cast("dict[str, object]", clean(value))


def _score(score: float, detail: str) -> AnswerScore:
    return AnswerScore(score=score, validator="document", detail=detail)


@hookimpl
def nightschool_register_settings() -> type[EvaluationDocument]:
    return EvaluationDocument
