"""Validators of structured artifacts: diagrams, SQL, documents, code, Markdown. Hostile answers are bounded."""

import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightschool_hookspecs import AnswerScore, ExamItem, ItemRole, Measure
from nightschool_hookspecs.artifacts import blocks, candidates, f1
from nightschool_hookspecs.testing import FakeMeasure
from nightschool_plugins.evaluation_code import EvaluationCode
from nightschool_plugins.evaluation_document import EvaluationDocument
from nightschool_plugins.evaluation_erd import EvaluationErd
from nightschool_plugins.evaluation_markdown import EvaluationMarkdown
from nightschool_plugins.evaluation_shell import EvaluationShell
from nightschool_plugins.evaluation_sql import EvaluationSql


class Validator(Protocol):
    """A plugin that scores answers."""

    def nightschool_validate_answer(self, item: ExamItem, answer: str, measure: Measure) -> AnswerScore | None: ...


VALIDATORS: dict[str, Validator] = {
    "erd": EvaluationErd(),
    "sql": EvaluationSql(),
    "workflows": EvaluationDocument(),
    "json": EvaluationDocument(),
    "api_docs": EvaluationMarkdown(),
    "architecture": EvaluationMarkdown(),
    "python": EvaluationCode(),
    "shell": EvaluationShell(),
}
SPIDER = Path(__file__).parents[2] / "data" / "spider" / "schemas.jsonl"
ERD = """erDiagram
    CUSTOMER ||--o{ ORDER : places
    ORDER }|..|{ ITEM : "has many"
    CUSTOMER {
        int id PK
        varchar(20) name "the name"
    }
    ORDER { int id PK int customer_id FK }"""
SQL = (
    "SELECT u.name, count(*) FROM users u JOIN orders o ON o.user_id = u.id "
    "WHERE u.age > 3 AND o.paid = 1 GROUP BY u.name"
)
WORKFLOW = """name: CI
on: [push]
jobs:
  build:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - run: make test"""
OPENAPI = json.dumps(
    {
        "openapi": "3.0.3",
        "info": {"title": "Books", "version": "1"},
        "paths": {"/books": {"get": {"responses": {"200": {"description": "all books"}}}}},
    }
)
MARKDOWN = """# Books

Lists **all** books.

| name | type |
|------|------|
| page | int  |
| size | int  |"""
CODE = "def add(a, b):\n    return a + b"
EXAMPLES = {
    "erd": ERD,
    "sql": SQL,
    "workflows": WORKFLOW,
    "json": OPENAPI,
    "api_docs": MARKDOWN,
    "architecture": MARKDOWN,
    "python": CODE,
    "shell": "find . -name '*.py' | xargs wc -l",
}
LANGUAGES = {"erd": "mermaid", "workflows": "yaml", "api_docs": "markdown", "architecture": "markdown", "shell": "bash"}


def item(kind: str, reference: str | None, schema: str | None = None) -> ExamItem:
    return ExamItem(
        id="i", event_id="i", artifact_type=kind, role=ItemRole.GAIN, messages=(), reference=reference, schema=schema
    )


def scored(kind: str, answer: str, reference: str | None, schema: str | None = None) -> AnswerScore:
    found = VALIDATORS[kind].nightschool_validate_answer(item(kind, reference, schema), answer, FakeMeasure())
    assert found is not None
    return found


def score(kind: str, answer: str, reference: str | None, schema: str | None = None) -> float:
    return scored(kind, answer, reference, schema).score


# --------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("kind", EXAMPLES)
def test_the_reference_itself_scores_a_hundred_in_a_fence_too(kind: str) -> None:
    text = EXAMPLES[kind]
    fenced = f"```{LANGUAGES.get(kind, kind)}\n{text}\n```"
    assert score(kind, text, text) == 100
    assert score(kind, fenced, text) == 100
    if kind not in ("api_docs", "architecture"):
        assert score(kind, f"<think>Hmm.</think>\nHere you are:\n\n{fenced}\n\nTell me if it helps!", text) == 100


