"""A share of an alias's use goes to a candidate, through the proxy, until feedback tells the two apart.

A share is a fact of the ledger; what the proxy reads is written anew from them. The candidate is a version that waits
for approval, else the one that the last promotion brought, which is then compared with what stood there before.
"""

import functools
import logging
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from nightschool_daemon import codec
from nightschool_daemon.config import Settings
from nightschool_daemon.hooks import Hooks, PluginFailed
from nightschool_daemon.ledger import AnsweredRow, Ledger
from nightschool_daemon.proxy.answers import open_answers
from nightschool_daemon.proxy.conversation import conversation_of_event
from nightschool_daemon.proxy.routes import DIRECTORY, Route, Routes, RoutesFile, secret_of, write_routes
from nightschool_daemon.runs import live
from nightschool_daemon.runs.errors import UndoRefused
from nightschool_daemon.runs.moves import Destination
from nightschool_hookspecs.records import LiveFeedback, LiveVerdict, Outcome, Specialty

logger = logging.getLogger(__name__)

PREFIX = "share:"
MOST = 0.95
"""A share beyond it would leave nothing to compare with."""


class ShareRefused(Exception):
    """Nothing can be shared; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """An alias whose use is shared, as the ledger remembers it."""

    alias: str
    specialty: Specialty
    incumbent: Destination
    candidate: Destination
    share: float
    """Of the conversations that go to the candidate, 0..1."""
    since: datetime

    @property
    def route(self) -> Route:
        """As the proxy needs it."""
        return Route(alias=self.alias, incumbent=self.incumbent.tag, candidate=self.candidate.tag, share=self.share)


@dataclass(frozen=True, kw_only=True)
class ShareState:
    """A share as `status` shows it."""

    share: Share
    verdict: str
    """One sentence with the figures so far."""


Act = Callable[[Share, str], object]
"""Carries out what feedback decided, for a reason. Raises `UndoRefused` where it cannot be done."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Begins, judges and ends shares."""

    settings: Settings
    ledger: Ledger
    hooks: Hooks
    digests: Callable[[], dict[str, str]]
    """Asks Ollama what each tag holds."""

    def all(self) -> tuple[Share, ...]:
        """Every share in force, in order of name."""
        return tuple(codec.from_json(text, Share) for text in self.ledger.facts.beginning_with(PREFIX).values())

    def of(self, alias: str) -> Share | None:
        """The share of an alias."""
        text = self.ledger.facts.get(PREFIX + alias)
        return codec.from_json(text, Share) if text is not None else None

    def begin(self, share: Share) -> Share:
        """Put a share into force; one of the same two versions goes on with another size. Raises `ShareRefused`."""
        if not 0 < share.share <= MOST:
            raise ShareRefused(f"A share lies above 0 and is {MOST:g} at most, not {share.share:g}.")
        digests = self.digests()
        for arm in (share.incumbent, share.candidate):
            if digests.get(arm.tag) != arm.digest:
                raise ShareRefused(f"{arm.tag} is no longer in Ollama as it was, so nothing is shared.")
        known = self.of(share.alias)
        if known is not None and (known.incumbent, known.candidate) == (share.incumbent, share.candidate):
            share = replace(share, since=known.since)
        self.ledger.facts.put(PREFIX + share.alias, codec.to_json(share))
        self.tell_the_proxy()
        return share

    def end(self, alias: str) -> bool:
        """End a share; nothing is moved. False: there was none."""
        if self.of(alias) is None:
            return False
        self.ledger.facts.delete(PREFIX + alias)
        self.tell_the_proxy()
        return True

    def tell_the_proxy(self) -> None:
        """Write down what the proxy reads, where it is not what is there."""
        routes = Routes(routes=tuple(one.route for one in self.all()))
        if RoutesFile(self.settings.state_directory).current() != routes:
            write_routes(self.settings.state_directory, routes)

    def look(self, *, keep: Act, take_back: Act) -> tuple[str, ...]:
        """Judge every share by its feedback, and end what cannot go on. Returns a sentence for each deed.

        `keep` puts the candidate into use, where it won; `take_back` the incumbent, where the candidate lost.
        """
        shares = self.all()
        digests = self.digests() if shares else {}
        sentences = (self._look_at(one, digests, keep, take_back) for one in shares)
        return tuple(sentence for sentence in sentences if sentence is not None)

    def states(self) -> tuple[ShareState, ...]:
        """Every share with what feedback says of it so far."""
        return tuple(ShareState(share=one, verdict=self._said(one)) for one in self.all())

    def verdict_on(self, share: Share) -> LiveVerdict | None:
        """What feedback says by now; None: no plugin has an opinion, or it failed."""
        try:
            return self.hooks.judge_feedback(live=self.feedback_on(share))
        except PluginFailed:
            # the host has logged it; the next feedback asks again
            return None

    def feedback_on(self, share: Share) -> LiveFeedback:
        """What was said of the two versions since the share began."""
        incumbent, candidate = live.plain(share.incumbent.tag), live.plain(share.candidate.tag)
        rows = self.ledger.events.answered(share.specialty, share.since)
        passed_to = self._passed_to(share, [row for row in rows if row.answered_by == share.alias])

        def who_answered(row: AnsweredRow) -> str | None:
            """A version that feedback names; for the alias, the one that the proxy passed the conversation to."""
            named = passed_to.get(row.key, row.answered_by)
            return live.plain(named) if named is not None else None

        said = live.answers_of(incumbent, candidate, rows, who_answered)
        return LiveFeedback(alias=share.alias, incumbent=incumbent, candidate=candidate, answers=said)

    def _passed_to(self, share: Share, rows: Sequence[AnsweredRow]) -> dict[str, str]:
        """The versions that the proxy passed conversations with the alias to, by keys of the feedback on them.

        Nobody knows them where what the proxy wrote down cannot be read.
        """
        found: dict[str, str] = {}
        try:
            secret = secret_of(self.settings.state_directory)
            with open_answers(self.settings.state_directory) as answers:
                for row in rows:
                    stored = self.ledger.events.get(row.key)
                    if stored is None:
                        continue
                    conversation = conversation_of_event(secret, stored.event)
                    version = answers.version_of(share.alias, conversation, since=share.since, until=row.at)
                    if version is not None:
                        found[row.key] = version
        except (sqlite3.Error, OSError) as error:
            _warn_once(
                f"Which version answered cannot be read from {self.settings.state_directory / DIRECTORY}: {error}. "
                "Feedback that names the alias alone counts for nobody."
            )
            return {}
        return found

    def _look_at(self, share: Share, digests: dict[str, str], keep: Act, take_back: Act) -> str | None:
        if (problem := _problem(share, digests)) is not None:
            self.end(share.alias)
            return f"The share of {share.alias} ended: {problem}"
        verdict = self.verdict_on(share)
        if verdict is None or verdict.outcome not in (Outcome.PROVEN, Outcome.WORSE):
            return None
        is_better = verdict.outcome is Outcome.PROVEN
        try:
            (keep if is_better else take_back)(share, f"a share of its use decided. {verdict.reason}")
        except UndoRefused as refusal:
            return f"{share.alias}: feedback has decided, but {refusal}"
        self.end(share.alias)
        winner = share.candidate if is_better else share.incumbent
        return f"{share.alias}: {winner.tag} won and is in use. {verdict.reason}"

    def _said(self, share: Share) -> str:
        verdict = self.verdict_on(share)
        return verdict.reason if verdict is not None else "No plugin judges its feedback."


@functools.lru_cache(maxsize=16)
def _warn_once(sentence: str) -> None:
    """Feedback is looked at every minute: what stays as it is need not be told again."""
    logger.warning(sentence)


def _problem(share: Share, digests: dict[str, str]) -> str | None:
    """Why a share cannot go on, or None."""
    for arm in (share.incumbent, share.candidate):
        if digests.get(arm.tag) != arm.digest:
            return f"{arm.tag} is no longer in Ollama as it was."
    if digests.get(share.alias) not in (None, share.incumbent.digest, share.candidate.digest):
        return f"{share.alias} was moved to another version."
    return None
