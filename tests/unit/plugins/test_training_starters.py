"""Every starter example is good by the validator of its type, and there are the fewer the more feedback there is."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon.config import PluginSettings, Preset
from nightschool_daemon.evaluation.similarity import CombinedMeasure, no_embeddings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.learning.grouping import NearPrompts
from nightschool_hookspecs import AnswerScore, Event, ExamItem, ItemRole
from nightschool_hookspecs.testing import FakeGenerate, FakeMeasure, sample_event
from nightschool_plugins.evaluation_document import EvaluationDocument
from nightschool_plugins.evaluation_markdown import EvaluationMarkdown
from nightschool_plugins.training_starters import ARTIFACT_TYPES, TrainingStarters, read_starters

TESTS = {
    "chunks": """
assert chunks([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]
assert chunks([], 3) == []
def test_size():
    try:
        chunks([1], 0)
    except ValueError:
        return
    raise AssertionError
""",
    "slugify": """
assert slugify("Crème Brûlée, twice!") == "creme-brulee-twice"
assert slugify("  --  ") == ""
assert slugify("C++ & C# 2024") == "c-c-2024"
""",
    "word-count": """
assert most_common_words("B a b, A a c", 2) == [("a", 3), ("b", 2)]
assert most_common_words("z y x", 2) == [("x", 1), ("y", 1)]
assert most_common_words("", 3) == []
""",
    "bounded-cache": """
cache = LruCache(2)
cache.put("a", 1)
cache.put("b", 2)
assert cache.get("a") == 1
cache.put("c", 3)
assert cache.get("b") is None
assert (cache.get("a"), cache.get("c")) == (1, 3)
cache.put("a", 9)
assert cache.get("a") == 9
""",
    "merge-intervals": """
assert merge_intervals([(5, 7), (1, 3), (2, 4)]) == [(1, 4), (5, 7)]
assert merge_intervals([(1, 2), (2, 3)]) == [(1, 3)]
assert merge_intervals([(1, 9), (2, 3)]) == [(1, 9)]
assert merge_intervals([]) == []
""",
    "retry": """
calls = []
@retry(3, (KeyError,))
def fails(times):
    calls.append(1)
    if len(calls) <= times:
        raise KeyError(len(calls))
    return "done"
assert fails(2) == "done"
assert len(calls) == 3
def test_the_last_one_passes():
    calls.clear()
    try:
        fails(9)
    except KeyError as error:
        assert error.args == (3,)
        return
    raise AssertionError
def test_another_error_passes_at_once():
    calls.clear()
    @retry(3, (KeyError,))
    def other():
        calls.append(1)
        raise OSError
    try:
        other()
    except OSError:
        assert len(calls) == 1
        return
    raise AssertionError
""",
    "csv-totals": """
from decimal import Decimal
assert totals("customer,amount\\nAda,1.10\\nBob,2\\nAda, 0.20\\n") == {"Ada": Decimal("1.30"), "Bob": Decimal("2")}
assert totals("customer,amount\\n") == {}
""",
    "topological-order": """
order = build_order({"ship": ["pack"], "pack": ["pick"], "pick": []})
assert order == ["pick", "pack", "ship"]
def test_circle():
    try:
        build_order({"a": ["b"], "b": ["a"]})
    except ValueError:
        return
    raise AssertionError
""",
}
"""Of the Python ones, by name."""
TABLES = {
    "customers-without-orders": """
CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, placed_on DATE);
INSERT INTO customer VALUES (1, 'Ada'), (2, 'Bob');
INSERT INTO orders VALUES (1, 1, '2026-01-02');
""",
    "monthly-sales": """
CREATE TABLE sale (id INTEGER PRIMARY KEY, product TEXT, amount INTEGER, sold_on DATE);
INSERT INTO sale VALUES (1, 'tea', 2, '2026-01-02'), (2, 'tea', 3, '2026-01-09'), (3, 'milk', 9, '2026-02-01');
""",
    "tables-of-a-forum": "CREATE TABLE other (id INTEGER);",
}
"""Of the SQL ones: what they are run on."""
HOOKS = Hooks.load(plugin_directory=None, tables={}, plugins=PluginSettings(preset=Preset.ALL))


@dataclass(frozen=True)
class Named:
    """A starter example as its file has it."""

    artifact_type: str
    name: str
    prompt: str
    answer: str
    language: str

    def __str__(self) -> str:
        return f"{self.artifact_type}-{self.name}"

    @property
    def fenced(self) -> str:
        """As it stands where the specialty's own answers stand in fences."""
        return f"```{self.language}\n{self.answer}\n```" if self.language else self.answer

    @property
    def event(self) -> Event:
        """As feedback whose type is not told."""
        return sample_event(input_data=self.prompt, corrected_output=self.answer, artifact_type=None)


