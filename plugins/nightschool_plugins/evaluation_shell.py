r"""Scores a shell command against a reference command. Nothing is ever executed.

score = 100 * (0.15 F1(utilities) + 0.15 F1(flags) + 0.3 F1(arguments) + 0.1 template + 0.3 similarity)

over multisets of the whole pipeline, parsed by tree-sitter's grammar of bash; a flag and an argument count
together with their utility. `template` is 1 where both commands are the same but for their arguments' values, as
in NL2Bash, whatever the order of flags, else 0. `similarity` is the combined one of both commands with quoting
undone and flags and arguments in order. A part that neither command has drops out and the other weights are
renormalised. A command that does not parse scores 0, and so does one that has none of the reference's utilities:
letters that happen to be alike are no part of an answer, and of 216 such commands in NL2Bash's judgements people found
2 right. 100 is kept for commands that are equal after quoting and white space are undone. The weights were chosen on
one half of the prompts of tests/data/nl2bash/judged.jsonl.

A fence around the answer, a leading `$ ` and everything after the first command are taken away before. Utilities
that start another one (`sudo`, `xargs`, `find -exec`) count, and so does the other.
"""

import functools
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nightschool_hookspecs import AnswerScore, ExamItem, Measure, hookimpl
from nightschool_hookspecs.artifacts import blocks, f1, missing, weighted_f1, without_thinking

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
PROMPT = re.compile(r"\A\$\s+")
OPEN_END = re.compile(r"(?:\\|\||&&|\|\|)\s*\Z")
LANGUAGES = frozenset(
    {"", "sh", "bash", "shell", "zsh", "console", "shell-session", "shellsession", "terminal", "text"}
)
STARTERS = frozenset({"sudo", "command", "xargs", "time", "nohup", "env", "nice", "exec"})
SAME = {"egrep": "grep", "fgrep": "grep", "test": "[", "[[": "[", ".": "source", "python3": "python"}
"""Names that stand for another utility, where it is asked whether an answer has any of the wanted ones."""
STARTING_FLAGS = frozenset({"-exec", "-execdir", "-ok", "-okdir"})
WORDS = frozenset({"word", "raw_string", "string", "ansi_c_string", "concatenation", "number", "simple_expansion",
                   "expansion", "extglob_pattern", "regex", "brace_expression", "translated_string"})  # fmt: skip
MOST_LINES = 60
"""Lines of a command that goes on over several of them."""


class UnparsableError(ValueError):
    """A text is no shell command."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a command line consists of: its tokens in order, the others as multisets."""

    tokens: tuple[str, ...]
    utilities: Counter[str] = field(default_factory=Counter)
    flags: Counter[tuple[str, str]] = field(default_factory=Counter)
    arguments: Counter[tuple[str, str]] = field(default_factory=Counter)
    template: list[tuple[str, tuple[str, ...], int]] = field(default_factory=list)
    """Of each command its utility, its sorted flags and the number of its arguments."""


@dataclass(frozen=True, kw_only=True)
class EvaluationShell:
    """`[plugins.evaluation_shell]`"""

    artifact_types: tuple[str, ...] = ("shell",)
    utility_weight: float = 0.15
    flag_weight: float = 0.15
    argument_weight: float = 0.3
    template_weight: float = 0.1
    similarity_weight: float = 0.3
    highest_unequal_score: float = 99.0
    largest_characters: int = 4000
    """A longer command is not parsed and scores 0."""
    single_dash_words: tuple[str, ...] = ("find", "java", "gcc", "convert", "ffmpeg", "openssl")
    """Utilities whose options are words after one dash; those of others are letters that may be joined."""

    def __post_init__(self) -> None:
        if min(self.utility_weight, self.flag_weight, self.argument_weight) <= 0:
            raise ValueError("utility_weight, flag_weight and argument_weight must be above 0")
        if min(self.template_weight, self.similarity_weight) < 0:
            raise ValueError("template_weight and similarity_weight must be 0 or more")
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
            given = self._read(answer)
        except UnparsableError as error:
            return _score(0.0, str(error))
        return _score(100.0, "") if reference is None else self._compare(given, reference, measure)

    def _reference(self, text: str | None) -> Parts | None:
        """The parts of the reference; None where there is none, or none that parses."""
        try:
            return None if text is None else self._read(text)
        except UnparsableError:
            return None

    def _compare(self, given: Parts, reference: Parts, measure: Measure) -> AnswerScore:
        if given.tokens == reference.tokens:
            return _score(100.0, "")
        if reference.utilities and _kinds(given).isdisjoint(_kinds(reference)):
            return _score(0.0, _difference(given, reference))
        similarity = measure([_in_order(given)], [_in_order(reference)]).values[0]
        share = weighted_f1(
            [
                (self.utility_weight, f1(given.utilities, reference.utilities)),
                (self.flag_weight, f1(given.flags, reference.flags)),
                (self.argument_weight, f1(given.arguments, reference.arguments)),
                (self.template_weight, float(given.template == reference.template)),
                (self.similarity_weight, similarity),
            ]
        )
        return _score(min(self.highest_unequal_score, 100 * (share or 0.0)), _difference(given, reference))

    def _read(self, text: str) -> Parts:
        """The parts of the first command of an answer. Raises `UnparsableError`."""
        return self._parse(self._first_command(text))

    def _first_command(self, answer: str) -> str:
        """The first command of an answer, without fence and prompt; more lines only where it goes on over them."""
        lines = _lines(answer)
        command = ""
        for line in lines[:MOST_LINES]:
            command = f"{command}\n{line}" if command else line
            if len(command) > self.largest_characters:
                raise UnparsableError(f"the command has over {self.largest_characters} characters")
            if not OPEN_END.search(command) and not _tree(command).has_error:
                return command
        return lines[0]

    def _parse(self, command: str) -> Parts:
        root = _tree(command)
        if root.has_error:
            raise UnparsableError("the command does not parse")
        parts = Parts(tokens=tuple(_tokens(root)))
        for words in _commands(root):
            self._add(parts, words)
        if not (parts.utilities or parts.arguments):
            raise UnparsableError("there is no command in the answer")
        return parts

    def _add(self, parts: Parts, words: list[str]) -> None:
        utility = ""
        expects_utility = True
        flags_before, arguments_before = parts.flags.copy(), parts.arguments.total()
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
        flags = sorted(flag for _, flag in (parts.flags - flags_before).elements())
        parts.template.append((words[0] if words else "", tuple(flags), parts.arguments.total() - arguments_before))

    def _add_flag(self, parts: Parts, utility: str, word: str) -> None:
        name, equals, value = word.partition("=")
        if word.startswith("--") and equals:
            parts.flags[utility, name] += 1
            parts.arguments[utility, value] += 1
        elif word.startswith("--") or utility in self.single_dash_words or not word[1:].isalpha():
            parts.flags[utility, word] += 1
        else:
            parts.flags.update((utility, f"-{letter}") for letter in word[1:])


