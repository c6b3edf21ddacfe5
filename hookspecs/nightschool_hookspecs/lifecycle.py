"""Hooks of the daemon's life: what a plugin contributes when it is loaded, and what it can observe.

The observers (`before_`, `after_`) return nothing. All of them are called in the daemon, in the order
of pluggy; one that raises is logged with its name and the others still run.
"""

from nightschool_hookspecs.markers import hookspec
from nightschool_hookspecs.records import AliasMove, BaseChange, InstalledModel, RunInfo, RunReport


@hookspec(firstresult=True)
def nightschool_register_settings() -> type:
    """Contribute the frozen dataclass type that `[plugins.<name>]` fills.

    Called once when the plugin is loaded, in every process, for this plugin alone. Every field needs
    a default and a type of `bool`, `int`, `float`, `str`, `Path`, an enumeration, a tuple of these,
    or one of them `| None`. The instance is registered in the module's place: put the other hook
    implementations into the class.
    """
    raise NotImplementedError


@hookspec
def nightschool_before_run(run: RunInfo) -> None:
    """Observe a run that begins, or goes on after the daemon was restarted."""


@hookspec
def nightschool_before_step(run: RunInfo, step: str) -> None:
    """Observe a step that is about to begin: split, select, train, export, register, verify, ..."""


@hookspec
def nightschool_after_step(run: RunInfo, step: str) -> None:
    """Observe a step whose result is in the ledger."""


@hookspec
def nightschool_after_run(report: RunReport) -> None:
    """Observe a run that ended, in whatever way; once more where its candidate waited, and is given up by its use."""


@hookspec
def nightschool_after_move(move: AliasMove) -> None:
    """Observe an alias that was moved: promotion, undo or roll-back."""


@hookspec
def nightschool_after_base_change(change: BaseChange, model: InstalledModel) -> None:
    """Observe a base model that appeared, changed or vanished in Ollama's registry.

    Called once for each change that a poll finds. For a vanished base, `model` is what was last seen.
    """
