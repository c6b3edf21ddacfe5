"""Turns sources into registered, guarded plugins with their settings filled."""

import difflib
import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from datetime import datetime
from enum import StrEnum

import pluggy

from nightschool_daemon import codec
from nightschool_daemon.config import ConfigurationError
from nightschool_daemon.hooks.guarding import ANYTHING, MAX_STRIKES, Guard, StrikeBook
from nightschool_daemon.hooks.sources import PluginKind, Source
from nightschool_daemon.hooks.stages import STAGES
from nightschool_hookspecs.markers import PROJECT

SETTINGS_HOOK = "nightschool_register_settings"


class PluginState(StrEnum):
    """Whether a plugin is asked."""

    ACTIVE = "active"
    DISABLED = "disabled"
    AVAILABLE = "available"
    """An optional built-in that nobody switched on."""
    BROKEN = "broken"


@dataclass(frozen=True, kw_only=True)
class PluginStatus:
    """A plugin as `nightschool plugins` shows it."""

    name: str
    kind: PluginKind
    state: PluginState
    reason: str
    """Why it is not asked; empty where it is."""
    hooks: tuple[str, ...]


class Loader:
    """Turns sources into registered, guarded plugins."""

    def __init__(
        self,
        *,
        tables: Mapping[str, Mapping[str, object]],
        disabled: frozenset[str],
        waiting: frozenset[str],
        strikes: StrikeBook | None,
        clock: Callable[[], datetime],
    ) -> None:
        self.manager = pluggy.PluginManager(PROJECT)
        for stage in STAGES:
            self.manager.add_hookspecs(stage)
        self.guard = Guard(self.manager, strikes, clock)
        self.statuses: dict[str, PluginStatus] = {}
        self._tables = tables
        self._disabled = disabled
        self._waiting = waiting

    def add(self, sources: Sequence[Source]) -> None:
        """Load sources in order. A built-in that breaks is our fault and raises."""
        for source in sources:
            self._add_one(source)

    def refuse_unknown_names(self, enabled: Collection[str]) -> None:
        """Raise for a table, a disabled or an enabled name that is nobody's."""
        for path, names in (
            ("plugins.{}", self._tables),
            ("plugins.disabled: {}", sorted(self._disabled)),
            ("plugins.enabled: {}", sorted(enabled)),
        ):
            for name in names:
                if name not in self.statuses:
                    hint = codec.unknown_key(name, list(self.statuses)).removeprefix("unknown key; ")
                    raise ConfigurationError(f"{path.format(name)}: no plugin has this name; {hint}")

    def refuse_needless_names(self, enabled: Collection[str], optional: frozenset[str]) -> None:
        """Raise for an enabled name of a plugin that is asked anyway: whoever wrote it meant another one."""
        for name in sorted(self.statuses.keys() & set(enabled) - optional):
            names = ", ".join(sorted(optional))
            raise ConfigurationError(f"plugins.enabled: {name} is asked without it, so take it out; it is for {names}")

    def _add_one(self, source: Source) -> None:
        if source.name in self.statuses:
            self._note(source, PluginState.BROKEN, "another plugin has this name; rename one of them", suffix=True)
            return
        if source.name in self._disabled:
            self.manager.set_blocked(source.name)
            self._note(source, PluginState.DISABLED, "switched off by plugins.disabled")
            return
        if source.name in self._waiting:
            # what stands in its table is checked all the same: it may be switched on tomorrow
            if source.name in self._tables:
                _with_settings(self.manager, source.load(), self._tables[source.name], source.name)
            self._note(source, PluginState.AVAILABLE, "switched on by plugins.enabled")
            return
        self.guard.digests[source.name] = source.digest
        if source.kind is PluginKind.BUILT_IN:
            self.guard.built_in.add(source.name)
            self._register(source)
            return
        try:
            self._register(source)
            if self.guard.is_struck_out(source.name) and not self.guard.is_gate(source.name):
                self.manager.unregister(name=source.name)
                reason = f"failed {MAX_STRIKES} times; it is asked again when it changes"
                self._note(source, PluginState.DISABLED, reason)
        except ConfigurationError:
            raise
        except ANYTHING as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self._note(source, PluginState.BROKEN, reason)
            for gate in source.gates:
                self.guard.shut.setdefault(gate, (source.name, reason))

    def _register(self, source: Source) -> None:
        module = source.load()
        _refuse_unmarked(module)
        plugin = _with_settings(self.manager, module, self._tables.get(source.name), source.name)
        _refuse_unknown_arguments(self.manager, plugin)
        self.manager.register(plugin, name=source.name)
        try:
            self.manager.check_pending()
        except pluggy.PluginValidationError:
            self.manager.unregister(plugin)
            raise TypeError(_unknown_hook(plugin)) from None
        self.guard.protect(plugin, source.name)
        self._note(source, PluginState.ACTIVE, "")

    def _note(self, source: Source, state: PluginState, reason: str, *, suffix: bool = False) -> None:
        plugin = self.manager.get_plugin(source.name) if state is PluginState.ACTIVE else None
        callers = (self.manager.get_hookcallers(plugin) or []) if plugin is not None else []
        key = f"{source.name} ({source.file or source.kind})" if suffix else source.name
        self.statuses[key] = PluginStatus(
            name=key, kind=source.kind, state=state, reason=reason, hooks=tuple(sorted(one.name for one in callers))
        )