def _lines(answer: str) -> list[str]:
    """The lines that may be a command. Raises `UnparsableError` where there is none."""
    answer = without_thinking(answer)
    fenced = blocks(answer)
    ours = [one for one in fenced if one.language in LANGUAGES] or list(fenced)
    text = (ours[0].text if ours else answer).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise UnparsableError("the answer is empty")
    return [PROMPT.sub("", _without_ticks(lines[0])), *lines[1:]]


def _without_ticks(line: str) -> str:
    whole = len(line) > 2 and line.startswith("`") and line.endswith("`") and line.count("`") == 2
    return line[1:-1].strip() if whole else line


@functools.cache
def _parser() -> "Parser":
    import tree_sitter_bash
    from tree_sitter import Language, Parser

    return Parser(Language(tree_sitter_bash.language()))


def _tree(command: str) -> "Node":
    return _parser().parse(command.encode("utf-8", "replace")).root_node


def _text(node: "Node") -> str:
    return (node.text or b"").decode("utf-8", "replace")


def _tokens(root: "Node") -> Iterator[str]:
    """Words with quoting undone, and what stands between them, in order."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node.type == "comment":
            continue
        if node.type in WORDS:
            yield "w" + _unquote(_text(node))
        elif node.child_count:
            waiting.extend(reversed(node.children))
        elif _text(node).strip():
            yield "o" + _text(node)


def _commands(root: "Node") -> Iterator[list[str]]:
    """The words of each command, those inside substitutions too; a redirection is one word with its target."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        waiting.extend(reversed(node.children))
        if node.type in ("command", "declaration_command", "unset_command", "test_command"):
            yield [*_words(node), *_redirections(node)]
        elif node.type == "variable_assignment" and (node.parent is None or node.parent.type != "command"):
            yield [_unquote(_text(node))]


def _words(command: "Node") -> list[str]:
    if command.type == "test_command":
        return [_unquote(word) for word in _text(command).split()]
    redirected = ("file_redirect", "herestring_redirect", "heredoc_redirect", "comment")
    return [_unquote(_text(child)) for child in command.children if child.type not in redirected]


def _redirections(command: "Node") -> list[str]:
    """Redirections of the command itself, and those that the grammar hangs on the pipeline that it ends."""
    found = [one for one in command.children if one.type.endswith("_redirect")]
    node, parent = command, command.parent
    while parent is not None and parent.type in ("pipeline", "list") and node == parent.children[-1]:
        node, parent = parent, parent.parent
    if parent is not None and parent.type == "redirected_statement":
        found += [one for one in parent.children if one.type.endswith("_redirect")]
    return [_unquote("".join(_text(one).split(maxsplit=1))) for one in found]


def _in_order(parts: Parts) -> str:
    """A command as a text in which the order of flags and arguments says nothing."""
    commands = " | ".join(" ".join((utility, *flags)) for utility, flags, _ in parts.template)
    return " ".join((commands, *sorted(value for _, value in parts.arguments.elements())))


def _unquote(word: str) -> str:
    try:
        return "".join(shlex.split(word)) if not word.isspace() else word
    except ValueError:
        return word


def _kinds(parts: Parts) -> set[str]:
    """The utilities whatever directory they are called from, by the name that stands for all of a kind."""
    names = (one.rsplit("/", 1)[-1] for one in parts.utilities)
    return {SAME.get(one, one) for one in names}


def _difference(given: Parts, reference: Parts) -> str:
    return (
        missing(given.utilities, reference.utilities)
        or missing(
            Counter(one for _, one in given.flags.elements()), Counter(one for _, one in reference.flags.elements())
        )
        or "arguments differ"
    )


def _score(score: float, detail: str) -> AnswerScore:
    return AnswerScore(score=score, validator="shell", detail=detail)


@hookimpl
def nightschool_register_settings() -> type[EvaluationShell]:
    return EvaluationShell
