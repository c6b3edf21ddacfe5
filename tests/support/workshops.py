"""What the stages of the dataset work with, without a model and without a disk."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from nightschool_daemon.config import PluginSettings, Preset
from nightschool_daemon.evaluation.similarity import CombinedMeasure, no_embeddings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.learning.grouping import NearPrompts
from nightschool_daemon.learning.services import ChunkSearch
from nightschool_daemon.learning.workshop import Workshop
from nightschool_hookspecs import RunInfo, Specialty
from nightschool_hookspecs.testing import FakeGenerate, FakeStore

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def workshop_of(built_in: Sequence[str], plugins: Sequence[object]) -> Workshop:
    """With these built-ins and plugins alone, for shell commands."""
    hooks = Hooks.load(plugin_directory=None, tables={}, plugins=PluginSettings(preset=Preset.ALL), built_in=built_in)
    for number, plugin in enumerate(plugins):
        hooks.manager.register(plugin, name=f"test{number}")
    specialty = Specialty(base="tiny:latest", artifact_type="shell")
    measure = CombinedMeasure(hooks, no_embeddings)
    return Workshop(
        hooks=hooks,
        info=RunInfo(id="r", specialty=specialty, seed=3, started_at=NOW, reason="test", directory=Path("nowhere")),
        measure=measure,
        generate=FakeGenerate(),
        judge=FakeGenerate(),
        retrieve=ChunkSearch(()),
        store=FakeStore(),
        find_near=NearPrompts(measure, no_embeddings, 0.85).across,
    )
