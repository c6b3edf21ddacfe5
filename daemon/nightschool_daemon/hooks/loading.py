"""Finds plugins, decides which are taken, and gives each its settings."""

import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pluggy

from nightschool_daemon import codec
from nightschool_daemon.config import ConfigurationError
from nightschool_daemon.hooks import import_check
from nightschool_daemon.hooks.built_in import PACKAGE
from nightschool_daemon.hooks.failures import describe
from nightschool_hookspecs import PROJECT, lifecycle

GROUP = "nightschool"
"""The entry-point group of installed plugins."""

PREFIX = f"{PROJECT}_"
SETTINGS_HOOK = "nightschool_register_settings"
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
OTHERS_MAY_WRITE = 0o022


class PluginKind(StrEnum):
    """Where a plugin comes from."""

    BUILT_IN = "built-in"
    ENTRY_POINT = "entry point"
    FILE = "file"


class PluginState(StrEnum):
    """Whether a plugin takes part."""

    ACTIVE = "active"
    DISABLED = "disabled"
    """By the configuration."""
    STRUCK_OUT = "struck out"
    """It failed too often; it comes back when its content changes."""
    REFUSED = "refused"
    """It cannot be loaded."""
    SKIPPED = "skipped"
    """Safe mode: only built-ins are loaded."""


@dataclass(frozen=True, kw_only=True)
class PluginStatus:
    """A plugin as `nightschool plugins` shows it."""

    name: str
    kind: PluginKind
    state: PluginState
    reason: str
    """Why it does not take part, or how often it failed; empty where all is well."""
    hooks: tuple[str, ...]


class PluginRefused(Exception):
    """A plugin cannot be loaded; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A plugin that was found and not yet imported."""

    name: str
    kind: PluginKind
    digest: str
    """Of its content: strikes count against it."""
    load: Callable[[], types.ModuleType]
    """Imports it. Raises `PluginRefused`."""
    fault: str = ""
    """Why it is refused unseen."""


def find_built_in(names: Collection[str]) -> Iterator[Found]:
    """The plugins that come with the package."""
    for name in names:
        module = f"{PACKAGE}.{name}"
        yield Found(
            name=name,
            kind=PluginKind.BUILT_IN,
            digest=_digest_of_module(module),
            load=functools.partial(importlib.import_module, module),
        )


def find_installed() -> Iterator[Found]:
    """The plugins of installed distributions, by name."""
    for point in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda one: (one.name, one.value)):
        yield Found(
            name=point.name,
            kind=PluginKind.ENTRY_POINT,
            digest=_digest_of_module(point.module),
            load=functools.partial(_load_installed, point),
            fault=_fault_of_name(point.name),
        )


def find_files(directory: Path | None) -> Iterator[Found]:
    """The `*.py` files of the plugin directory, by name. Those that begin with `_` are not plugins."""
    if directory is None or not directory.is_dir():
        return
    for file in sorted(directory.glob("*.py")):
        if not file.name.startswith(("_", ".")):
            yield _found_file(file)


def _found_file(file: Path) -> Found:
    fault = _fault_of_name(file.stem) or _fault_of_permissions(file.parent) or _fault_of_permissions(file)
    source = b""
    if not fault:
        try:
            source = file.read_bytes()
        except OSError as error:
            fault = f"{file} cannot be read: {error.strerror}"
    return Found(
        name=file.stem,
        kind=PluginKind.FILE,
        digest=hashlib.sha256(source).hexdigest(),
        load=functools.partial(_load_file, file, source),
        fault=fault,
    )


def _fault_of_name(name: str) -> str:
    if NAME.fullmatch(name):
        return ""
    return f"{name!r} cannot be a plugin's name: small letters, digits and _ only, beginning with a letter"


def _fault_of_permissions(path: Path) -> str:
    """Whoever can write a plugin runs code as the daemon."""
    try:
        status = path.stat()
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if status.st_mode & OTHERS_MAY_WRITE:
        return f"{path} may be written by its group or by everybody. Run: chmod go-w {path}"
    if status.st_uid not in (0, os.geteuid()):
        return f"{path} belongs to another user. Make it belong to root or to the user of the service"
    return ""


def _load_installed(point: importlib.metadata.EntryPoint) -> types.ModuleType:
    if (fault := import_check.fault_of_module(point.module)) is not None:
        raise PluginRefused(f"{point.value}: {fault}")
    plugin = point.load()
    if not isinstance(plugin, types.ModuleType):
        raise PluginRefused(f"{point.value} is not a module. An entry point of {GROUP!r} names a module")
    return plugin


