"""Scores Python code by the tests that its item brings along, else by how alike it is to the reference.

score = 100 * share of the tests that pass                         with tests
score = 100 * combined similarity, at most 99                      with a reference alone
score = 100                                                        with neither, for code that parses

Code that Python does not parse scores 0. Code whose syntax tree equals the reference's scores 100, whatever its
comments and its layout. Tests are the item's own Python text: `assert` and expression statements, functions named
`test_...` without parameters, `unittest` cases. They see the names of the answer, and can import it as `answer`.

Nothing of an answer is run outside `nightschool_hookspecs.confined`. Where that cannot lock its child down the
tests are not run. Then the score is that of an item with a reference alone, and its detail says so; without a reference
there is none, as code that parses may be wrong.
"""

import ast
import json
import re
import secrets
from dataclasses import dataclass, replace

from nightschool_hookspecs import AnswerScore, ExamItem, Measure, hookimpl
from nightschool_hookspecs.artifacts import blocks, candidates, without_thinking
from nightschool_hookspecs.confined import ConfinementUnavailable, Limits, run_confined, why_unavailable

LANGUAGES = frozenset({"python", "py", "python3", "py3"})
START = re.compile(
    r"^(?:from\s+[\w.]+\s+import\b|import\s+\w|(?:async\s+)?def\s+\w+\s*\(|class\s+\w+|@\w)", re.MULTILINE
)
OTHER_LANGUAGE = re.compile(
    r";[ \t]*$|(?:\)|=>|^[^\n:]*\bclass\b[^\n:]*)[ \t]*\{[ \t]*$|^import\b.*\bfrom[ \t]+[\"']", re.MULTILINE
)
"""Lines as no Python has them: one that ends in a semicolon, that opens a block in braces, that imports from a text."""

RUNNER = r"""
import ast, io, json, os, sys, types, unittest

class Nowhere(io.TextIOBase):
    def writable(self): return True
    def write(self, text): return len(text)

order = json.loads(PAYLOAD)
answer = types.ModuleType("answer")
sys.modules["answer"] = answer
report = os.dup(1)
say, dumps = os.write, json.dumps
sys.stdout = sys.stderr = Nowhere()
passed, total, problem = 0, 0, ""

def settle(result):
    if isinstance(result, types.CoroutineType):
        try:
            result.send(None)
        except StopIteration:
            return
        result.close()
        raise RuntimeError("a test that waits for something is not run")

def attempt(run):
    global passed, total, problem
    total += 1
    try:
        settle(run())
        passed += 1
    except BaseException as error:
        problem = problem or f"{type(error).__name__}: {error}"[:200]

def case(suite):
    result = unittest.TestResult()
    suite.run(result)
    wrong = result.errors + result.failures + [(None, "unexpected success")] * len(result.unexpectedSuccesses)
    if wrong:
        raise AssertionError(str(wrong[0][1]).strip().splitlines()[-1])

def statements(tree, space):
    for one in tree.body:
        run = lambda: exec(compile(ast.Module([one], []), "<tests>", "exec"), space)
        if isinstance(one, ast.Assert) or (isinstance(one, ast.Expr) and not isinstance(one.value, ast.Constant)):
            attempt(run)
        else:
            run()

try:
    tests = ast.parse(order["tests"])
    exec(compile(order["answer"], "<answer>", "exec"), answer.__dict__)
    space = dict(answer.__dict__, __name__="tests")
    before = dict(space)
    statements(tests, space)
    for name, value in list(space.items()):
        if before.get(name) is value:
            continue
        if isinstance(value, type) and issubclass(value, unittest.TestCase):
            for one in unittest.defaultTestLoader.loadTestsFromTestCase(value):
                attempt(lambda: case(one))
        elif isinstance(value, types.FunctionType) and name.startswith("test"):
            attempt(value)
except BaseException as error:
    problem = problem or f"{type(error).__name__}: {error}"[:200]
    total = max(total, passed + 1)
say(report, ("\n" + dumps({"key": order["key"], "passed": passed, "total": total, "problem": problem})).encode())
os._exit(0)
"""


