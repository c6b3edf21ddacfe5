"""Scores an ER diagram in mermaid against a reference diagram.

score = 100 * (0.3 F1(entities) + 0.4 F1(attributes) + 0.3 F1(relations))

An attribute is its entity, name, type and set of keys; half of its F1 goes by entity and name alone, so that a
wrong type is no wrong name. A relation is its two entities with the number at either end, whichever is written
first; half of its F1 goes by the two entities alone. Names are compared without case. What neither diagram has
drops out, and the other weights are renormalised. Order, comments, labels, aliases and colours do not count. What
the grammar of mermaid's ER diagrams does not take scores 0; without a reference, what it takes scores 100.
"""

import functools
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nightschool_hookspecs import AnswerScore, ExamItem, Measure, hookimpl
from nightschool_hookspecs.artifacts import candidates, f1, missing, weighted_f1

if TYPE_CHECKING:
    from lark import Lark, Token, Tree

START = re.compile(r"^[ \t]*erDiagram\b", re.MULTILINE)
LANGUAGES = frozenset({"mermaid", "mmd", "erdiagram"})
GRAMMAR = r"""
start: FRONT? "erDiagram" (_statement | ";")*
_statement: relation | entity | _ASIDE
relation: name CARDINALITY name (":" _label)?
entity: name ("[" _label "]")? ("{" attribute* "}")?
attribute: TYPE TYPE (KEY ("," KEY)*)? STRING?
name: (NAME | STRING) (":::" NAME ("," NAME)*)?
_label: NAME | STRING

FRONT: /---\s*\n.*?\n---\s*\n/s
_ASIDE.9: /direction[ \t]+(TB|TD|BT|LR|RL)\b|title[ \t]+[^\n{|}]+/
    | /acc(Title|Descr)[ \t]*:[^\n]*|accDescr\s*\{[^}]*\}/
    | /(style|classDef|class)[ \t]+[\w,\-]+[ \t]+[^\n{|}]+/
CARDINALITY.8: /@LEFT@\s*(--|\.\.|-\.|\.-)\s*@RIGHT@|@WORDS@\s+(optionally\s+to|to)\s+@WORDS@/
KEY.7: /(PK|FK|UK)\b/
NAME: /[\w*][\w*\-]*/
TYPE: /[^\W\d][\w\-\[\]()*]*|\*[\w\-\[\]()*]*/
STRING: /"[^"\n]*"/
COMMENT: /%%\{.*?\}%%|%%[^\n]*/s
%ignore COMMENT
%ignore /[ \t\r\n\f]+/
"""
LEFT = {"|o": "0..1", "||": "1", "}o": "0..n", "}|": "1..n", "u": "parent"}
RIGHT = {"o|": "0..1", "||": "1", "o{": "0..n", "|{": "1..n"}
WORDS = {
    "zero or one": "0..1", "one or zero": "0..1", "only one": "1", "zero or more": "0..n", "zero or many": "0..n",
    "many(0)": "0..n", "0+": "0..n", "one or more": "1..n", "one or many": "1..n", "many(1)": "1..n", "1+": "1..n",
    "one": "1", "1": "1",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Diagram:
    """What a diagram says, as multisets; names in lower case."""

    entities: Counter[str] = field(default_factory=Counter)
    attributes: Counter[tuple[str, str, str, frozenset[str]]] = field(default_factory=Counter)
    """Entity, name, type and keys."""
    relations: Counter[tuple[tuple[str, str], tuple[str, str]]] = field(default_factory=Counter)
    """Both ends in order of their names: entity, and how many of it."""


@dataclass(frozen=True, kw_only=True)
class EvaluationErd:
    """`[plugins.evaluation_erd]`"""

    artifact_types: tuple[str, ...] = ("erd",)
    entity_weight: float = 0.3
    attribute_weight: float = 0.4
    relation_weight: float = 0.3
    largest_characters: int = 50_000
    """A longer answer is not parsed and scores 0."""

    def __post_init__(self) -> None:
        if min(self.entity_weight, self.attribute_weight, self.relation_weight) <= 0:
            raise ValueError("entity_weight, attribute_weight and relation_weight must be above 0")

    @hookimpl
    def nightschool_validate_answer(self, item: ExamItem, answer: str, measure: Measure) -> AnswerScore | None:
        if item.artifact_type not in self.artifact_types:
            return None
        reference = None if item.reference is None else self._read(item.reference)
        if isinstance(reference, str):
            return None
        given = self._read(answer)
        if isinstance(given, str):
            return _score(0.0, given)
        return _score(100.0, "") if reference is None else self._compare(given, reference)

    def _read(self, text: str) -> Diagram | str:
        """The first diagram that parses, else why none does."""
        if len(text) > self.largest_characters:
            return f"the answer has over {self.largest_characters} characters"
        problem = "there is no ER diagram in the answer"
        for candidate in candidates(text, LANGUAGES, START):
            found = _parse(candidate)
            if isinstance(found, Diagram):
                return found
            problem = found
        return problem

    def _compare(self, given: Diagram, reference: Diagram) -> AnswerScore:
        share = weighted_f1(
            [
                (self.entity_weight, f1(given.entities, reference.entities)),
                (self.attribute_weight / 2, f1(given.attributes, reference.attributes)),
                (self.attribute_weight / 2, f1(_names(given), _names(reference))),
                (self.relation_weight / 2, f1(given.relations, reference.relations)),
                (self.relation_weight / 2, f1(_ends(given), _ends(reference))),
            ]
        )
        return _score(100 * (share or 0.0), _difference(given, reference))


@functools.cache
def _parser() -> "Lark":
    from lark import Lark

    def any_of(words: dict[str, str]) -> str:
        return "(" + "|".join(re.escape(one).replace("\\ ", r"\s+").replace(" ", r"\s+") for one in words) + ")"

    grammar = GRAMMAR.replace("@LEFT@", any_of(LEFT)).replace("@RIGHT@", any_of(RIGHT))
    return Lark(grammar.replace("@WORDS@", any_of(WORDS)), parser="lalr")


def _parse(text: str) -> Diagram | str:
    """The diagram, or why it does not parse."""
    from lark.exceptions import UnexpectedInput

    try:
        tree = _parser().parse(text.strip())
    except UnexpectedInput as error:
        return f"the diagram does not parse: line {error.line}, column {error.column}"
    found = Diagram()
    for statement in tree.children:
        if not isinstance(statement, str):
            _add(found, statement)
    return found if found.entities else "the diagram is empty"


def _add(diagram: Diagram, statement: "Tree[Token]") -> None:
    if statement.data == "relation":
        left, cardinality, right = (one for one in statement.children[:3])
        one, other = _name(left), _name(right)
        many_left, many_right = _numbers(str(cardinality))
        first, second = sorted(((one, many_left), (other, many_right)))
        diagram.relations[first, second] += 1
        names = {one, other}
    else:
        names = {_name(statement.children[0])}
        for attribute in statement.find_data("attribute"):
            kind, name, *rest = (str(token) for token in attribute.children)
            keys = frozenset(key for key in rest if not key.startswith('"'))
            diagram.attributes[next(iter(names)), name.lower(), kind.lower(), keys] += 1
    for name in names:
        diagram.entities[name] = 1


def _name(node: "Tree[Token] | Token") -> str:
    from lark import Tree

    token = node.children[0] if isinstance(node, Tree) else node
    return str(token).strip('"').strip().lower()


def _numbers(cardinality: str) -> tuple[str, str]:
    """How many of the left and of the right entity."""
    between = re.split(r"\s*(?:--|\.\.|-\.|\.-)\s*", cardinality)
    if len(between) == 2 and between[0] in LEFT:
        return LEFT[between[0]], RIGHT[between[1]]
    left, right = re.split(r"\s+(?:optionally\s+to|to)\s+", cardinality)
    return WORDS[" ".join(left.split())], WORDS[" ".join(right.split())]


def _names(diagram: Diagram) -> Counter[tuple[str, str]]:
    return Counter((entity, name) for entity, name, _, _ in diagram.attributes.elements())


def _ends(diagram: Diagram) -> Counter[tuple[str, str]]:
    return Counter((one[0], other[0]) for one, other in diagram.relations.elements())


def _difference(given: Diagram, reference: Diagram) -> str:
    def attributes(diagram: Diagram) -> Counter[str]:
        return Counter(f"{entity}.{name}" for entity, name in _names(diagram).elements())

    def relations(diagram: Diagram) -> Counter[str]:
        return Counter(f"{one} - {other}" for one, other in _ends(diagram).elements())

    found = (
        missing(given.entities, reference.entities)
        or missing(attributes(given), attributes(reference))
        or missing(relations(given), relations(reference))
    )
    if found or (given.attributes == reference.attributes and given.relations == reference.relations):
        return found
    return "types, keys or cardinalities differ"


def _score(score: float, detail: str) -> AnswerScore:
    return AnswerScore(score=score, validator="erd", detail=detail)


@hookimpl
def nightschool_register_settings() -> type[EvaluationErd]:
    return EvaluationErd