def _load_file(file: Path, source: bytes) -> types.ModuleType:
    """Run the very text that was checked, whatever the file holds by now."""
    if (fault := import_check.fault_of_source(source, str(file))) is not None:
        raise PluginRefused(f"{file}: {fault}")
    module = types.ModuleType(f"nightschool_drop_in_{file.stem}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, str(file), "exec"), module.__dict__)  # noqa: S102 - this is what a drop-in is
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


def _digest_of_module(module: str) -> str:
    """Digest of a module's text, or of its whole package, found without importing it."""
    top = module.partition(".")[0]
    specification = importlib.util.find_spec(top)
    if specification is None or specification.origin is None:
        return ""
    root = Path(specification.origin).parent
    path = root.joinpath(*module.split(".")[1:])
    if top == module and not specification.submodule_search_locations:
        files = [Path(specification.origin)]
    else:
        files = [path.with_suffix(".py")] if path.with_suffix(".py").is_file() else sorted(path.rglob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def import_plugin(found: Found) -> types.ModuleType:
    """Import a plugin and check its shape. Raises `PluginRefused`."""
    if found.fault:
        raise PluginRefused(found.fault)
    try:
        module = found.load()
    except (PluginRefused, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise PluginRefused(f"its import failed with {describe(error)}") from error
    for name in unmarked(module):
        raise PluginRefused(f"{name} lacks its marker. Put @hookimpl above it")
    return module


def unmarked(module: types.ModuleType) -> tuple[str, ...]:
    """Functions of a plugin that are named like hooks and are not marked as implementations."""
    return tuple(
        name
        for name, value in vars(module).items()
        if name.startswith(PREFIX)
        and inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not hasattr(value, f"{PROJECT}_impl")
    )


def with_settings(module: types.ModuleType, name: str, table: Mapping[str, object] | None) -> object:
    """The object to register: the plugin's settings filled from its table, else the module itself.

    Raises `PluginRefused` where the settings type is at fault, `ConfigurationError` where the table is.
    """
    kind = settings_type(module)
    if kind is None:
        if table:
            raise ConfigurationError(f"configuration: plugins.{name}: this plugin has no settings; remove the table.")
        return module
    try:
        return codec.build(kind, dict(table or {}), f"plugins.{name}")
    except codec.CodecError as error:
        hint = "`nightschool config show` prints every key with its value."
        raise ConfigurationError(f"configuration: {error}. {hint}") from error


def settings_type(module: types.ModuleType) -> type | None:
    """The settings dataclass that a plugin contributes. Raises `PluginRefused` where it is none."""
    loader = pluggy.PluginManager(PROJECT)
    loader.add_hookspecs(lifecycle)
    implementations = hook_names(loader, module)
    if SETTINGS_HOOK not in implementations:
        return None
    outside = [name for name in implementations if name != SETTINGS_HOOK]
    if outside:
        raise PluginRefused(f"{outside[0]} stands outside the settings class. Make it a method of that class")
    kind = _contributed(loader, module)
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        raise PluginRefused(f"{SETTINGS_HOOK} must return a dataclass type")
    if not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]  # typeshed leaves it out
        raise PluginRefused(f"the settings class {kind.__name__} must be frozen")
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise PluginRefused(f"the setting {field.name} of {kind.__name__} needs a default")
    return kind


def hook_names(manager: pluggy.PluginManager, plugin: object) -> tuple[str, ...]:
    """The hooks that a plugin implements, by their specification's name."""
    found = []
    for attribute in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, attribute)
        if options is not None:
            found.append(options.get("specname") or attribute)
    return tuple(found)


def _contributed(loader: pluggy.PluginManager, module: types.ModuleType) -> object:
    try:
        loader.register(module)
        return loader.hook.nightschool_register_settings()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PluginRefused(f"{SETTINGS_HOOK} failed with {describe(error)}") from error


def register(manager: pluggy.PluginManager, plugin: object, name: str) -> None:
    """Register with pluggy; a plugin that does not fit the contract leaves no trace. Raises `PluginRefused`."""
    known = {one for one in vars(manager.hook) if one.startswith(PREFIX)}
    for hook in hook_names(manager, plugin):
        if hook not in known:
            raise PluginRefused(
                f"{hook}: {codec.unknown_key(hook, sorted(known)).replace('unknown key', 'unknown hook')}"
            )
    try:
        manager.register(plugin, name)
    except (pluggy.PluginValidationError, ValueError) as error:
        raise PluginRefused(" ".join(str(error).split())) from error
