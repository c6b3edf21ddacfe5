"""The one failure policy: each implementation is guarded when it is registered.

Hooks are then called the plain pluggy way, so that order, wrappers and first results stay pluggy's.
Unguarded, a call stops at the first raise and skips every implementation after it (pluggy issue 419).

An observer that fails is logged and the others still run. A decider that fails raises `PluginFailed`,
which ends that job and nothing else. Each failure is a strike.
"""

import functools
import logging
from collections.abc import Callable, Generator
from datetime import datetime
from typing import Protocol, cast

import pluggy

from nightschool_daemon.hooks import answers
from nightschool_hookspecs.services import GenerationError, TrainingError

STRIKES = 3
"""Failures after which an outside plugin is disabled until its content changes."""

NOT_ITS_FAULT = (KeyboardInterrupt, GenerationError, TrainingError)
"""Raised by what the daemon handed to the plugin, not by the plugin: they pass as they are."""

log = logging.getLogger(__name__)

Function = Callable[..., object]
Steps = Generator[None, object, object]


class PluginFailed(Exception):
    """A plugin that decides did not answer as its hook documents; the job at hand cannot go on."""

    def __init__(self, plugin: str, hook: str, cause: BaseException) -> None:
        self.plugin = plugin
        self.hook = hook
        self.cause = cause
        super().__init__(
            f"The plugin {plugin} failed in {hook}: {describe(cause)}. Repair it, or switch it off by its name in "
            "`disabled` under [plugins] of the configuration."
        )


class WrongAnswer(TypeError):
    """An answer is not of the type that the hook documents."""


class StrikeBook(Protocol):
    """Where strikes are counted, by a plugin's name and the digest of its content."""

    def strikes(self, name: str, digest: str, /) -> int:
        """Return how often this content of the plugin has failed."""
        ...

    def strike(self, name: str, digest: str, reason: str, at: datetime, /) -> int:
        """Count one more failure and return how many there are now."""
        ...


Report = Callable[[str, str], None]
"""Takes a plugin's name and the reason of a strike."""


def describe(error: BaseException) -> str:
    """An exception's type and message in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_observer(hook: str) -> bool:
    """Whether a hook returns nothing and only looks on."""
    return hook.startswith(("nightschool_before_", "nightschool_after_"))


class Guard:
    """What stands between pluggy and one implementation of a hook."""

    def __init__(self, *, plugin: str, hook: str, kind: object, firstresult: bool, report: Report) -> None:
        self.plugin = plugin
        self.hook = hook
        self.kind = kind
        self.firstresult = firstresult
        self.report = report

    def around(self, implementation: pluggy.HookImpl) -> Function:
        """The guarded function that takes the implementation's place."""
        function: Function = implementation.function
        if implementation.hookwrapper:
            return self._old_wrapper(function)
        return self._wrapper(function) if implementation.wrapper else self._plain(function)

    def _plain(self, function: Function) -> Function:
        @functools.wraps(function)
        def guarded(*arguments: object, **named: object) -> object:
            try:
                answer = function(*arguments, **named)
                self._check(answer)
            except BaseException as error:  # noqa: BLE001 - SystemExit too is a plugin's failure
                self._failed(error)
                return None
            return answer

        return guarded

    def _wrapper(self, function: Function) -> Function:
        @functools.wraps(function)
        def guarded(*arguments: object, **named: object) -> Steps:
            steps = self._begun(function, arguments, named)
            if steps is None:
                return (yield)
            try:
                result = yield
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as inner:  # noqa: BLE001 - SystemExit too is a plugin's failure
                return self._thrown(steps, inner)
            return self._sent(steps, result)

        return guarded

    def _old_wrapper(self, function: Function) -> Function:
        @functools.wraps(function)
        def guarded(*arguments: object, **named: object) -> Steps:
            steps = self._begun(function, arguments, named)
            outcome = yield
            if steps is None:
                return None
            try:
                _finish(steps, outcome)
                if isinstance(outcome, pluggy.Result) and outcome.exception is None:
                    self._check_result(outcome.get_result())
            except BaseException as error:  # noqa: BLE001 - SystemExit too is a plugin's failure
                self._failed(error)
            return None

        return guarded

    def _begun(self, function: Function, arguments: tuple[object, ...], named: dict[str, object]) -> Steps | None:
        """Run a wrapper up to its yield; None where an observing one failed before it."""
        try:
            steps = cast(Steps, function(*arguments, **named))
            next(steps)
        except StopIteration:
            self._failed(RuntimeError("the wrapper did not yield"))
            return None
        except BaseException as error:  # noqa: BLE001 - SystemExit too is a plugin's failure
            self._failed(error)
            return None
        return steps

    def _sent(self, steps: Steps, result: object) -> object:
        try:
            answer = _finish(steps, result)
            self._check_result(answer)
        except BaseException as error:  # noqa: BLE001 - SystemExit too is a plugin's failure
            self._failed(error)
            return result
        return answer

    def _thrown(self, steps: Steps, inner: BaseException) -> object:
        """Hand a failure from further in to the wrapper, which may turn it into an answer."""
        try:
            answer = _finish_by(lambda: steps.throw(inner))
            self._check_result(answer)
        except BaseException as error:
            if error is inner:
                raise
            self._failed(error)
            raise inner from error
        return answer

    def _check(self, answer: object) -> None:
        if answer is not None and not is_observer(self.hook) and not answers.fits(answer, self.kind):
            raise WrongAnswer(answers.misfit(answer, self.kind))

    def _check_result(self, result: object) -> None:
        """Check what a wrapper made of the whole call's result."""
        if self.firstresult or not isinstance(result, list):
            self._check(result)
            return
        for answer in result:
            self._check(answer)

    def _failed(self, error: BaseException) -> None:
        """Count and log the failure; raise `PluginFailed` where the hook decides."""
        if isinstance(error, (PluginFailed, GeneratorExit, *NOT_ITS_FAULT)):
            raise error
        failure = PluginFailed(self.plugin, self.hook, error)
        self.report(self.plugin, f"{self.hook}: {describe(error)}")
        if not is_observer(self.hook):
            raise failure from error
        log.error("%s", failure, exc_info=error)


def _finish(steps: Steps, value: object) -> object:
    """Send the result into a wrapper and return what it makes of it."""
    return _finish_by(lambda: steps.send(value))


def _finish_by(advance: Callable[[], object]) -> object:
    try:
        advance()
    except StopIteration as end:
        return end.value
    raise RuntimeError("the wrapper yielded twice")


def install(manager: pluggy.PluginManager, plugin: object, name: str, report: Report) -> None:
    """Guard every implementation of a plugin that was just registered."""
    for caller in manager.get_hookcallers(plugin) or ():
        for implementation in caller.get_hookimpls():
            if implementation.plugin is plugin:
                guard = _guard_for(caller, name, report)
                # pluggy reads the function at each call; the parameter names it has read already.
                implementation.function = guard.around(implementation)  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]  # marked Final, and there is no other place to guard at


def _guard_for(caller: pluggy.HookCaller, name: str, report: Report) -> Guard:
    specification = caller.spec
    kind = answers.documented_type(specification.function) if specification is not None else object
    firstresult = bool(specification is not None and specification.opts["firstresult"])
    return Guard(plugin=name, hook=caller.name, kind=kind, firstresult=firstresult, report=report)
