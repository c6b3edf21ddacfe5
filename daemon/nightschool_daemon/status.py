"""What `nightschool status` tells."""

from dataclasses import dataclass
from datetime import datetime

from nightschool_daemon.hooks import MAX_STRIKES, PluginState
from nightschool_daemon.installation import Installation
from nightschool_daemon.ollama.errors import OllamaError
from nightschool_daemon.runs import ShareState, SpecialtyState
from nightschool_daemon.scheduling import next_time
from nightschool_hookspecs.records import RunEnd

PAUSED = "paused"
"""The fact that says since when nothing is learned."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """How everything stands."""

    daemon: str
    """`running`, or `not running`."""
    ollama: str
    """Its version, or why it cannot be asked."""
    paused: bool
    next_run: datetime | None
    run_under_way: str | None
    events: int
    unassigned: int
    """Events that name no model, while no default base is configured for their type."""
    specialties: tuple[SpecialtyState, ...]
    shares: tuple[ShareState, ...]
    """Aliases of whose use a candidate gets a share."""
    problems: tuple[str, ...]
    """Sentences: plugins that are not asked, and what else stands in the way."""


def status_of(installation: Installation, daemon: str, now: datetime) -> Status:
    """Gather the status. A server that is away is part of it, not an error."""
    try:
        ollama, specialties = installation.ollama.version(), installation.runs.specialties()
        problems: list[str] = []
    except OllamaError as error:
        ollama, specialties, problems = "unreachable", installation.runs.specialties_unseen(), [str(error)]
    unassigned = installation.runs.planner.unassigned()
    if unassigned:
        problems.append(
            f"{unassigned} events name no model, and no base is configured for their type: "
            "set one in [specialties.default_base]."
        )
    if (forgotten := installation.ledger.events.forgotten()) is not None:
        problems.append(forgotten)
    bases = dict.fromkeys(one.base for one in installation.runs.planner.specialties())
    problems += filter(None, map(installation.runs.planner.replacement_problem, bases))
    problems += [
        f"A candidate of {one.alias} waits: `nightschool approve {one.alias}` puts it into use."
        for one in specialties
        if one.last_run is not None and one.last_run.end is RunEnd.WAITING
    ]
    unfinished = installation.runs.unfinished()
    return Status(
        daemon=daemon,
        ollama=ollama,
        paused=installation.ledger.facts.get(PAUSED) is not None,
        next_run=next_time(installation.settings.schedule, now),
        run_under_way=unfinished[0] if unfinished else None,
        events=installation.ledger.events.total(),
        unassigned=unassigned,
        specialties=specialties,
        shares=installation.runs.shares.states(),
        problems=(*problems, *_plugin_problems(installation)),
    )


def _plugin_problems(installation: Installation) -> tuple[str, ...]:
    """A sentence for each plugin that is not asked though nobody switched it off."""
    last = {one.name: one.reason for one in installation.ledger.plugins.disabled(at_least=MAX_STRIKES)}
    off = set(installation.settings.plugins.disabled)
    broken = {one.name: one.reason for one in installation.hooks.status() if one.state is PluginState.BROKEN}
    struck = {
        one.name: f"it failed {MAX_STRIKES} times, last: {last.get(one.name, one.reason)}"
        for one in installation.hooks.status()
        if one.state is PluginState.DISABLED and one.name not in off
    }
    return tuple(f"The plugin {name} is not asked: {reason}" for name, reason in {**struck, **broken}.items())
