"""Puts an alias back to what it held before its last promotion."""

from dataclasses import replace

from nightschool_daemon.ledger import Ledger, MoveRow
from nightschool_daemon.ollama import names
from nightschool_daemon.runs.errors import MoveFailed, UndoRefused
from nightschool_daemon.runs.moves import AliasMover, Destination
from nightschool_hookspecs.records import AliasMove, MoveKind

HISTORY = 1000


def promotion_to_undo(mover: AliasMover, alias: str) -> MoveRow:
    """The promotion that brought `alias` where it is, after all checks. Raises `UndoRefused`."""
    present = mover.digest_of(alias)
    promotion = _promotion_to(mover, alias, present)
    if promotion is None or promotion.from_tag is None or promotion.from_digest is None:
        raise UndoRefused(f"There is no promotion of {alias} to undo. `nightschool history` lists what was moved.")
    if present is None:
        raise UndoRefused(f"{alias} is not in Ollama. `ollama cp {promotion.from_tag} {alias}` makes it anew.")
    if present != promotion.to_digest:
        raise UndoRefused(
            f"{alias} was pointed at another model by hand, so it stays as it is. "
            f"`ollama cp {promotion.from_tag} {alias}` puts the earlier one back."
        )
    if mover.digest_of(promotion.from_tag) != promotion.from_digest:
        raise UndoRefused(
            f"{promotion.from_tag} is no longer in Ollama as it was, so {alias} stays as it is. "
            "promotion.keep_versions says how many older versions are kept."
        )
    return promotion


def undo(
    mover: AliasMover, promotion: MoveRow, *, kind: MoveKind = MoveKind.UNDO, reason: str | None = None
) -> AliasMove:
    """Move an alias back to where it was before `promotion`. Raises `UndoRefused`.

    `kind` and `reason` say who asked: a person, unless they say otherwise.
    """
    if promotion.from_tag is None or promotion.from_digest is None or promotion.to_digest is None:
        raise UndoRefused(f"There is no promotion of {promotion.alias} to undo.")
    try:
        return mover.move(
            kind=kind,
            alias=promotion.alias,
            origin=Destination(tag=promotion.to_tag or promotion.alias, digest=promotion.to_digest),
            destination=Destination(tag=promotion.from_tag, digest=promotion.from_digest),
            reason=reason or f"undo of the promotion to {promotion.to_tag}",
            run_id=promotion.run_id if kind is MoveKind.ROLL_BACK else None,
        )
    except MoveFailed as error:
        raise UndoRefused(str(error)) from error


def take_back(mover: AliasMover, promotion: MoveRow, *, kind: MoveKind, reason: str | None) -> AliasMove:
    """Put an alias back by one promotion, and with it the user's own tag. Raises `UndoRefused`."""
    beside, problem = _base_moved_with(mover, promotion)
    # what is found by the alias goes first: killed in between, the same undo goes on from here
    if beside is not None:
        try:
            undo(mover, beside, kind=kind, reason=reason)
        except UndoRefused as refusal:
            # it is the alias that got worse: the name beside it does not keep it back
            problem = str(refusal)
    moved = undo(mover, promotion, kind=kind, reason=reason)
    return moved if problem is None else replace(moved, reason=f"{moved.reason}. {problem}")


def _base_moved_with(mover: AliasMover, promotion: MoveRow) -> tuple[MoveRow | None, str | None]:
    """The move of the user's own tag by the same run, or why it is not undone."""
    own = names.parse(promotion.alias)
    if own is None or promotion.run_id is None:
        return None, None
    of_base = next((row for row in mover.ledger.moves.of_run(promotion.run_id) if row.alias == own.base), None)
    if of_base is None or _is_taken_back(mover, of_base):
        return None, None
    try:
        beside = promotion_to_undo(mover, own.base)
    except UndoRefused as refusal:
        return None, str(refusal)
    return (beside, None) if beside.run_id == promotion.run_id else (None, None)


def _is_taken_back(mover: AliasMover, promotion: MoveRow) -> bool:
    """Whether the last move of an alias took this very promotion back."""
    last = mover.ledger.moves.last_done(promotion.alias)
    return last is not None and last.kind.is_back and last.from_digest == promotion.to_digest


def promotions(ledger: Ledger, alias: str) -> list[MoveRow]:
    """Those of an alias that were carried out, the newest first."""
    moves = ledger.moves.history(alias, HISTORY)
    return [row for row in moves if row.kind is MoveKind.PROMOTE and row.done_at is not None]


def _promotion_to(mover: AliasMover, alias: str, present: str | None) -> MoveRow | None:
    """The promotion that brought the alias where it is; the last one at all where it is nowhere of ours."""
    promoted = promotions(mover.ledger, alias)
    found = next((row for row in promoted if row.to_digest == present), None)
    if found is not None or _was_undone(mover, alias, present) or not promoted:
        return found
    return promoted[0]


def _was_undone(mover: AliasMover, alias: str, present: str | None) -> bool:
    last = mover.ledger.moves.last_done(alias)
    return present is not None and last is not None and last.kind.is_back and last.to_digest == present
