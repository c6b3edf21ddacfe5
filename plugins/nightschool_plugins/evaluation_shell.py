r"""Scores a shell command against a reference command. Nothing is ever executed.

score = 100 * (0.4 F1(utilities) + 0.3 F1(flags) + 0.3 F1(arguments))

over multisets of the whole pipeline; a flag and an argument count together with their utility. A part
that neither command has drops out and the other weights are renormalised. A command that does not
parse scores 0, and 100 is kept for commands that are equal after quoting and white space are undone.

A fence around the answer, a leading `$ ` and everything after the first command line are taken away
before. Utilities that start another one (`sudo`, `xargs`, `find -exec`) count, and so does the other.
"""

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from nightschool_hookspecs import AnswerScore, ExamItem, Measure, hookimpl

FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
PROMPT = re.compile(r"\A\$\s+")
TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<substitution>[<>]\()
      | (?P<redirect>&>>?|\d*(?:>>|>&|>\||>|<<<|<<|<&|<>|<))
      | (?P<operator>\|\||&&|\|&|;;|[|&;()])
      | (?P<word>(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s'"\\|&;()<>])+)""",
    re.VERBOSE | re.DOTALL,
)
Key = TypeVar("Key")
STARTERS = frozenset({"sudo", "xargs", "time", "nohup", "env", "nice", "exec"})
STARTING_FLAGS = frozenset({"-exec", "-execdir", "-ok", "-okdir"})


class UnparsableError(ValueError):
    """A text is no shell command."""


@dataclass(frozen=True)
class Token:
    """A word of a command line with quoting undone, or an operator of the shell."""

    text: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a command line consists of, as multisets."""

    tokens: tuple[Token, ...]
    utilities: Counter[str] = field(default_factory=Counter)
    flags: Counter[tuple[str, str]] = field(default_factory=Counter)
    arguments: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass(frozen=True, kw_only=True)
class EvaluationShell:
    """`[plugins.evaluation_shell]`"""

    artifact_types: tuple[str, ...] = ("shell",)
    utility_weight: float = 0.4
    flag_weight: float = 0.3
    argument_weight: float = 0.3
    highest_unequal_score: float = 99.0
    single_dash_words: tuple[str, ...] = ("find", "java", "gcc", "convert", "ffmpeg", "openssl")
    """Utilities whose options are words after one dash; those of others are letters that may be joined."""

    def __post_init__(self) -> None:
        if min(self.utility_weight, self.flag_weight, self.argument_weight) <= 0:
            raise ValueError("utility_weight, flag_weight and argument_weight must be above 0")
        if not 0 <= self.highest_unequal_score < 100:
            raise ValueError("highest_unequal_score must be 0 or more and below 100")

    @hookimpl
    def nightschool_validate_answer(self, item: ExamItem, answer: str, measure: Measure) -> AnswerScore | None:
        if item.artifact_type not in self.artifact_types:
            return None
        reference = self._reference(item.reference)
        if item.reference is not None and reference is None:
            return None
        try:
            given = self._parse(_first_command(answer))
        except UnparsableError as error:
            return _score(0.0, str(error))
        return _score(100.0, "") if reference is None else self._compare(given, reference)

    def _reference(self, text: str | None) -> Parts | None:
        """The parts of the reference; None where there is none, or none that parses."""
        try:
            return None if text is None else self._parse(_first_command(text))
        except UnparsableError:
            return None

    def _compare(self, given: Parts, reference: Parts) -> AnswerScore:
        if given.tokens == reference.tokens:
            return _score(100.0, "")
        parts = [
            (self.utility_weight, _f1(given.utilities, reference.utilities)),
            (self.flag_weight, _f1(given.flags, reference.flags)),
            (self.argument_weight, _f1(given.arguments, reference.arguments)),
        ]
        known = [(weight, f1) for weight, f1 in parts if f1 is not None]
        share = sum(weight * f1 for weight, f1 in known) / sum(weight for weight, _ in known)
        return _score(min(self.highest_unequal_score, 100 * share), _difference(given, reference))

    def _parse(self, command: str) -> Parts:
        tokens = tuple(_tokens(command))
        parts = Parts(tokens=tokens)
        for words in _commands(tokens):
            self._add(parts, words)
        if not (parts.utilities or parts.arguments):
            raise UnparsableError("there is no command in the answer")
        return parts

    def _add(self, parts: Parts, words: list[str]) -> None:
        utility = ""
        expects_utility = True
        for word in words:
            if expects_utility and ASSIGNMENT.match(word):
                parts.arguments["", word] += 1
            elif expects_utility and not (utility and word.startswith("-")):
                utility = word
                parts.utilities[word] += 1
                expects_utility = word in STARTERS
            elif word.startswith("-") and len(word) > 1:
                self._add_flag(parts, utility, word)
                expects_utility = expects_utility or word in STARTING_FLAGS
            else:
                parts.arguments[utility, word] += 1

    def _add_flag(self, parts: Parts, utility: str, word: str) -> None:
        name, equals, value = word.partition("=")
        if word.startswith("--") and equals:
            parts.flags[utility, name] += 1
            parts.arguments[utility, value] += 1
        elif word.startswith("--") or utility in self.single_dash_words or not word[1:].isalpha():
            parts.flags[utility, word] += 1
        else:
            parts.flags.update((utility, f"-{letter}") for letter in word[1:])


def _first_command(answer: str) -> str:
    """The first command line of an answer, without fence and prompt."""
    fence = FENCE.search(answer)
    lines = (fence.group(1) if fence else answer).replace("\\\n", " ").splitlines()
    for line in map(str.strip, lines):
        if line and not line.startswith("#"):
            return PROMPT.sub("", _without_ticks(line))
    raise UnparsableError("the answer is empty")


def _without_ticks(line: str) -> str:
    whole = len(line) > 2 and line.startswith("`") and line.endswith("`") and line.count("`") == 2
    return line[1:-1].strip() if whole else line


def _tokens(command: str) -> Iterator[Token]:
    position = 0
    while position < len(command):
        match = TOKEN.match(command, position)
        if match is None:
            raise UnparsableError("the command does not parse: a quote or a backslash is left open")
        position = match.end()
        kind = str(match.lastgroup)
        if kind == "word":
            if match.group().startswith("#"):
                return
            yield Token(_unquote(match.group()), kind)
        elif kind != "space":
            yield Token(match.group(), kind)


def _unquote(word: str) -> str:
    try:
        return "".join(shlex.split(word))
    except ValueError as error:
        raise UnparsableError(f"the command does not parse: {error}") from error


def _commands(tokens: tuple[Token, ...]) -> Iterator[list[str]]:
    """The words of each command of the pipeline; a redirection is one word with its target."""
    words: list[str] = []
    redirect = ""
    for token in tokens:
        if redirect and token.kind != "word":
            raise UnparsableError(f"the command does not parse: nothing follows {redirect}")
        if token.kind == "redirect":
            redirect = token.text
        elif token.kind in ("operator", "substitution"):
            yield words
            words = []
        else:
            words.append(redirect + token.text)
            redirect = ""
    if redirect:
        raise UnparsableError(f"the command does not parse: nothing follows {redirect}")
    yield words


def _f1(given: Counter[Key], reference: Counter[Key]) -> float | None:
    """Harmonic mean of precision and recall over multisets; None where both are empty."""
    total = given.total() + reference.total()
    return 2 * (given & reference).total() / total if total else None


def _difference(given: Parts, reference: Parts) -> str:
    missing = sorted((reference.utilities - given.utilities).elements())
    if missing:
        return f"missing: {', '.join(missing)}"
    missing = sorted(flag for _, flag in (reference.flags - given.flags).elements())
    return f"missing: {', '.join(missing)}" if missing else "arguments differ"


def _score(score: float, detail: str) -> AnswerScore:
    return AnswerScore(score=score, validator="shell", detail=detail)


@hookimpl
def nightschool_register_settings() -> type[EvaluationShell]:
    return EvaluationShell
