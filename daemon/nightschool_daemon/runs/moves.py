"""Moves an alias from one version to another, so that a crash at any point leaves it at one of the two.

The order is always the same: record the intent, check that the destination's tag holds the digest,
copy, read back, record done. Ollama's copy truncates the destination before it writes, so a crash in
between leaves an empty manifest; recovery repairs it by replaying the recorded intent. There is one move
at a time, from the first look at the alias to the record.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from nightschool_daemon.hooks import Hooks
from nightschool_daemon.ledger import Ledger, MoveRow, MoveState
from nightschool_daemon.ollama.errors import OllamaInterrupted, OllamaRefused
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.runs.errors import MoveFailed
from nightschool_hookspecs.records import AliasMove, MoveKind


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where an alias is to point: a tag of ours and the digest it must have."""

    tag: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class AliasMover:
    """Carries out moves and replays unfinished ones."""

    ledger: Ledger
    ollama: OllamaHttp
    hooks: Hooks
    clock: Callable[[], datetime]

    def move(
        self,
        *,
        kind: MoveKind,
        alias: str,
        origin: Destination | None,
        destination: Destination,
        reason: str,
        run_id: str | None = None,
    ) -> AliasMove:
        """Point `alias` at `destination`.

        `origin` is where it may point now; None: nothing of that name may exist. Raises `MoveFailed`
        where the alias was re-pointed by somebody else or the destination is damaged.
        """
        row = MoveRow(
            id=0,
            kind=kind,
            alias=alias,
            from_digest=origin.digest if origin else None,
            to_digest=destination.digest,
            from_tag=origin.tag if origin else None,
            to_tag=destination.tag,
            reason=reason,
            run_id=run_id,
            intended_at=self.clock(),
            done_at=None,
            state=MoveState.INTENDED,
        )
        with self.ledger.moves.lock:
            present = self.digest_of(alias)
            if present == destination.digest:
                return self._record_as_done(row)
            if present is not None and (origin is None or present != origin.digest):
                raise MoveFailed(self._moved_by_others(alias, present))
            identifier = self._intended(row)
            try:
                self._copy(destination, alias)
            except MoveFailed as error:
                self._give_up(identifier, row, str(error))
                raise
            return self._finish(identifier, row)

    def replay(self) -> tuple[str, ...]:
        """Finish every move that was recorded but not done. Returns a sentence for each."""
        with self.ledger.moves.lock:
            return tuple(self._replay_one(row) for row in self.ledger.moves.unfinished())

    def digest_of(self, name: str) -> str | None:
        """The manifest digest of a tag, or None where there is none that Ollama can read."""
        return next((entry.digest for entry in self.ollama.tags() if entry.name == name), None)

    def _moved_by_others(self, alias: str, present: str) -> str:
        """Why an alias that holds something unexpected stays as it is: by a move of ours, or by hand."""
        last = self.ledger.moves.last_done(alias)
        if last is not None and last.to_digest == present:
            return f"{alias} was moved to {last.to_tag} meanwhile, so it stays as it is."
        return (
            f"{alias} was pointed at another model by hand, so it stays as it is. "
            f"`ollama rm {alias}` gives it back to Night School."
        )

    def _replay_one(self, row: MoveRow) -> str:
        present = self.digest_of(row.alias)
        if row.to_tag is None or row.to_digest is None:
            self.ledger.moves.abandon(row.id, self.clock(), "no destination was recorded")
            return f"The move of {row.alias} had no destination and was given up."
        if present not in (None, row.from_digest, row.to_digest):
            reason = "the alias was pointed at another model by hand in the meantime"
            self.ledger.moves.abandon(row.id, self.clock(), reason)
            return f"{row.alias} was pointed at another model by hand, so its unfinished move was given up."
        if present != row.to_digest:
            try:
                self._copy(Destination(tag=row.to_tag, digest=row.to_digest), row.alias)
            except MoveFailed as error:
                self._give_up(row.id, row, str(error))
                return f"The unfinished move of {row.alias} was given up: {error}"
        self._finish(row.id, row)
        return f"The unfinished move of {row.alias} to {row.to_tag} was completed."

    def _intended(self, row: MoveRow) -> int:
        """Write the intent down; a move that is tried again has one already.

        An older one of the alias is not to be carried out days later, behind this one.
        """
        earlier = [one for one in self.ledger.moves.unfinished() if one.alias == row.alias]
        same = next((one for one in earlier if (one.to_digest, one.run_id) == (row.to_digest, row.run_id)), None)
        for one in earlier:
            if one is not same:
                self.ledger.moves.abandon(one.id, self.clock(), "another move of the alias was asked for since")
        return self.ledger.moves.intend(row) if same is None else same.id

    def _give_up(self, identifier: int, row: MoveRow, reason: str) -> None:
        """Leave the alias where it was. Where a failed copy damaged it, it is put back.

        If even that fails the intent stays: the next start completes the move.
        """
        if self.digest_of(row.alias) != row.from_digest and row.from_tag is not None and row.from_digest is not None:
            try:
                self._copy(Destination(tag=row.from_tag, digest=row.from_digest), row.alias)
            except MoveFailed:
                return
        self.ledger.moves.abandon(identifier, self.clock(), reason)

    def _copy(self, destination: Destination, alias: str) -> None:
        if self.digest_of(destination.tag) != destination.digest:
            raise MoveFailed(
                f"{destination.tag} is gone from Ollama or was changed, so {alias} was not moved. "
                "`nightschool run --now` makes a new version."
            )
        try:
            self.ollama.copy(destination.tag, alias)
        except (OllamaRefused, OllamaInterrupted) as error:
            raise MoveFailed(f"{alias} was not moved to {destination.tag}: {error}") from error
        found = self.digest_of(alias)
        if found != destination.digest:
            raise MoveFailed(
                f"After the copy {alias} does not hold {destination.tag}: its disk may be full. Free some space."
            )

    def _record_as_done(self, row: MoveRow) -> AliasMove:
        """The alias is there already: either this very move was made before, or somebody made it by hand."""
        last = self.ledger.moves.last_done(row.alias)
        if last is not None and last.to_digest == row.to_digest:
            return as_alias_move(last)
        return self._finish(self._intended(row), row)

    def _finish(self, identifier: int, row: MoveRow) -> AliasMove:
        self.ledger.moves.done(identifier, self.clock())
        move = as_alias_move(row)
        self.hooks.after_move(move=move)
        return move


def as_alias_move(row: MoveRow) -> AliasMove:
    """The part of a ledger row that observers see."""
    return AliasMove(
        kind=row.kind,
        alias=row.alias,
        from_digest=row.from_digest,
        to_digest=row.to_digest,
        reason=row.reason,
        from_tag=row.from_tag,
        to_tag=row.to_tag,
    )
