"""Validators: shell commands are compared by their parts, other texts by their similarity."""

from array import array
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_hookspecs import AnswerScore, ExamItem, ItemRole, Matrix
from nightschool_plugins import evaluation_disliked
from nightschool_plugins.evaluation_shell import EvaluationShell
from nightschool_plugins.evaluation_text import EvaluationText


def measure(left: Sequence[str], right: Sequence[str]) -> Matrix:
    """1 for equal texts, else a half."""
    values = array("f", [1.0 if one == other else 0.5 for one in left for other in right])
    return Matrix(values=memoryview(values), rows=len(left), columns=len(right))


def item(reference: str | None, kind: str = "shell") -> ExamItem:
    return ExamItem(id="i", event_id="i", artifact_type=kind, role=ItemRole.GAIN, messages=(), reference=reference)


def shell(answer: str, reference: str | None) -> AnswerScore:
    found = EvaluationShell().nightschool_validate_answer(item(reference), answer, measure)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("ls -l", "ls   -l"),
        ("grep 'a' file", 'grep "a" file'),
        ("```bash\nls -l\n```", "ls -l"),
        ("Here is the command:\n```\n$ ls -l\n```\nIt lists files.", "ls -l"),
        ("$ ls -l", "ls -l"),
        ("`ls -l`", "ls -l"),
        ("diff <(ls a) <(ls b)", "diff  <(ls a)  <(ls b)"),
        ('x="$(mktemp)"', 'x="$(mktemp)"'),
        ("ls -l\nThis lists all the files.", "ls -l"),
        ("find . \\\n  -name x", "find . -name x"),
        (r"find . -exec rm {} \;", "find . -exec rm {} ';'"),
    ],
)
def test_equal_commands_score_a_hundred(answer: str, reference: str) -> None:
    assert shell(answer, reference).score == 100


@pytest.mark.parametrize(
    "answer", ["echo 'open", 'echo "open', "echo \\", "ls >", "ls > | wc", "", "  \n", "# none", "|"]
)
def test_what_does_not_parse_scores_nothing(answer: str) -> None:
    found = shell(answer, "ls -l")
    assert found.score == 0
    assert found.detail


@pytest.mark.parametrize(
    ("worse", "better", "reference"),
    [
        ("cat file", "ls file", "ls -l file"),
        ("ls file", "ls -l file", "ls -la file"),
        ("find . -name a", "find . -name a | wc -l", "find . -name a | xargs wc -l"),
        ("ls", "ls > out", "ls -1 > out"),
        ("find . -type f", "find . -type f -exec rm {} +", "find . -type f -exec rm {} ';'"),
    ],
)
def test_more_of_the_reference_scores_higher(worse: str, better: str, reference: str) -> None:
    assert shell(worse, reference).score < shell(better, reference).score < 100


def test_the_formula() -> None:
    # utilities 2/2, flags 0 of 1, arguments: one common of 2 + 1; another template; half alike
    assert shell("ls a", "ls -l a b").score == pytest.approx(100 * (0.15 + 0.3 * 2 / 3 + 0.3 * 0.5))
    # no flags on either side: the weights are renormalised
    assert shell("ls a", "ls a b").score == pytest.approx(100 * (0.15 + 0.3 * 2 / 3 + 0.3 * 0.5) / 0.85)
    # the same template
    assert shell("ls -l a", "ls -l b").score == pytest.approx(100 * (0.15 + 0.15 + 0.1 + 0.3 * 0.5))


def test_joined_flags_are_letters_but_words_for_find() -> None:
    assert shell("ls -al", "ls -l -a").score == 99
    assert shell("find -empty", "find -emtpy").score < 60


def test_a_command_without_any_of_the_wanted_utilities_is_worth_nothing() -> None:
    assert shell("Sort the file and output it", "sort -o file file").score == 0
    assert shell("sed -n p file", "sort -o file file").score == 0
    assert shell("cat file | sort", "sort -o file file").score > 0
    assert shell("a=1", "b=1").score > 0


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("/bin/ls -l", "ls -l"),
        ("command ls -l", "ls -l"),
        ("test -f x", "[ -f x ]"),
        (". ./env", "source ./env"),
        ("egrep a f", "grep -E a f"),
        ("python3 a.py", "python a.py"),
    ],
)
def test_another_name_of_a_wanted_utility_is_no_other_utility(answer: str, wanted: str) -> None:
    assert shell(answer, wanted).score > 0


def test_the_same_words_in_another_order_are_not_equal() -> None:
    assert shell("mv a b", "mv b a").score == 99


def test_a_reference_that_does_not_parse_is_left_to_others() -> None:
    assert EvaluationShell().nightschool_validate_answer(item("echo 'open"), "ls", measure) is None


def test_another_type_is_left_to_others() -> None:
    assert EvaluationShell().nightschool_validate_answer(item("ls", "erd"), "ls", measure) is None


def test_without_a_reference_a_command_only_has_to_parse() -> None:
    assert (shell("ls", None).score, shell("ls 'x", None).score) == (100, 0)


@given(
    st.text(alphabet="ab -=|&;<>()'\"\\$`\n#{}~é", max_size=40), st.text(alphabet="ab -|'\"", min_size=1, max_size=20)
)
def test_any_answer_gets_a_score_in_range(answer: str, reference: str) -> None:
    found = EvaluationShell().nightschool_validate_answer(item(reference), answer, measure)
    assert found is None or 0 <= found.score <= 100


# --------------------------------------------------------------------------- texts


def text(answer: str, reference: str | None) -> float:
    found = EvaluationText().nightschool_validate_answer(item(reference, "other"), answer, measure)
    assert found is not None
    return found.score


@pytest.mark.parametrize("answer", ["a\nb", " a\nb\n", "a  \nb", "```\na\nb\n```", "```python\na\nb\n```"])
def test_white_space_and_a_fence_around_a_text_do_not_count(answer: str) -> None:
    assert text(answer, "a\nb") == 100


def test_a_fence_counts_where_the_reference_has_one() -> None:
    assert text("a", "```\na\n```") == 50


def test_another_text_is_scored_by_its_similarity() -> None:
    assert text("a", "b") == 50


def test_without_a_reference_a_text_has_to_be_there() -> None:
    assert (text("a", None), text("  ", None)) == (100, 0)


@pytest.mark.parametrize(("answer", "score"), [("rm -r x", 0.0), (" rm -r x\n", 0.0), ("ls", 50.0)])
def test_where_only_a_bad_answer_is_known_an_answer_scores_by_its_distance(answer: str, score: float) -> None:
    asked = replace(item(None), disliked="rm -r x")
    found = evaluation_disliked.nightschool_validate_answer(asked, answer, measure)
    assert found is not None
    assert found.score == score
    assert bool(found.detail) == (score == 0)


def test_items_with_a_reference_are_left_to_the_others() -> None:
    assert evaluation_disliked.nightschool_validate_answer(item("ls"), "ls", measure) is None
