"""Scores SQL against a reference: parsed by sqlglot, and run on the item's tables where it brings them.

score = 100 * (0.5 F1(clauses) + 0.5 F1(names and values))

A clause is one selected expression, table, join, condition, grouping, order or limit, told without the aliases of
tables, without case and quotes of names, and with conditions that AND joins apart from each other. 100 is kept for
statements that are equal in that form. What does not parse scores 0; without a reference, what parses scores 100.

With `schema`, `CREATE` and `INSERT` statements of SQLite, answer and reference are run on a database in memory
that these make: no file, no other database, no pragma, bounded in steps and in the length of values. An answer
that does not run there, where the reference does, keeps half of its score, and nothing without a reference. Where the
reference gives rows, an answer that gives the same is as good as one that differs in its text alone, and one that
gives others keeps half of its score. Order counts where the reference asks for it, but costs nothing by itself.
"""

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nightschool_hookspecs import AnswerScore, ExamItem, Measure, hookimpl
from nightschool_hookspecs.artifacts import blocks, candidates, f1, missing, weighted_f1

if TYPE_CHECKING:
    from sqlglot.expressions import Expr

LANGUAGES = frozenset({"sql", "sqlite", "postgres", "postgresql", "mysql", "tsql", "plsql"})
START = re.compile(
    r"^[ \t]*(?:select|with|insert\s+into|update|delete\s+from|create\s+(?:\w+\s+)*(?:table|view|index)|alter\s+table"
    r"|drop\s+\w+)\b",
    re.IGNORECASE | re.MULTILINE,
)
SHAPE = re.compile(r"\b(?:from|values|set|table|view|index)\b|\bselect\s+\S", re.IGNORECASE)
DIALECTS = ("", "sqlite", "postgres", "mysql")
REFUSED = frozenset({sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA, sqlite3.SQLITE_CREATE_VTABLE})
LONGEST_VALUE, LONGEST_PATTERN, MOST_ROWS, STEPS_A_LOOK = 10_000, 200, 1000, 1000


@dataclass(frozen=True, kw_only=True)
class Statements:
    """What statements consist of."""

    text: str
    """All of them in one form."""
    statements: tuple[str, ...]
    clauses: Counter[tuple[str, str]] = field(default_factory=Counter)
    leaves: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def is_ordered(self) -> bool:
        return any(kind == "order" for kind, _ in self.clauses)


@dataclass(frozen=True, kw_only=True)
class EvaluationSql:
    """`[plugins.evaluation_sql]`"""

    artifact_types: tuple[str, ...] = ("code_prototype", "sql")
    clause_weight: float = 0.5
    leaf_weight: float = 0.5
    highest_unequal_score: float = 99.0
    largest_characters: int = 20_000
    """A longer answer is not parsed and scores 0."""
    most_steps: int = 500_000
    """Steps of SQLite's machine that the statements of an answer may take."""

    def __post_init__(self) -> None:
        if min(self.clause_weight, self.leaf_weight) <= 0:
            raise ValueError("clause_weight and leaf_weight must be above 0")
        if not 0 <= self.highest_unequal_score < 100:
            raise ValueError("highest_unequal_score must be 0 or more and below 100")

    @hookimpl
    def nightschool_validate_answer(self, item: ExamItem, answer: str, measure: Measure) -> AnswerScore | None:
        if item.artifact_type not in self.artifact_types or not _is_sql(item, answer):
            return None
        reference = None if item.reference is None else self._read(item.reference)
        if item.reference is not None and reference is None:
            return None
        given = self._read(answer)
        if given is None:
            return _score(0.0, "there is no SQL in the answer that parses")
        if reference is not None and given.text == reference.text:
            return _score(100.0, "")
        found = _score(100.0, "") if reference is None else self._compare(given, reference)
        return found if item.schema is None else self._run(found, item.schema, given, reference)

    def _read(self, text: str) -> Statements | None:
        if len(text) > self.largest_characters:
            return None
        return next(filter(None, map(_parse, candidates(text, LANGUAGES, START))), None)

    def _compare(self, given: Statements, reference: Statements) -> AnswerScore:
        share = weighted_f1(
            [
                (self.clause_weight, f1(given.clauses, reference.clauses)),
                (self.leaf_weight, f1(given.leaves, reference.leaves)),
            ]
        )
        detail = missing(_shown(given.clauses), _shown(reference.clauses)) or "the statements differ in their order"
        return _score(min(self.highest_unequal_score, 100 * (share or 0.0)), detail)

    def _run(self, found: AnswerScore, schema: str, given: Statements, reference: Statements | None) -> AnswerScore:
        """The score with what running both says."""
        expected = None if reference is None else self._rows(schema, reference)
        if isinstance(expected, str):
            return found
        rows = self._rows(schema, given)
        if isinstance(rows, str):
            return _score(0.0 if reference is None else found.score / 2, f"it does not run: {rows}")
        if reference is None or not expected:
            return found
        has_same = Counter(rows) == Counter(expected)
        if rows == expected or (has_same and not reference.is_ordered):
            return _score(max(found.score, self.highest_unequal_score), "the same rows by other statements")
        if has_same or len(rows) == len(expected) == MOST_ROWS:
            return found
        return _score(found.score / 2, f"it gives other rows; {found.detail}")

    def _rows(self, schema: str, statements: Statements) -> list[tuple[object, ...]] | str:
        """The first rows of the last statement; else why it did not run."""
        try:
            with closing(sqlite3.connect(":memory:")) as database:
                _shut(database, self.most_steps)
                database.executescript(schema)
                rows: list[tuple[object, ...]] = []
                for statement in statements.statements:
                    rows = database.execute(statement).fetchmany(MOST_ROWS)
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, MemoryError) as error:
            return str(error)
        return [tuple(map(_rounded, row)) for row in rows]


