"""Feedback that looks wrong: what plugins find, and what it weighs."""

from collections.abc import Mapping

from nightschool_daemon.learning.workshop import DatasetError, Workshop
from nightschool_hookspecs.records import LossTrajectory, NoiseFinding, ScoredEvent


def find_noise(
    workshop: Workshop, events: tuple[ScoredEvent, ...], trajectories: tuple[LossTrajectory, ...]
) -> dict[str, NoiseFinding]:
    """What looks wrong in the feedback of one side, by event, gravest first."""
    present = {one.event.key: one for one in events if not one.event.metadata.deleted}
    known = tuple(one for one in trajectories if one.event_id in present)
    offered = workshop.hooks.find_noise(
        events=tuple(present.values()), trajectories=known, measure=workshop.measure, embed=workshop.embed
    )
    found: dict[str, NoiseFinding] = {}
    for one in sorted((one for of_plugin in offered for one in of_plugin), key=lambda one: one.factor):
        _require_finding(one, present)
        found.setdefault(one.event_id, one)
    return found


def _require_finding(finding: NoiseFinding, present: Mapping[str, ScoredEvent]) -> None:
    foreign = next((key for key in (finding.event_id, finding.contradicts) if key and key not in present), None)
    if foreign is not None:
        raise DatasetError(f"A plugin found noise in the event {foreign}, which was not offered to it.")
    if not 0 <= finding.factor <= 1:
        raise DatasetError(f"A plugin gave the event {finding.event_id} the factor {finding.factor}, not one of 0..1.")


def factor_of(noise: Mapping[str, NoiseFinding], key: str) -> float:
    """By what the weight of an event is multiplied."""
    finding = noise.get(key)
    return 1.0 if finding is None else finding.factor


def suspicion(noise: Mapping[str, NoiseFinding], key: str) -> str | None:
    """Why an event is taken for noise altogether; None: it is learned from, by whatever weight."""
    finding = noise.get(key)
    return f"it looks wrong: {finding.reason}" if finding is not None and finding.factor == 0 else None
