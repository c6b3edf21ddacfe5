"""Which prompts are kept for the exam: one group in five, for good.

held out in all = max(floor(0.2 * groups), min(6, floor(groups / 2))), of groups that no version was trained on

so that a young specialty has an exam that can prove something.

Groups without a side are put into an order by a keyed hash, and the first ones are held out until the
quota is full; the others are learned from. Below 5 events no side is decided.
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

    def __post_init__(self) -> None:
        if not 0 <= self.held_out_share <= 0.5:
            raise ValueError("held_out_share must lie within 0..0.5")
        if self.fewest_items < 0:
            raise ValueError("fewest_items must not be negative")

    @hookimpl
    def nightschool_select_held_out(self, groups: tuple[PromptGroup, ...], seed: int) -> tuple[SideChoice, ...]:
        if sum(group.events for group in groups) < self.fewest_events:
            return ()
        already = sum(group.side is Side.HELD_OUT for group in groups)
        free = sorted((group for group in groups if group.side is None), key=lambda group: _order(group.key, seed))
        quota = max(0, self._quota(len(groups)) - already)
        held_out = {group.key for group in [one for one in free if not one.trained_on][:quota]}
        return tuple(
            SideChoice(key=group.key, side=Side.HELD_OUT if group.key in held_out else Side.TRAINING) for group in free
        )

    def _quota(self, groups: int) -> int:
        # 0.2 * 15 is a little below 3 in binary: the tiny sum keeps whole products whole
        return max(math.floor(self.held_out_share * groups + 1e-9), min(self.fewest_items, groups // 2))


def _order(key: str, seed: int) -> bytes:
    return hashlib.blake2b(key.encode(), key=str(seed).encode()[:64], digest_size=16).digest()


@hookimpl
def nightschool_register_settings() -> type[EvaluationSplit]:
    return EvaluationSplit
