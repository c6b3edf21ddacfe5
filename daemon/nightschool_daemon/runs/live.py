"""Feedback on answers that were given in use: which version gave them, and what was said."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from nightschool_daemon.ledger import POSITIVE, AnsweredRow, Ledger, MoveRow
from nightschool_daemon.ollama import names
from nightschool_hookspecs.records import LiveAnswer, LiveFeedback, Specialty

MOVES = 1000

Attribute = Callable[[AnsweredRow], str | None]
"""Which version gave the answer; None: nobody can say, or none of interest."""


@dataclass(frozen=True, kw_only=True)
class Holders:
    """What names held, and when."""

    ledger: Ledger
    _moves: dict[str, tuple[MoveRow, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Of each name that was asked for: answers by the hundred are given under a few."""

    def answered(self, row: AnsweredRow) -> str | None:
        """The version or base that a name stood for at the time of an answer."""
        name = row.answered_by or row.base
        return self.held(name, row.at) if name is not None else None

    def held(self, name: str, at: datetime) -> str:
        """What a name stood for. A name that was never moved stands for itself, an alias for its base."""
        if name not in self._moves:
            self._moves[name] = self.ledger.moves.history(name, MOVES)
        moves = [one for one in self._moves[name] if one.done_at is not None]
        own = names.parse(name)
        if not moves:
            return own.base if own is not None and own.kind is names.Kind.ALIAS else plain(name)
        earlier = next((one for one in moves if one.done_at is not None and one.done_at <= at), None)
        tag = earlier.to_tag if earlier is not None else moves[-1].from_tag
        return plain(tag or name)


def plain(tag: str) -> str:
    """A version's tag as it is; for a pin or a saved tag the base that it keeps."""
    own = names.parse(tag)
    return own.base if own is not None and own.kind in (names.Kind.PIN, names.Kind.SAVED) else names.normalise(tag)


def feedback_on(
    promotion: MoveRow, specialty: Specialty, since: datetime, ledger: Ledger, attribute: Attribute
) -> LiveFeedback:
    """What was said of the version that a promotion brought, and of the one before it, since a time."""
    incumbent, candidate = plain(promotion.from_tag or ""), plain(promotion.to_tag or "")
    return LiveFeedback(
        alias=promotion.alias,
        incumbent=incumbent,
        candidate=candidate,
        answers=answers_of(incumbent, candidate, ledger.events.answered(specialty, since), attribute),
    )


def answers_of(
    incumbent: str, candidate: str, rows: Iterable[AnsweredRow], attribute: Attribute
) -> tuple[LiveAnswer, ...]:
    """One answer for each conversation and version, with the last word: its turns are liked or disliked together.

    A conversation is told by its first prompt, so that who says the same thing ten times is heard once, too. The answer
    stays at the place of the first, as a mind that changed is no further one.
    """
    said: dict[tuple[str, str, str], LiveAnswer] = {}
    for row in rows:
        version = attribute(row)
        if version in (incumbent, candidate):
            said[version, row.source, row.opening] = LiveAnswer(
                by_candidate=version == candidate, negative=row.feedback_type not in POSITIVE, source=row.source
            )
    return tuple(said.values())