def _rounded(value: object) -> object:
    """A value without what rounding does to sums that are taken in another order."""
    return float(f"{value:.9g}") if isinstance(value, float) else value


def _shut(database: sqlite3.Connection, most_steps: int) -> None:
    """Keep a database to itself: memory only, no other one, and an end to every statement."""
    database.execute("PRAGMA temp_store = MEMORY")
    database.execute("PRAGMA max_page_count = 4000")
    database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
    database.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 1_000_000)
    database.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, LONGEST_PATTERN)
    looks = iter(range(max(1, most_steps // STEPS_A_LOOK)))
    database.set_progress_handler(lambda: next(looks, None) is None, STEPS_A_LOOK)

    def allowed(action: int, first: str | None, second: str | None, _database: str | None, _trigger: str | None) -> int:
        loads = action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in ("load_extension", "fts3_tokenizer")
        return sqlite3.SQLITE_DENY if action in REFUSED or loads else sqlite3.SQLITE_OK

    database.set_authorizer(allowed)


def _is_sql(item: ExamItem, answer: str) -> bool:
    """Whether the answer must be SQL: the item says so, or else the answer itself."""
    if item.artifact_type == "sql":
        return True
    text = item.reference if item.reference is not None else answer
    fenced = blocks(text)
    return any(one.language in LANGUAGES for one in fenced) or _begins(fenced[0].text if fenced else text)


def _begins(text: str) -> bool:
    match = START.match(text.lstrip())
    return match is not None and SHAPE.search(text) is not None


def _parse(text: str) -> Statements | None:
    """The statements; None where they do not parse in any dialect."""
    import sqlglot
    from sqlglot import expressions
    from sqlglot.errors import SqlglotError

    # its package hands it on by a star
    changes = expressions.DML  # pyright: ignore[reportPrivateImportUsage]
    kinds = (expressions.Query, changes, expressions.DDL, expressions.Alter, expressions.Drop)
    for dialect in DIALECTS:
        try:
            trees = [one for one in sqlglot.parse(text, read=dialect or None) if one is not None]
            if trees and all(isinstance(one, kinds) for one in trees):
                return _statements(trees)
        except RecursionError:
            return None
        except (SqlglotError, ValueError, AttributeError, TypeError):
            continue
    return None


def _statements(trees: "list[Expr]") -> Statements:
    as_written = tuple(one.sql(dialect="sqlite") for one in trees)
    plain = [_plain(one) for one in trees]
    found = Statements(text=";".join(one.sql() for one in plain), statements=as_written)
    for tree in plain:
        found.clauses.update(_clauses(tree))
        found.leaves.update(_leaves(tree))
    return found


def _plain(tree: "Expr") -> "Expr":
    """The statement with names in lower case, unquoted, and with tables told by their names alone.

    A table that is there twice is told by its name and its place. Quoted names with capitals stay as they are: SQLite
    takes them for texts where nothing has that name.
    """
    from sqlglot import expressions

    tree = tree.copy()
    for name in tree.find_all(expressions.Identifier):
        lower = str(name.this).lower()
        if not name.args.get("quoted") or name.this == lower:
            name.set("this", lower)
            name.set("quoted", False)
    tables = list(tree.find_all(expressions.Table))
    is_unique = len({one.name for one in tables}) == len(tables)
    known = {
        one.alias: one.name if is_unique else f"{one.name}_{place}" for place, one in enumerate(tables) if one.alias
    }
    single = len(tables) == 1
    for column in tree.find_all(expressions.Column):
        if single:
            column.set("table", None)
        elif column.table in known:
            column.set("table", expressions.to_identifier(known[column.table]))
    for table in tables:
        if table.alias:
            alias = None if is_unique else expressions.TableAlias(this=expressions.to_identifier(known[table.alias]))
            table.set("alias", alias)
    return tree


def _clauses(tree: "Expr") -> Iterator[tuple[str, str]]:
    from sqlglot import expressions

    yield "statement", type(tree).__name__
    for node in tree.walk():
        if isinstance(node, expressions.Select):
            yield from (("select", one.sql()) for one in node.expressions)
            yield from ((name, name) for name in ("distinct",) if node.args.get(name))
        elif isinstance(node, expressions.Table):
            yield "table", node.name
        elif isinstance(node, expressions.Join):
            yield "join", f"{node.side} {node.kind} {node.this.alias_or_name}".strip()
            yield from (("on", one) for one in _conditions(node.args.get("on")))
        elif isinstance(node, expressions.Where | expressions.Having):
            yield from ((type(node).__name__.lower(), one) for one in _conditions(node.this))
        elif isinstance(node, expressions.Group):
            yield from (("group", one.sql()) for one in node.expressions)
        elif isinstance(node, expressions.Ordered):
            yield "order", node.sql()
        elif isinstance(node, expressions.Limit | expressions.Offset | expressions.SetOperation):
            yield type(node).__name__.lower(), node.expression.sql() if node.expression else ""
        elif isinstance(node, expressions.ColumnDef | expressions.Constraint | expressions.ForeignKey):
            yield "column", node.sql()
        elif isinstance(node, expressions.EQ) and isinstance(node.parent, expressions.Update):
            yield "set", node.sql()


def _conditions(condition: "Expr | None") -> Iterator[str]:
    """Conditions that AND joins, each by itself; an equation with its sides in order."""
    from sqlglot import expressions

    if condition is None:
        return
    for one in condition.flatten() if isinstance(condition, expressions.And) else (condition,):
        inner = one.unnest()
        if isinstance(inner, expressions.EQ):
            yield " = ".join(sorted((inner.left.sql(), inner.right.sql())))
        else:
            yield inner.sql()


def _leaves(tree: "Expr") -> Iterator[tuple[str, str]]:
    from sqlglot import expressions

    for node in tree.walk():
        if isinstance(node, expressions.Literal):
            yield "value", node.this
        elif isinstance(node, expressions.Identifier):
            yield "name", node.this
        elif isinstance(node, expressions.Func | expressions.Binary | expressions.Predicate):
            yield "operation", type(node).__name__
        elif isinstance(node, expressions.DataType):
            yield "type", node.sql()


def _shown(clauses: Counter[tuple[str, str]]) -> Counter[str]:
    return Counter(f"{kind} {text}" for kind, text in clauses.elements())


def _score(score: float, detail: str) -> AnswerScore:
    return AnswerScore(score=score, validator="sql", detail=detail)


@hookimpl
def nightschool_register_settings() -> type[EvaluationSql]:
    return EvaluationSql
