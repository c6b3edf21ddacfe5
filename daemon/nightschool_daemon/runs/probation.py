"""After a promotion: where feedback got worse, the alias goes back by itself, as `undo` would do it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from nightschool_daemon.config import Settings
from nightschool_daemon.hooks import Hooks, PluginFailed
from nightschool_daemon.ledger import Ledger, MoveRow
from nightschool_daemon.ollama import names
from nightschool_daemon.runs import live
from nightschool_daemon.runs.errors import UndoRefused
from nightschool_hookspecs.records import AliasMove, LiveVerdict, MoveKind, Outcome, RunEnd, Specialty

RollBack = Callable[[MoveRow, str], AliasMove]
"""Takes a promotion back, for a reason. Raises `UndoRefused`."""


@dataclass(frozen=True, kw_only=True)
class Probation:
    """Watches what was promoted lately."""

    settings: Settings
    ledger: Ledger
    hooks: Hooks

    def look(self, specialties: tuple[Specialty, ...], roll_back: RollBack, now: datetime) -> tuple[str, ...]:
        """Judge every promotion on probation by its feedback. Returns a sentence for each that was taken back."""
        sentences = []
        for specialty in specialties:
            self.settle_the_run(specialty, now)
            promotion = self.promotion_of(specialty, now)
            if promotion is not None and (sentence := self._judge(promotion, specialty, roll_back, now)) is not None:
                sentences.append(sentence)
        return tuple(sentences)

    def promotion_of(self, specialty: Specialty, now: datetime) -> MoveRow | None:
        """The promotion that brought the alias where it is, while it is on probation."""
        last = self.ledger.moves.last_done(names.alias_of(specialty))
        if last is None or last.kind is not MoveKind.PROMOTE or last.done_at is None or last.from_tag is None:
            return None
        return last if now - last.done_at < self._time else None

    def verdict_on(self, promotion: MoveRow, specialty: Specialty) -> LiveVerdict | None:
        """What feedback says of a promotion by now; None: no plugin has an opinion, or it failed."""
        since = (promotion.done_at or promotion.intended_at) - self._time
        attribute = live.Holders(ledger=self.ledger).answered
        try:
            return self.hooks.judge_feedback(live=live.feedback_on(promotion, specialty, since, self.ledger, attribute))
        except PluginFailed:
            # the host has logged it; the next feedback asks again
            return None

    def unwatched(self, specialty: Specialty, now: datetime) -> str | None:
        """Why feedback could not take back what is on probation, in two sentences; None: it could, or nothing is."""
        promotion = self.promotion_of(specialty, now)
        verdict = self.verdict_on(promotion, specialty) if promotion is not None else None
        if promotion is None or verdict is None or not verdict.liked_missing:
            return None
        answers = "liked answer" if verdict.liked_missing == 1 else "liked answers"
        return (
            f"Nobody watches whether {promotion.alias} gets worse in use: it takes {verdict.liked_missing} more "
            f"{answers} of {live.plain(promotion.from_tag or '')} for that, as corrected answers tell the versions "
            "apart only from liked ones. "
            f"Look at its answers yourself: `nightschool undo {promotion.alias}` takes it back."
        )

    @property
    def _time(self) -> timedelta:
        return timedelta(days=self.settings.promotion.probation_days)

    def _judge(self, promotion: MoveRow, specialty: Specialty, roll_back: RollBack, now: datetime) -> str | None:
        verdict = self.verdict_on(promotion, specialty)
        if verdict is None or verdict.outcome is not Outcome.WORSE:
            return None
        try:
            moved = roll_back(promotion, f"feedback got worse after the promotion. {verdict.reason}")
        except UndoRefused as refusal:
            return f"{promotion.alias}: feedback got worse after the promotion, but {refusal}"
        self.settle_the_run(specialty, now)
        return f"{moved.alias} was moved back to {moved.to_tag}: {moved.reason}"

    def settle_the_run(self, specialty: Specialty, now: datetime) -> None:
        """The run whose promotion was taken back ends so in the ledger too, also where a crash came between."""
        last = self.ledger.moves.last_done(names.alias_of(specialty))
        if last is None or last.kind is not MoveKind.ROLL_BACK or last.run_id is None:
            return
        run = self.ledger.runs.get(last.run_id)
        if run is not None and run.end is RunEnd.PROMOTED:
            self.ledger.runs.finish(run.id, RunEnd.ROLLED_BACK, last.reason, now)
