"""Which prompts are kept for the exam, for good, of groups that no version was trained on.

    up to event 39     max(floor(0.2 * groups), min(6, floor(groups / 2)))
    from event 40 on   every second new group, until 25 groups are held out; then one in five

so that a young specialty has an exam that can prove something, and a grown one soon has one that proves small gains.

The quota runs over all groups of the type in order of their first event. Groups without a side are put into an order by
a keyed hash, and the first ones are held out until the quota is full; the others are learned from. Below 5 events no
side is decided.
"""

import hashlib
import math
from dataclasses import dataclass

from nightschool_hookspecs import PromptGroup, Side, SideChoice, hookimpl


@dataclass(frozen=True, kw_only=True)
class EvaluationSplit:
    """`[plugins.evaluation_split]`"""

    held_out_share: float = 0.2
    fewest_events: int = 5
    fewest_items: int = 6
    """As many are held out first, but never more than half."""
    grown_events: int = 40
    """From this event on every second new group is held out."""
    grown_items: int = 25
    """Until so many are; then the share of new ones."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_out_share <= 0.5:
            raise ValueError("held_out_share must lie within 0..0.5")
        if self.fewest_items < 0 or self.grown_items < 0:
            raise ValueError("fewest_items and grown_items must not be negative")
        if self.grown_events < 1:
            raise ValueError("grown_events must be 1 or more")

    @hookimpl
    def nightschool_select_held_out(self, groups: tuple[PromptGroup, ...], seed: int) -> tuple[SideChoice, ...]:
        if sum(group.events for group in groups) < self.fewest_events:
            return ()
        young, grown = self._by_age(groups)
        held_out = _drawn(young, self._young_quota(len(young)), seed)
        held_out |= _drawn(grown, self._grown_quota(len(grown), _held(young) + len(held_out)), seed)
        return tuple(
            SideChoice(key=group.key, side=Side.HELD_OUT if group.key in held_out else Side.TRAINING)
            for group in groups
            if group.side is None
        )

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

    def _young_quota(self, groups: int) -> int:
        return max(self._share_of(groups), min(self.fewest_items, groups // 2))

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


def _held(groups: list[PromptGroup]) -> int:
    return sum(group.side is Side.HELD_OUT for group in groups)


def _order(key: str, seed: int) -> bytes:
    return hashlib.blake2b(key.encode(), key=str(seed).encode()[:64], digest_size=16).digest()


@hookimpl
def nightschool_register_settings() -> type[EvaluationSplit]:
    return EvaluationSplit