@pytest.mark.parametrize("kind", ["erd", "workflows", "json", "python", "sql"])
def test_words_around_an_artifact_without_a_fence_are_left_out(kind: str) -> None:
    text = f"Here you are, this does it:\n\n{EXAMPLES[kind]}\n\nIt does this, and that.\n\nEnjoy!"
    assert score(kind, text, EXAMPLES[kind]) == 100


@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("answer", ["", "   \n", "```\n\n```"])
def test_an_empty_answer_scores_nothing(kind: str, answer: str) -> None:
    if kind in ("api_docs", "architecture") and answer.startswith("```"):
        assert score(kind, answer, EXAMPLES[kind]) < 20
    else:
        assert score(kind, answer, EXAMPLES[kind]) == 0


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("erd", "erDiagram\n A { int }"),
        ("erd", "erDiagram\n A ||--o{"),
        ("erd", "erDiagram"),
        ("erd", "graph TD\n A --> B"),
        ("erd", "I cannot draw."),
        ("sql", "SELECT FROM WHERE"),
        ("sql", "Hello world"),
        ("sql", "PRAGMA foreign_keys = 1"),
        ("workflows", "name: x\n  on: [push"),
        ("workflows", "a: 1\na: 2"),
        ("workflows", "I cannot do that."),
        ("workflows", "Sorry: no"),
        ("json", '{"a": NaN}'),
        ("json", '{"a": '),
        ("python", "def f(:"),
    ],
)
def test_what_does_not_parse_scores_nothing(kind: str, answer: str) -> None:
    found = scored(kind, answer, EXAMPLES[kind])
    assert found.score == 0
    assert found.detail
    assert kind == "python" or score(kind, answer, None) == 0


@pytest.mark.parametrize("kind", EXAMPLES)
@given(text=st.text(alphabet="ab:-{}[]|\"'\n#`=SELECT fromdef()erDiagram", max_size=60))
@settings(max_examples=40, deadline=None)
def test_any_answer_gets_a_score_in_range(kind: str, text: str) -> None:
    found = VALIDATORS[kind].nightschool_validate_answer(item(kind, EXAMPLES[kind]), text, FakeMeasure())
    assert found is not None
    assert 0 <= found.score <= 100


