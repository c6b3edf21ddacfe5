"""The one failure policy: every implementation is wrapped so that a plugin's failure stays its own.

An observer that raises is logged and the others still run. A decider that raises ends the call with
`PluginFailed`. What the daemon itself handed to a plugin, a model or the training engine, may fail
without a strike.
"""

import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, is_dataclass
from datetime import datetime
from typing import Protocol, cast

import pluggy

from nightschool_daemon.hooks.stages import is_observer
from nightschool_hookspecs.answers import answer_type, fits
from nightschool_hookspecs.services import GenerationError, TrainingError

logger = logging.getLogger(__name__)

MAX_STRIKES = 3
GATES = frozenset({"nightschool_validate_event", "nightschool_guard_promotion"})
"""Hooks that decide what is let in, as feedback or into use."""
ANYTHING: tuple[type[BaseException], ...] = (Exception, SystemExit)
"""What a plugin may raise. KeyboardInterrupt and the like are not its own."""
SHOWN = 80
"""Characters of a wrong answer that are shown."""

Steps = Generator[None, object, object]
"""A wrapper in progress."""


class PluginFailed(Exception):
    """A deciding plugin raised or gave a wrong answer; the job it was asked for has failed."""

    def __init__(self, plugin: str, hook: str, cause: BaseException | str) -> None:
        self.plugin = plugin
        self.hook = hook
        what = " ".join((cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}").split())
        super().__init__(
            f"the plugin {plugin} failed in {hook} ({what}). Mend it, or add '{plugin}' to plugins.disabled."
        )


NOT_ITS_FAULT: tuple[type[BaseException], ...] = (PluginFailed, GenerationError, TrainingError)
"""Raised by what the daemon handed to the plugin: another plugin, a model, the training engine."""


class WrongAnswer(TypeError):
    """An answer is not what the hook documents."""


class StrikeBook(Protocol):
    """Remembers how often a plugin failed. A changed file starts anew."""

    def strikes(self, name: str, content_digest: str) -> int: ...

    def strike(self, name: str, content_digest: str, reason: str, at: datetime) -> int: ...


class KnownStrikes:
    """A strike book for who may only read the ledger: what it adds is forgotten with the process."""

    def __init__(self, counts: Mapping[tuple[str, str], int]) -> None:
        self._counts = dict(counts)

    def strikes(self, name: str, content_digest: str) -> int:
        """How often a plugin of this content failed."""
        return self._counts.get((name, content_digest), 0)

    def strike(self, name: str, content_digest: str, reason: str, at: datetime) -> int:
        """Count a failure and return how many there were."""
        self._counts[name, content_digest] = self.strikes(name, content_digest) + 1
        return self._counts[name, content_digest]


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What a hook's declaration says of its answers."""

    kind: object
    first_result: bool


class Guard:
    """Wraps implementations so that one plugin's failure stays its own."""

    def __init__(self, manager: pluggy.PluginManager, book: StrikeBook | None, clock: Callable[[], datetime]) -> None:
        self._manager = manager
        self._book = book
        self._clock = clock
        self.digests: dict[str, str] = {}
        self.built_in: set[str] = set()
        self.struck_out: dict[str, str] = {}
        self.shut: dict[str, tuple[str, str]] = {}
        """Gates, each with the name of a plugin that was to stand there, and why it could not be loaded."""

    def require_open(self, gate: str) -> None:
        """Raise `PluginFailed` for a gate whose plugin could not be loaded: who knows what that was to keep out?"""
        if gate in self.shut:
            name, reason = self.shut[gate]
            raise PluginFailed(name, gate, reason)

    def protect(self, plugin: object, name: str) -> None:
        """Guard every implementation of a plugin that was just registered."""
        for caller in self._manager.get_hookcallers(plugin) or []:
            returns = _declared(caller)
            for implementation in caller.get_hookimpls():
                if implementation.plugin is plugin:
                    guarded = self._guarded(implementation, name, caller.name, returns)
                    # pluggy declares the attribute final for type checkers; it is read anew at each call
                    object.__setattr__(implementation, "function", guarded)

    def is_struck_out(self, name: str) -> bool:
        """Whether a plugin failed too often since it was last changed."""
        return self._book is not None and self._book.strikes(name, self.digests.get(name, "")) >= MAX_STRIKES

    def strike(self, name: str, reason: str, content_digest: str | None = None) -> None:
        """Count a failure; the third takes the plugin out. The content is the loaded one where none is given."""
        if self._book is None or name in self.built_in:
            return
        loaded = self.digests.get(name, "")
        failed = loaded if content_digest is None else content_digest
        count = self._book.strike(name, failed, reason, self._clock())
        if count >= MAX_STRIKES and failed == loaded and name not in self.struck_out and not self.is_gate(name):
            self.struck_out[name] = f"failed {count} times, last: {reason}; it is asked again when it changes"
            logger.error("The plugin %s is disabled until it changes: it failed %d times.", name, count)
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)

    def is_gate(self, name: str) -> bool:
        """Whether a plugin decides what is let in. One that fails is asked on: a gate that is broken stays shut.

        Its runs fail with a sentence that names it, until it is mended or switched off.
        """
        plugin = self._manager.get_plugin(name)
        callers = (self._manager.get_hookcallers(plugin) or []) if plugin is not None else []
        return any(caller.name in GATES for caller in callers)

    def _guarded(
        self, implementation: pluggy.HookImpl, name: str, hook: str, returns: Declared
    ) -> Callable[..., object]:
        function = implementation.function
        if implementation.hookwrapper:
            return self._guarded_old_wrapper(cast(Callable[..., Steps], function), name, hook, returns)
        if implementation.wrapper:
            return self._guarded_wrapper(cast(Callable[..., Steps], function), name, hook, returns)

        def call(*arguments: object, **named: object) -> object:
            try:
                answer = function(*arguments, **named)
                _check(hook, answer, returns)
            except ANYTHING as error:
                self._fail(name, hook, error)
                return None
            return answer

        return call

    def _guarded_wrapper(
        self, function: Callable[..., Steps], name: str, hook: str, returns: Declared
    ) -> Callable[..., Steps]:
        def call(*arguments: object, **named: object) -> Steps:
            steps = self._begun(function, arguments, named, name, hook)
            if steps is None:
                return (yield)
            try:
                result = yield
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as inner:  # noqa: BLE001 - handed on to the wrapper, which may answer instead
                return self._thrown(steps, inner, name, hook, returns)
            try:
                answer = _ended(lambda: steps.send(result))
                _check_result(hook, answer, returns)
            except ANYTHING as error:
                self._fail(name, hook, error)
                return result
            return answer

        return call

    def _guarded_old_wrapper(
        self, function: Callable[..., Steps], name: str, hook: str, returns: Declared
    ) -> Callable[..., Steps]:
        def call(*arguments: object, **named: object) -> Steps:
            steps = self._begun(function, arguments, named, name, hook)
            outcome = yield
            if steps is None:
                return None
            try:
                _ended(lambda: steps.send(outcome))
                if isinstance(outcome, pluggy.Result) and outcome.exception is None:
                    _check_result(hook, outcome.get_result(), returns)
            except ANYTHING as error:
                self._fail(name, hook, error)
            return None

        return call

    def _begun(
        self,
        function: Callable[..., Steps],
        arguments: tuple[object, ...],
        named: dict[str, object],
        name: str,
        hook: str,
    ) -> Steps | None:
        """Run a wrapper up to its yield; None where an observing one failed before it."""
        try:
            steps = function(*arguments, **named)
            next(steps)
        except StopIteration:
            self._fail(name, hook, "the wrapper did not yield")
            return None
        except ANYTHING as error:
            self._fail(name, hook, error)
            return None
        return steps

    def _thrown(self, steps: Steps, inner: BaseException, name: str, hook: str, returns: Declared) -> object:
        """Let a wrapper see what was raised inside it, as pluggy does: it may replace it by an answer."""
        try:
            answer = _ended(lambda: steps.throw(inner))
            _check_result(hook, answer, returns)
        except ANYTHING as error:
            if error is inner:
                raise
            self._fail(name, hook, error)
            raise inner from error
        return answer

    def _fail(self, name: str, hook: str, cause: BaseException | str) -> None:
        """Apply the policy: an observer's failure is logged, a decider's ends the call."""
        if isinstance(cause, NOT_ITS_FAULT) and not is_observer(hook):
            raise cause
        failure = PluginFailed(name, hook, cause)
        error = cause if isinstance(cause, BaseException) else None
        logger.error("%s", failure, exc_info=error)
        self.strike(name, str(failure))
        if not is_observer(hook):
            raise failure from error