def _all() -> Iterator[Named]:
    for kind in sorted(ARTIFACT_TYPES):
        file = resources.files("nightschool_plugins").joinpath(f"data/starters/{kind}.toml")
        for one in tomllib.loads(file.read_text(encoding="utf-8"))["examples"]:
            yield Named(kind, one["name"], one["prompt"].strip(), one["answer"].strip(), one.get("language", ""))


ALL = tuple(_all())


def scored(one: Named, answer: str, *, reference: str | None = None) -> AnswerScore:
    """By the validators that there are, as in an exam."""
    item = ExamItem(
        id="i",
        event_id="e",
        artifact_type=one.artifact_type,
        role=ItemRole.GAIN,
        messages=(),
        reference=reference,
        tests=TESTS.get(one.name),
        schema=TABLES.get(one.name),
    )
    found = HOOKS.validate_answer(item=item, answer=answer, measure=FakeMeasure(), generate=FakeGenerate())
    assert found is not None
    return found


@pytest.mark.parametrize("one", ALL, ids=str)
def test_every_one_has_full_marks_by_the_validator_of_its_type(one: Named) -> None:
    validators = {"erd": "erd", "workflows": "document", "architecture": "text"}
    by_language = {"yaml": "document", "json": "document", "": "text", "python": "code", "sql": "sql"}
    for answer in (one.answer, one.fenced):
        found = scored(one, answer)
        assert (found.score, found.validator) == (100.0, validators.get(one.artifact_type) or by_language[one.language])
        assert scored(one, answer, reference=one.answer).score == 100
    if one.language == "python":
        assert "tests passed" in scored(one, one.answer).detail


@pytest.mark.parametrize("one", [one for one in ALL if one.language == ""], ids=str)
def test_a_text_has_the_parts_that_its_validator_compares(one: Named) -> None:
    page = EvaluationMarkdown()._read(one.answer)
    assert len(page.sections) >= (1 if one.artifact_type == "api_docs" else 4)
    if one.artifact_type == "api_docs":
        assert page.rows.total() >= 3
    else:
        assert len(page.components) >= 4
        assert len(page.text) > 400


@pytest.mark.parametrize("one", [one for one in ALL if one.artifact_type == "workflows"], ids=str)
def test_a_workflow_has_more_than_one_level(one: Named) -> None:
    assert isinstance(EvaluationDocument()._read(one.answer), dict | list)
    assert "  " in one.answer


@pytest.mark.parametrize("one", ALL, ids=str)
def test_every_one_would_be_taken_in_as_feedback_and_fits_a_training(one: Named) -> None:
    assert HOOKS.validate_event(event=one.event) == ()
    assert len(one.prompt) + len(one.answer) < 2000


@pytest.mark.parametrize("kind", sorted(ARTIFACT_TYPES))
def test_those_of_a_type_are_enough_and_unlike_each_other(kind: str) -> None:
    found = [one for one in ALL if one.artifact_type == kind]
    assert 8 <= len(found) <= 12
    assert len({one.name for one in found}) == len(found)
    near = NearPrompts(CombinedMeasure(HOOKS, no_embeddings), no_embeddings, 0.7)
    for number, one in enumerate(found):
        rest = [other.prompt for other in found[number + 1 :]]
        assert not list(near.across((one.prompt, *rest), 1))


def test_what_can_be_told_by_its_looks_is_of_the_type_whose_file_it_is_in() -> None:
    told = {str(one): HOOKS.classify_event(event=one.event) for one in ALL if one.language not in ("", "python")}
    # that a list of plays is a workflow is not told by its looks
    del told["workflows-ansible-web-server"]
    assert told == {str(one): one.artifact_type for one in ALL if str(one) in told}


@given(st.sampled_from(sorted(ARTIFACT_TYPES)), st.integers(0, 60), st.integers(0, 40))
def test_the_more_feedback_there_is_the_fewer_are_offered(kind: str, accepted: int, until: int) -> None:
    plugin = TrainingStarters(until=until, weight=0.3)
    offered = plugin.nightschool_offer_examples(kind, accepted) or ()
    assert len(offered) == max(0, min(until - accepted, len(read_starters(kind))))
    assert {one.weight for one in offered} <= {0.3}
    assert [one.prompt for one in offered] == [one.prompt for one in read_starters(kind)][: len(offered)]
    assert len(plugin.nightschool_offer_examples(kind, accepted + 1) or ()) <= len(offered)


@pytest.mark.parametrize("kind", ["shell", "other", "", "../erd"])
def test_of_other_types_there_are_none(kind: str) -> None:
    assert TrainingStarters().nightschool_offer_examples(kind, 1) is None


@pytest.mark.parametrize("settings", [{"until": -1}, {"weight": 0.0}, {"weight": 1.1}, {"weight": float("nan")}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        TrainingStarters(**settings)  # type: ignore[arg-type]  # as a configuration may have them