@pytest.mark.parametrize(
    "evil",
    [
        "(" * 200_000,
        "[" * 100_000,
        '{"a":' * 20_000,
        "{a: " * 20_000,
        "- " * 50_000,
        "a" * 1_000_000,
        "erDiagram\n" + "A {" * 15_000,
        "erDiagram\n" + "accDescr " * 5000,
        "a|" * 2000,
        "a=(" * 1300,
        "SELECT " + "(" * 9000,
        "SELECT " + "NOT " * 4000 + "1",
        "```\n" * 20_000,
        "-" * 90_000 + "1",
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)),
        "a: &a\n  b: *a",
        "!!python/object/apply:os.system ['touch pwned']",
        "| a " * 10_000,
        "**" * 20_000,
    ],
    ids=lambda evil: str(evil[:12]).encode("unicode_escape").decode(),
)
@pytest.mark.parametrize("kind", EXAMPLES)
def test_hostile_answers_come_to_an_end(kind: str, evil: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert score(kind, evil, EXAMPLES[kind]) < 50
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------- ER diagrams


def diagram(schema: dict[str, list[str]], seed: int | None = None) -> str:
    """A mermaid diagram with a column an attribute, and a relation between neighbours."""
    names = list(schema)
    relations = [f"  {one} ||--o{{ {other} : has" for one, other in itertools.pairwise(names)]
    entities = [f"  {name} {{\n" + "\n".join(_mixed(columns, seed)) + "\n  }" for name, columns in schema.items()]
    return "\n".join(["erDiagram", *_mixed(relations + entities, seed)])


def _mixed(lines: list[str], seed: int | None) -> list[str]:
    return lines if seed is None else random.Random(seed).sample(lines, len(lines))


NAMES = st.sampled_from(["user", "order", "item", "shop", "city"])
SCHEMAS = st.dictionaries(
    NAMES, st.lists(st.sampled_from(["int id PK", "text name", "int size", "date day"]), unique=True), min_size=1
)


@given(schema=SCHEMAS, seed=st.integers(0, 99))
@settings(deadline=None)
def test_the_order_of_a_diagram_does_not_count(schema: dict[str, list[str]], seed: int) -> None:
    assert score("erd", diagram(schema, seed), diagram(schema)) == 100


@given(one=SCHEMAS, other=SCHEMAS)
@settings(deadline=None)
def test_two_diagrams_are_as_alike_from_either_side(one: dict[str, list[str]], other: dict[str, list[str]]) -> None:
    left, right = diagram(one), diagram(other)
    assert score("erd", left, right) == pytest.approx(score("erd", right, left))


@given(schema=SCHEMAS, seed=st.integers(0, 99))
@settings(deadline=None)
def test_more_right_attributes_never_lower_the_score(schema: dict[str, list[str]], seed: int) -> None:
    whole = diagram(schema)
    parts = [(name, one) for name, columns in schema.items() for one in columns]
    random.Random(seed).shuffle(parts)
    scores = []
    for count in range(len(parts) + 1):
        given_parts = {name: [one for owner, one in parts[:count] if owner == name] for name in schema}
        scores.append(score("erd", diagram(given_parts), whole))
    assert scores == sorted(scores)
    assert scores[-1] == 100


def test_the_formula_of_a_diagram() -> None:
    reference = "erDiagram\n A ||--o{ B : x\n A { int id PK }"
    # entities equal; the attribute's name alone; the relation's ends alone
    assert score("erd", "erDiagram\n A |o--o{ B : y\n A { text id }", reference) == pytest.approx(30 + 20 + 15)


def test_either_end_of_a_relation_may_be_written_first_and_in_words() -> None:
    reference = "erDiagram\n A ||--o{ B : x"
    assert score("erd", "erDiagram\n B }o--|| A : y", reference) == 100
    assert score("erd", "erDiagram\n A only one to zero or more B : z", reference) == 100
    assert score("erd", "erDiagram\n B ||--o{ A : y", reference) < 100


def test_diagrams_of_real_schemas_parse_and_score_a_hundred() -> None:
    for line in SPIDER.read_text(encoding="utf-8").splitlines()[:40]:
        schema = json.loads(line)
        tables = schema["table_names_original"]
        columns: dict[str, list[str]] = {name.replace(" ", "_"): [] for name in tables}
        for (table, name), kind in zip(schema["column_names_original"], schema["column_types"], strict=True):
            if table >= 0:
                clean = "".join(sign if sign.isalnum() else "_" for sign in name)
                columns[tables[table].replace(" ", "_")].append(f"{kind} c_{clean}")
        assert score("erd", diagram(columns, seed=1), diagram(columns)) == 100


# --------------------------------------------------------------------------- SQL


TABLES = "CREATE TABLE users (id INT, name TEXT); INSERT INTO users VALUES (1, 'a'), (2, 'b');"


@pytest.mark.parametrize(
    "answer",
    [
        SQL.lower(),
        SQL.replace("u.", "users.").replace("o.", "orders.").replace("users u", "users").replace("orders o", "orders"),
        SQL + ";",
        '```sql\nselect "u".name, COUNT(*)\nfrom users as u join orders as o on o.user_id = u.id\n'
        "where u.age > 3 and o.paid = 1 group by u.name\n```",
    ],
)
def test_equal_statements_score_a_hundred(answer: str) -> None:
    assert score("sql", answer, SQL) == 100


def test_the_order_of_conditions_hardly_counts() -> None:
    assert score("sql", SQL.replace("u.age > 3 AND o.paid = 1", "o.paid = 1 AND u.age > 3"), SQL) == 99
    assert score("sql", SQL.replace("o.user_id = u.id", "u.id = o.user_id"), SQL) == 99


def test_more_of_a_query_scores_higher() -> None:
    answers = [
        "SELECT city FROM shops",
        "SELECT name FROM users",
        "SELECT name FROM users WHERE users.age > 3",
        SQL.replace(" AND o.paid = 1", ""),
        SQL,
    ]
    scores = [score("sql", answer, SQL) for answer in answers]
    assert scores == sorted(set(scores))


def test_a_query_is_run_on_the_tables_of_its_item() -> None:
    wrong, right = "SELECT nme FROM users", "SELECT name FROM users"
    assert score("sql", wrong, None, TABLES) == 0
    assert score("sql", right, None, TABLES) == 100
    assert score("sql", wrong, right, TABLES) == pytest.approx(score("sql", wrong, right) / 2)
    other = "SELECT name FROM users WHERE id < 3"
    assert score("sql", other, right, TABLES) == 99 > score("sql", other, right)
    none = "SELECT name FROM users WHERE id > 9"
    assert score("sql", other, none, TABLES) == score("sql", other, none)


def test_a_query_that_gives_other_rows_keeps_half_of_its_score() -> None:
    right = "SELECT name FROM users WHERE id > 1 ORDER BY name"
    for wrong in (right.replace("> 1", ">= 1"), right.replace("> 1", "> 2")):
        assert score("sql", wrong, right) > 70
        assert score("sql", wrong, right, TABLES) == pytest.approx(score("sql", wrong, right) / 2)


def test_rows_in_another_order_and_sums_that_round_otherwise_are_no_other_rows() -> None:
    plain, ordered = "SELECT name FROM users", "SELECT name FROM users ORDER BY id"
    backwards = f"{ordered} DESC"
    assert score("sql", backwards, plain, TABLES) == 99
    assert score("sql", backwards, ordered, TABLES) == score("sql", backwards, ordered)
    forwards, other_way = (f"SELECT {total} FROM users" for total in ("0.1 + 0.2 + 0.3", "0.3 + 0.2 + 0.1"))
    assert score("sql", forwards, other_way, TABLES) == 99


@pytest.mark.parametrize(
    "evil",
    [
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c",
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION SELECT randomblob(9000) FROM c) SELECT count(*) FROM c",
        "SELECT load_extension('x')",
        "CREATE TABLE a AS SELECT 1; ATTACH 'pwned.db' AS b",
        "VACUUM INTO 'pwned.db'",
        "SELECT randomblob(1000000000)",
    ],
)
def test_no_statement_leaves_the_memory(evil: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert score("sql", evil, None, TABLES) == 0
    assert list(tmp_path.iterdir()) == []


JOINED = "SELECT a.name FROM emp a JOIN emp b ON a.manager = b.id"


@pytest.mark.parametrize(
    ("answer", "reference", "is_equal"),
    [
        (JOINED.replace("a.name", "b.name"), JOINED, False),
        ("SELECT e.name FROM emp e JOIN emp m ON e.manager = m.id", JOINED, True),
        ("SELECT x FROM t o WHERE y = (SELECT max(y) FROM t i WHERE i.c = i.c)",
         "SELECT x FROM t o WHERE y = (SELECT max(y) FROM t i WHERE i.c = o.c)", False),
        ('SELECT x FROM t WHERE y = "france"', 'SELECT x FROM t WHERE y = "France"', False),
        ('SELECT "X" FROM t', 'SELECT "X" FROM t', True),
        ("SELECT t.x FROM t", 'SELECT "x" FROM T', True),
    ],
)  # fmt: skip
def test_a_table_that_is_there_twice_is_told_apart(answer: str, reference: str, *, is_equal: bool) -> None:
    assert (score("sql", answer, reference) == 100) is is_equal


def test_other_code_is_not_taken_for_sql() -> None:
    sql = EvaluationSql()
    assert sql.nightschool_validate_answer(item("code_prototype", CODE), SQL, FakeMeasure()) is None
    assert sql.nightschool_validate_answer(item("code_prototype", SQL), SQL, FakeMeasure()) is not None
    assert EvaluationCode().nightschool_validate_answer(item("code_prototype", SQL), SQL, FakeMeasure()) is None


@pytest.mark.parametrize(
    "answer",
    [
        'import React from "react"\nexport default () => null',
        "import java.util.List;\n\npublic class Names {\n  List<String> all;\n}",
        "class Names {\n  val all = listOf<String>()\n}",
        "@Override\npublic int size() {\n  return 1\n}",
        "def size(names: List[String]) = {\n  names.length\n}\nclass A(b: Int) {\n}",
    ],
)
def test_without_a_reference_code_in_another_language_is_left_to_others(answer: str) -> None:
    assert EvaluationCode().nightschool_validate_answer(item("code_prototype", None), answer, FakeMeasure()) is None


@pytest.mark.parametrize("answer", ["def f(:\n  return {\n  }", "import os\nclass A\n  pass", "@cache\ndef f() -> int"])
def test_without_a_reference_python_that_does_not_parse_scores_nothing(answer: str) -> None:
    found = EvaluationCode().nightschool_validate_answer(item("code_prototype", None), answer, FakeMeasure())
    assert found is not None
    assert found.score == 0


# --------------------------------------------------------------------------- documents


@given(seed=st.integers(0, 50))
@settings(deadline=None, max_examples=20)
def test_the_order_of_keys_does_not_count(seed: int) -> None:
    value = {"on": "push", "jobs": {"a": {"steps": [{"run": "x", "name": "y"}], "runs-on": "z"}}, "name": "n"}

    def mixed(one: object) -> object:
        if not isinstance(one, dict):
            return [mixed(inner) for inner in one] if isinstance(one, list) else one
        keys = random.Random(seed).sample(list(one), len(one))
        return {key: mixed(one[key]) for key in keys}

    assert score("json", json.dumps(mixed(value)), json.dumps(value)) == 100


def test_yaml_and_json_of_the_same_value_are_equal() -> None:
    assert score("json", "a: {b: [1, true, null, text]}", '{"a": {"b": [1, true, null, "text"]}}') == 100


def test_on_and_yes_are_texts_and_aliases_are_written_out() -> None:
    assert score("json", "on: [yes]\nx: &a {b: 1}\ny: *a", '{"on": ["yes"], "x": {"b": 1}, "y": {"b": 1}}') == 100
    assert score("json", "x: &a {b: 1}\ny:\n  <<: *a\n  c: 2", '{"x": {"b": 1}, "y": {"b": 1, "c": 2}}') == 100


def test_a_changed_value_costs_less_than_a_missing_key() -> None:
    value = score("workflows", WORKFLOW.replace("make test", "make"), WORKFLOW)
    key = score("workflows", WORKFLOW.replace("\n      - run: make test", ""), WORKFLOW)
    assert key < value < 99


def test_a_workflow_that_github_refuses_keeps_half() -> None:
    broken = WORKFLOW.replace("    runs-on: ubuntu-latest\n", "")
    assert score("workflows", broken, WORKFLOW) < 50
    assert score("workflows", WORKFLOW, None) == 100
    assert score("workflows", broken, None) < 70


def test_openapi_is_checked() -> None:
    broken = json.loads(OPENAPI)
    del broken["info"]
    assert score("json", OPENAPI, None) == 100
    assert score("json", json.dumps(broken), None) == 50
    assert score("json", json.dumps(broken), OPENAPI) < 50


def test_no_reference_leaves_the_document() -> None:
    value = json.loads(OPENAPI)
    value["components"] = {"schemas": {"A": {"$ref": "file:///etc/passwd"}, "B": {"$ref": "http://127.0.0.1:9/x"}}}
    assert score("json", json.dumps(value), None) == 100
    found = scored("json", '{"a": 1}', None, '{"$ref": "http://127.0.0.1:9/s.json"}')
    assert "cannot be used" in found.detail


def test_references_and_patterns_that_blow_up_are_bounded() -> None:
    value = json.loads(OPENAPI)
    chain = {f"A{one}": {"allOf": [{"$ref": f"#/components/schemas/A{one + 1}"}] * 2} for one in range(30)}
    value["components"] = {"schemas": {**chain, "A30": {"pattern": "(a+)+$", "default": "a" * 40 + "b"}}}
    assert score("json", json.dumps(value), None) == 50
    schema = '{"properties": {"b": {"pattern": "^(a|a)*(a|a)*(a|aa)*c$"}}}'
    assert score("json", json.dumps({"b": "a" * 5000}), None, schema) == 50


def test_a_schema_of_the_item_is_asked() -> None:
    schema = '{"type": "object", "required": ["b"], "properties": {"b": {"type": "integer"}}}'
    assert score("json", '{"b": 1}', None, schema) == 100
    assert score("json", '{"b": "x"}', None, schema) == 50


@pytest.mark.parametrize("number", ["1e999", "1" + "0" * 400])
def test_a_number_that_no_float_holds_is_no_reason_to_fail(number: str) -> None:
    schema = '{"properties": {"price": {"multipleOf": 0.01}}}'
    assert score("json", f'{{"price": {number}}}', None, schema) == 50


def test_prose_of_an_api_is_left_to_markdown() -> None:
    document = EvaluationDocument()
    assert document.nightschool_validate_answer(item("api_docs", MARKDOWN), MARKDOWN, FakeMeasure()) is None
    assert document.nightschool_validate_answer(item("api_docs", OPENAPI), MARKDOWN, FakeMeasure()) is not None


# --------------------------------------------------------------------------- Markdown


def test_rows_of_a_table_count_whatever_their_order() -> None:
    swapped = MARKDOWN.replace("| page | int  |\n| size | int  |", "| size | int  |\n| page | int  |")
    lacking = MARKDOWN.replace("\n| size | int  |", "")
    other_type = MARKDOWN.replace("| size | int  |", "| size | text |")
    assert score("api_docs", swapped, MARKDOWN) == 99
    assert score("api_docs", lacking, MARKDOWN) < score("api_docs", other_type, MARKDOWN) < 99


def test_sections_and_components_of_an_architecture() -> None:
    reference = "# Design\n\n## Storage\n\nThe **ledger** is in `SQLite`.\n\n## Web\n\nFastAPI serves."
    without_section = reference.replace("## Web\n\n", "")
    other_component = reference.replace("ledger", "journal")
    assert score("architecture", without_section, reference) < 99
    assert score("architecture", other_component, reference) < 99
    assert score("architecture", "Something else.", reference) < 20


# --------------------------------------------------------------------------- what they share


def test_blocks_and_their_languages() -> None:
    found = blocks("a\n```Python\nx = 1\n```\n~~~\ny\n~~~\n```sql\nselect 1")
    assert [(one.language, one.text) for one in found] == [("python", "x = 1\n"), ("", "y\n"), ("sql", "select 1")]


def test_the_right_language_comes_first() -> None:
    answer = "```sh\nls\n```\n```python\nx\n```"
    assert list(candidates(answer, {"python"})) == ["x\n", "ls\n"]
    assert list(candidates(answer, {"python"}, other_fences=False)) == ["x\n"]


@given(one=st.lists(st.integers(0, 3)), other=st.lists(st.integers(0, 3)))
def test_f1_is_symmetric_and_in_range(one: list[int], other: list[int]) -> None:
    left, right = f1(Counter(one), Counter(other)), f1(Counter(other), Counter(one))
    assert left == right
    assert left is None or 0 <= left <= 1
    assert (left == 1) == (bool(one) and Counter(one) == Counter(other))