def _ended(advance: Callable[[], object]) -> object:
    """Run a wrapper to its end and return what it makes of the result."""
    try:
        advance()
    except StopIteration as end:
        return end.value
    raise WrongAnswer("the wrapper yielded twice")


def _declared(caller: pluggy.HookCaller) -> Declared:
    if caller.spec is None:
        return Declared(kind=object, first_result=False)
    return Declared(kind=answer_type(caller.spec.function), first_result=bool(caller.spec.opts["firstresult"]))


def _check(hook: str, answer: object, returns: Declared) -> None:
    """Raise `WrongAnswer` for what the hook's declaration does not allow."""
    if answer is not None and not is_observer(hook) and not fits(answer, returns.kind):
        told = isinstance(answer, str | int | float) or is_dataclass(answer)
        shown = repr(answer) if told else type(answer).__name__
        raise WrongAnswer(
            f"it answered {shown[:SHOWN]}, the hook documents {_shown_type(returns.kind)}; NaN and infinities are no "
            "answers"
        )


def _check_result(hook: str, result: object, returns: Declared) -> None:
    """The same for what a wrapper makes of a whole call: one answer, or the list of all."""
    if returns.first_result or not isinstance(result, list):
        _check(hook, result, returns)
        return
    for answer in result:
        _check(hook, answer, returns)


def _shown_type(kind: object) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("nightschool_hookspecs.records.", "")