def _refuse_unmarked(plugin: object) -> None:
    """Raise for a function that is named like a hook and would silently never be called."""
    for name, value in vars(plugin).items():
        own = inspect.isfunction(value) and value.__module__ == getattr(plugin, "__name__", None)
        if own and name.startswith(f"{PROJECT}_") and not hasattr(value, f"{PROJECT}_impl"):
            raise TypeError(f"{name} lacks its marker; put @hookimpl above it")


@functools.cache
def _hooks() -> dict[str, inspect.Signature]:
    """Every declared hook with its signature."""
    return {
        name: inspect.signature(value)
        for stage in STAGES
        for name, value in vars(stage).items()
        if name.startswith(f"{PROJECT}_") and inspect.isfunction(value)
    }


def _unknown_hook(plugin: object) -> str:
    """The sentence for a function that is marked and named like no hook."""
    known = list(_hooks())
    wrong = next(name for name in dir(plugin) if name.startswith(f"{PROJECT}_") and name not in (*known, SETTINGS_HOOK))
    near = difflib.get_close_matches(wrong, known, n=1)
    return f"there is no hook {wrong}" + (f"; did you mean {near[0]}?" if near else "; docs/plugins.md lists them")


def _refuse_unknown_arguments(manager: pluggy.PluginManager, plugin: object) -> None:
    """Raise for an argument that the hook does not have: pluggy tells arguments by their names."""
    hooks = _hooks()
    for name in sorted(hooks.keys() & dir(plugin)):
        if manager.parse_hookimpl_opts(plugin, name) is None:
            continue
        given = inspect.signature(getattr(plugin, name)).parameters
        wrong = [one for one in given if one not in hooks[name].parameters]
        if wrong:
            raise TypeError(f"{name} has no argument '{wrong[0]}'; it has: {', '.join(hooks[name].parameters)}")


def _with_settings(
    manager: pluggy.PluginManager, plugin: object, table: Mapping[str, object] | None, name: str
) -> object:
    """Fill the plugin's settings dataclass and return its instance; the plugin itself where it has none."""
    contribute = getattr(plugin, SETTINGS_HOOK, None)
    if contribute is None or manager.parse_hookimpl_opts(plugin, SETTINGS_HOOK) is None:
        if table:
            raise ConfigurationError(f"plugins.{name}: the plugin {name} has no settings, remove its table")
        return plugin
    kind = contribute()
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise TypeError(f"{SETTINGS_HOOK} must return a dataclass type")
    stray = [
        attribute
        for attribute in dir(plugin)
        if attribute.startswith(f"{PROJECT}_")
        and attribute != SETTINGS_HOOK
        and manager.parse_hookimpl_opts(plugin, attribute) is not None
    ]
    if stray:
        raise TypeError(f"{stray[0]} stands beside the settings class; make it a method of {kind.__name__}")
    try:
        return codec.build(kind, dict(table or {}), f"plugins.{name}")
    except codec.CodecError as error:
        raise ConfigurationError(str(error)) from error
