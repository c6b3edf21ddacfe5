"""Scores documentation in Markdown against a reference: API descriptions and architecture texts.

api_docs:     score = 100 * (0.5 F1(rows of tables) + 0.5 chrF of the text)
architecture: score = 100 * (0.3 F1(sections) + 0.3 F1(named components) + 0.4 combined similarity)

Half of a row's F1 goes by its first cell alone, the name of a parameter. A section is its heading. A named component
is what stands in bold or as code, and a word in the middle of which there is a capital letter. What neither text has
drops out, and the other weights are renormalised. 100 is kept for texts that are equal but for white space. An empty
text scores 0; without a reference there is nothing to compare, and the item is left to others.
"""

import itertools
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nightschool_hookspecs import AnswerScore, ExamItem, Measure, hookimpl
from nightschool_hookspecs.artifacts import blocks, f1, missing, weighted_f1, without_thinking

if TYPE_CHECKING:
    from markdown_it.token import Token

LANGUAGES = frozenset({"markdown", "md"})
NAMED = re.compile(r"\b(?:[A-Z]+[a-z]+\w*[A-Z]\w*|[A-Z]{2,}[A-Z0-9]*|[a-z]+[A-Z]\w*)\b")
EDGES = " \t\n:.,;*_`#"


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a text consists of, in lower case, as multisets but for the text."""

    source: str
    """The whole text with white space evened out."""
    text: str
    """Its words without tables."""
    rows: Counter[tuple[str, ...]] = field(default_factory=Counter)
    """Cells of the rows of tables, without their heads."""
    sections: Counter[str] = field(default_factory=Counter)
    components: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, kw_only=True)
class EvaluationMarkdown:
    """`[plugins.evaluation_markdown]`"""

    api_types: tuple[str, ...] = ("api_docs",)
    architecture_types: tuple[str, ...] = ("architecture",)
    row_weight: float = 0.5
    chrf_weight: float = 0.5
    section_weight: float = 0.3
    component_weight: float = 0.3
    prose_weight: float = 0.4
    highest_unequal_score: float = 99.0
    largest_characters: int = 50_000
    """Of a longer answer only so much is read."""

    def __post_init__(self) -> None:
        weights = (self.row_weight, self.chrf_weight, self.section_weight, self.component_weight, self.prose_weight)
        if min(weights) <= 0:
            raise ValueError("row, chrf, section, component and prose weights must be above 0")
        if not 0 <= self.highest_unequal_score < 100:
            raise ValueError("highest_unequal_score must be 0 or more and below 100")

    @hookimpl
    def nightschool_validate_answer(self, item: ExamItem, answer: str, measure: Measure) -> AnswerScore | None:
        of_api = item.artifact_type in self.api_types
        if item.reference is None or not (of_api or item.artifact_type in self.architecture_types):
            return None
        given, reference = self._read(answer), self._read(item.reference)
        if not given.source:
            return _score(0.0, "the answer is empty")
        if given.source == reference.source:
            return _score(100.0, "")
        return self._compare_api(given, reference) if of_api else self._compare_architecture(given, reference, measure)

    def _compare_api(self, given: Page, reference: Page) -> AnswerScore:
        from sacrebleu.metrics.chrf import CHRF

        names = f1(_first_cells(given), _first_cells(reference))
        similar = CHRF().sentence_score(given.text, [reference.text]).score / 100 if reference.text else None
        parts = [
            (self.row_weight / 2, f1(given.rows, reference.rows)),
            (self.row_weight / 2, names),
            (self.chrf_weight, similar),
        ]
        return self._told(weighted_f1(parts), missing(_first_cells(given), _first_cells(reference)))

    def _compare_architecture(self, given: Page, reference: Page, measure: Measure) -> AnswerScore:
        parts = [
            (self.section_weight, f1(given.sections, reference.sections)),
            (self.component_weight, f1(given.components, reference.components)),
            (self.prose_weight, min(1.0, max(0.0, measure([given.text], [reference.text]).values[0]))),
        ]
        lacking = missing(given.sections, reference.sections) or missing(given.components, reference.components)
        return self._told(weighted_f1(parts), lacking)

    def _told(self, share: float | None, detail: str) -> AnswerScore:
        return _score(min(self.highest_unequal_score, 100 * (share or 0.0)), detail or "the text differs")

    def _read(self, answer: str) -> Page:
        from markdown_it import MarkdownIt

        source = _unwrapped(without_thinking(answer))[: self.largest_characters]
        tokens = MarkdownIt("commonmark").enable("table").parse(source)
        page = Page(source=" ".join(source.split()), text=" ".join(_words(tokens).split()))
        page.rows.update(_rows(tokens))
        page.sections.update(set(_headings(tokens)))
        page.components.update(set(_components(tokens)))
        return page


def _unwrapped(text: str) -> str:
    """The text without a fence around the whole of it."""
    fenced = blocks(text)
    return fenced[0].text if len(fenced) == 1 and fenced[0].language in LANGUAGES else text


def _words(tokens: "list[Token]") -> str:
    inside, found = 0, []
    for token in tokens:
        inside += (token.type == "table_open") - (token.type == "table_close")
        if not inside and token.type in ("inline", "fence", "code_block"):
            found.append(token.content)
    return "\n".join(found)


def _rows(tokens: "list[Token]") -> list[tuple[str, ...]]:
    found: list[list[str]] = []
    in_body = False
    for token, following in itertools.zip_longest(tokens, tokens[1:]):
        if token.type in ("tbody_open", "tbody_close"):
            in_body = token.type == "tbody_open"
        elif in_body and token.type == "tr_open":
            found.append([])
        elif in_body and token.type == "td_open" and following is not None:
            found[-1].append(following.content.strip(EDGES).lower())
    return [tuple(row) for row in found if any(row)]


def _first_cells(page: Page) -> Counter[str]:
    return Counter(row[0] for row in page.rows.elements())


def _headings(tokens: "list[Token]") -> list[str]:
    pairs = itertools.pairwise(tokens)
    return [inline.content.strip(EDGES).lower() for opening, inline in pairs if opening.type == "heading_open"]


def _components(tokens: "list[Token]") -> list[str]:
    found: list[str] = []
    for token in tokens:
        children = token.children or []
        for one, following in itertools.zip_longest(children, children[1:]):
            if one.type == "code_inline":
                found.append(one.content)
            elif one.type == "strong_open" and following is not None:
                found.append(following.content)
        if token.type in ("inline", "fence"):
            found += NAMED.findall(token.content)
    return [name for name in (one.strip(EDGES).lower() for one in found) if name]


def _score(score: float, detail: str) -> AnswerScore:
    return AnswerScore(score=score, validator="markdown", detail=detail)


@hookimpl
def nightschool_register_settings() -> type[EvaluationMarkdown]:
    return EvaluationMarkdown
