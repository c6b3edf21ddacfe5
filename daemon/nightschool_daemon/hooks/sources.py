"""Where plugins come from: our own package, installed distributions, files of the plugin directory."""

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import stat
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from nightschool_daemon.hooks.child_import import import_in_child
from nightschool_daemon.hooks.guarding import GATES
from nightschool_hookspecs.markers import PROJECT

BUILT_IN: tuple[str, ...] = (
    "intake_native",
    "intake_quality",
    "intake_classify",
    "context_event",
    "reward_plain",
    "reward_enhanced",
    "difficulty_length",
    "difficulty_heuristic",
    "similarity_edit",
    "similarity_bleu",
    "similarity_embedding",
    "batching_threshold",
    "batching_adaptive",
    "selection_priority",
    "selection_active",
    "training_examples",
    "negatives_plain",
    "negatives_hard",
    "noise_agreement",
    "curriculum_shuffle",
    "curriculum_staged",
    "augmentation_letters",
    "augmentation_paraphrase",
    "augmentation_backtranslate",
    "augmentation_synonyms",
    "augmentation_context",
    "replay_mixed",
    "preference_corrections",
    "preference_pairs",
    "preference_thumbs",
    "tuning_fixed",
    "tuning_optuna",
    "training_sft",
    "training_dpo",
    "training_kto",
    "training_starters",
    "delivery_split",
    "delivery_fused",
    "delivery_adapter",
    "evaluation_split",
    "evaluation_text",
    "evaluation_markdown",
    "evaluation_document",
    "evaluation_code",
    "evaluation_sql",
    "evaluation_erd",
    "evaluation_shell",
    "evaluation_disliked",
    "evaluation_judge",
    "guard_answers",
    "guard_capabilities",
    "guard_general",
    "guard_latency",
    "guard_length",
    "guard_liked",
    "guard_memory",
    "guard_regression",
    "guard_repetition",
    "judge_paired",
    "judge_feedback",
    "notify_webhook",
    "notify_desktop",
    "notify_email",
)
"""Of two that answer the same first-result hook the later is asked first: SQL before other code, text last."""

OPTIONAL: frozenset[str] = frozenset(
    {
        "reward_enhanced",
        "difficulty_heuristic",
        "batching_adaptive",
        "selection_active",
        "negatives_hard",
        "noise_agreement",
        "curriculum_staged",
        "augmentation_paraphrase",
        "augmentation_backtranslate",
        "augmentation_synonyms",
        "augmentation_context",
        "preference_pairs",
        "replay_mixed",
        "training_starters",
        "tuning_optuna",
    }
)
"""Built-ins that are asked where they are switched on: by `plugins.enabled`, or all of them by the preset `all`."""

BUILT_IN_PACKAGE = "nightschool_plugins"


class PluginKind(StrEnum):
    """Where a plugin comes from."""

    BUILT_IN = "built-in"
    INSTALLED = "installed"
    FILE = "file"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A plugin before it is loaded."""

    name: str
    kind: PluginKind
    load: Callable[[], object]
    digest: str
    file: Path | None = None
    gates: frozenset[str] = frozenset()
    """Gates that a file names: without it nobody could tell what one that cannot be loaded was to keep out."""


def built_in_source(name: str) -> Source:
    return Source(
        name=name,
        kind=PluginKind.BUILT_IN,
        load=lambda: importlib.import_module(f"{BUILT_IN_PACKAGE}.{name}"),
        digest="",
    )


def installed_sources(*, check: bool) -> list[Source]:
    found = importlib.metadata.entry_points(group=PROJECT)
    return [
        Source(
            name=one.name,
            kind=PluginKind.INSTALLED,
            load=functools.partial(_load_installed, one, check=check),
            digest=f"{one.value} {one.dist.version if one.dist else ''}",
        )
        for one in sorted(found, key=lambda one: one.name)
    ]


def _load_installed(entry_point: importlib.metadata.EntryPoint, *, check: bool) -> object:
    if check:
        import_in_child("module", entry_point.module)
    return entry_point.load()


def file_sources(directory: Path | None, *, check: bool) -> list[Source]:
    if directory is None or not directory.is_dir():
        return []
    files = sorted(one for one in directory.glob("*.py") if not one.name.startswith(("_", ".")))
    return [_file_source(one, check=check) for one in files]


def _file_source(file: Path, *, check: bool) -> Source:
    # one that cannot be read has no content, which loading it will tell
    try:
        content = file.read_bytes()
    except OSError:
        content = None
    return Source(
        name=file.stem,
        kind=PluginKind.FILE,
        load=lambda: _load_file(file, check=check),
        digest=hashlib.sha256(content).hexdigest() if content is not None else "",
        file=file,
        gates=frozenset(one for one in GATES if one.encode() in (content or b"")),
    )


def _load_file(file: Path, *, check: bool) -> types.ModuleType:
    mode = file.stat().st_mode
    if not stat.S_ISREG(mode):
        raise ImportError(f"{file} is no file")
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{file} can be written by others than its owner; `chmod go-w {file}`")
    if check:
        import_in_child("file", str(file))
    return _import_file(file)


def _import_file(file: Path) -> types.ModuleType:
    name = f"{PROJECT}_file_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up while the class body runs
    sys.modules[name] = module
    try:
        # standard output belongs to the command that loads plugins
        with contextlib.redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
