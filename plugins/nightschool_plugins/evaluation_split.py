"""Which prompts are kept for the exam, for good, of groups that no version was trained on; folds while they are few.

    up to event 39     none: each correction is learned from
    from event 40 on   every second new group, until 25 groups are held out; then one in five

A prompt from which conversations go on is learned from and not counted: held out, it would keep them out of every
lesson. Of a conversation whose turns all come as feedback, the last may be held out.

Until 25 groups are held out a specialty is young, and examined by cross-fitting (Stone 1974, "Cross-validatory choice
and assessment of statistical predictions"): the groups that are learned from, and that no version in use knows, are
dealt to four folds in order of their first event. So the folds differ by one group at most, and a group stays in its
fold when others come, until a version that learned from it is put into use.

The quota runs over all groups of the type in order of their first event. Groups without a side are put into an order by
a keyed hash, and the first ones are held out until the quota is full; the others are learned from. Below 5 events no
side is decided.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from nightschool_hookspecs import PromptGroup, Side, SideChoice, hookimpl


@dataclass(frozen=True, kw_only=True)
class EvaluationSplit:
    """`[plugins.evaluation_split]`"""

    held_out_share: float = 0.2
    """Of new groups, once enough are held out."""
    fewest_events: int = 5
    """With fewer nothing is examined."""
    grown_events: int = 40
    """From this event on every second new group is held out."""
    grown_items: int = 25
    """Until so many are; then the share of new ones, and no cross-fitting."""
    folds: int = 4
    """Of cross-fitting. 0: none, so that nothing is examined before groups are held out."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_out_share <= 0.5:
            raise ValueError("held_out_share must lie within 0..0.5")
        if self.grown_items < 0:
            raise ValueError("grown_items must not be negative")
        if not (self.folds == 0 or 2 <= self.folds <= 20):
            raise ValueError("folds must be 0 or lie within 2..20")
        if self.grown_events < 1:
            raise ValueError("grown_events must be 1 or more")

    @hookimpl
    def nightschool_select_held_out(self, groups: tuple[PromptGroup, ...], seed: int) -> tuple[SideChoice, ...]:
        if not self._is_begun(groups):
            return ()
        young, later = self._by_age(groups)
        grown = [group for group in later if group.side is Side.HELD_OUT or not group.goes_on]
        held_out = _drawn(grown, self._grown_quota(len(grown), _held(young)), seed)
        return tuple(
            SideChoice(key=group.key, side=Side.HELD_OUT if group.key in held_out else Side.TRAINING)
            for group in groups
            if group.side is None
        )

    @hookimpl
    def nightschool_select_folds(self, groups: tuple[PromptGroup, ...]) -> tuple[tuple[str, ...], ...]:
        if not self._is_begun(groups) or _held(groups) >= self.grown_items:
            return ()
        free = [group.key for group in groups if group.side is Side.TRAINING and not group.in_use]
        return tuple(tuple(free[first :: self.folds]) for first in range(min(self.folds, len(free))))

    def _is_begun(self, groups: tuple[PromptGroup, ...]) -> bool:
        return sum(group.events for group in groups) >= self.fewest_events

    def _by_age(self, groups: tuple[PromptGroup, ...]) -> tuple[list[PromptGroup], list[PromptGroup]]:
        """The groups whose first event came before the specialty was grown, and those that came after."""
        young: list[PromptGroup] = []
        events = 0
        for group in groups:
            if events + 1 >= self.grown_events:
                break
            young.append(group)
            events += group.events
        return young, list(groups[len(young) :])

    def _grown_quota(self, groups: int, held_before: int) -> int:
        halved = min(groups, 2 * max(0, self.grown_items - held_before))
        return halved // 2 + self._share_of(groups - halved)

    def _share_of(self, groups: int) -> int:
        # 0.2 * 15 is a little below 3 in binary: the tiny sum keeps whole products whole
        return math.floor(self.held_out_share * groups + 1e-9)


def _drawn(groups: list[PromptGroup], quota: int, seed: int) -> set[str]:
    """Keys of the groups that are held out anew, so that the quota is full if enough are free."""
    free = [group for group in groups if group.side is None and not group.trained_on]
    free.sort(key=lambda group: _order(group.key, seed))
    return {group.key for group in free[: max(0, quota - _held(groups))]}


def _held(groups: Sequence[PromptGroup]) -> int:
    return sum(group.side is Side.HELD_OUT for group in groups)


def _order(key: str, seed: int) -> bytes:
    return hashlib.blake2b(key.encode(), key=str(seed).encode()[:64], digest_size=16).digest()


@hookimpl
def nightschool_register_settings() -> type[EvaluationSplit]:
    return EvaluationSplit