@dataclass(frozen=True, kw_only=True)
class EvaluationCode:
    """`[plugins.evaluation_code]`"""

    artifact_types: tuple[str, ...] = ("code_prototype", "code", "python")
    highest_unequal_score: float = 99.0
    largest_characters: int = 100_000
    """A longer answer is not parsed and scores 0."""
    run_tests: bool = True
    test_seconds: float = 5.0
    """Processor time, and time by the clock, of all tests of an answer."""
    test_memory_bytes: int = 512 * 1024 * 1024

    def __post_init__(self) -> None:
        if not 0 <= self.highest_unequal_score < 100:
            raise ValueError("highest_unequal_score must be 0 or more and below 100")
        if not self.test_seconds > 0 or self.test_memory_bytes < 64 * 1024 * 1024:
            raise ValueError("test_seconds must be above 0, test_memory_bytes 67108864 or more")

    @hookimpl
    def nightschool_validate_answer(self, item: ExamItem, answer: str, measure: Measure) -> AnswerScore | None:
        if item.artifact_type not in self.artifact_types or not self._is_python(item, answer):
            return None
        reference = None if item.reference is None else self._read(item.reference)
        if item.reference is not None and reference is None:
            return None
        given = self._read(answer)
        if given is None:
            # an item is scored whatever the answer, or never: what fails here and passes nowhere would only be lost
            return None if self._is_untestable(item) else _score(0.0, "there is no Python in the answer that parses")
        if reference is not None and given == reference:
            return _score(100.0, "")
        if item.tests is None:
            return self._compare(given, reference, measure, "")
        return self._tested(given, item.tests, reference, measure)

    def _tested(self, given: str, tests: str, reference: str | None, measure: Measure) -> AnswerScore | None:
        why = "run_tests is off"
        if self.run_tests:
            try:
                return self._test(given, tests)
            except ConfinementUnavailable as error:
                why = str(error)
        return None if reference is None else self._compare(given, reference, measure, f"the tests were not run: {why}")

    def _is_untestable(self, item: ExamItem) -> bool:
        """Whether all that could score it are tests that are not run."""
        if item.tests is None or item.reference is not None:
            return False
        return not self.run_tests or why_unavailable() is not None

    def _is_python(self, item: ExamItem, answer: str) -> bool:
        """Whether the answer must be Python: the item says so, or else the answer itself."""
        if item.reference is not None or item.tests is not None or item.artifact_type == "python":
            return True
        fenced = blocks(answer)
        return any(one.language in LANGUAGES for one in fenced) or (
            not fenced and bool(START.search(answer)) and not OTHER_LANGUAGE.search(answer)
        )

    def _read(self, text: str) -> str | None:
        """The first Python that parses, without comments and layout; None where none does."""
        if len(text) > self.largest_characters:
            return None
        whole = _normalized(without_thinking(text)) if not blocks(text) else None
        if whole is not None:
            return whole
        return next(filter(None, map(_normalized, candidates(text, LANGUAGES, START, other_fences=False))), None)

    def _compare(self, given: str, reference: str | None, measure: Measure, detail: str) -> AnswerScore:
        if reference is None:
            return _score(100.0, detail)
        similarity = min(1.0, max(0.0, measure([given], [reference]).values[0]))
        return _score(
            min(self.highest_unequal_score, 100 * similarity), detail or "the code differs from the reference"
        )

    def _test(self, given: str, tests: str) -> AnswerScore:
        key = secrets.token_hex(16)
        limits = Limits(seconds=self.test_seconds, memory_bytes=self.test_memory_bytes)
        done = run_confined(RUNNER, payload=json.dumps({"answer": given, "tests": tests, "key": key}), limits=limits)
        passed, total, problem = _report(done.output, key)
        if total == 0:
            why = done.problem or problem or "the code ended the process"
            return replace(_score(0.0, f"no test came to its end: {why}"), is_out_of_time=done.is_out_of_time)
        return _score(100.0 * passed / total, f"{passed} of {total} tests passed" + (f"; {problem}" if problem else ""))


def _normalized(text: str) -> str | None:
    """Python without comments and layout; None where it does not parse, or is nested too deeply."""
    import textwrap
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.unparse(ast.parse(textwrap.dedent(text).strip())) or None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _report(output: str, key: str) -> tuple[int, int, str]:
    """Tests passed, tests in all, the first problem. All are 0 where the runner did not get to its report."""
    try:
        told = json.loads(output.rstrip().splitlines()[-1])
        if told["key"] == key:
            return int(told["passed"]), int(told["total"]), str(told["problem"])
    except (ValueError, KeyError, IndexError, TypeError):
        pass
    return 0, 0, ""


def _score(score: float, detail: str) -> AnswerScore:
    return AnswerScore(score=score, validator="code", detail=detail)


@hookimpl
def nightschool_register_settings() -> type[EvaluationCode]:
    return EvaluationCode
