"""What a notifying plugin needs: the words for what happened, a thread to send them in, and whom it may reach.

@hookimpl
def nightschool_after_move(self, move: AliasMove) -> None:
    notice = notice_of_move(move)
    send_in_background("my plugin", lambda: send(notice.title, notice.text))
"""

import ipaddress
import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

from nightschool_hookspecs.records import AliasMove, MoveKind, RunEnd, RunReport

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Notice:
    """What a person is told."""

    title: str
    """One line."""
    text: str
    """What happened, why, and what to do where something is to be done."""


class NotLocal(OSError):
    """The other side is not of this machine or its private network."""


def notice_of_move(move: AliasMove) -> Notice:
    """The words for an alias that was moved."""
    titles = {
        MoveKind.PROMOTE: f"{move.alias}: a better model is in use",
        MoveKind.UNDO: f"{move.alias} was put back",
        MoveKind.ROLL_BACK: f"{move.alias} was moved back by itself",
    }
    way = f"{move.from_tag or 'nothing'} -> {move.to_tag or 'nothing'}"
    more = f"\n`nightschool undo {move.alias}` puts it back." if move.kind is MoveKind.PROMOTE else ""
    return Notice(title=titles[move.kind], text=f"{way}\n{move.reason}{more}")


def notice_of_run(report: RunReport) -> Notice:
    """The words for a run that ended."""
    titles = {
        RunEnd.PROMOTED: "a better model is in use",
        RunEnd.WAITING: "a better model waits for your approval",
        RunEnd.NOT_ENOUGH: "nothing changed, not enough to tell yet",
        RunEnd.DISCARDED: "nothing changed, the new model was not better",
        RunEnd.OVERTAKEN: "nothing changed, a newer model overtook this one",
        RunEnd.ROLLED_BACK: "the previous model is in use again",
        RunEnd.CANCELLED: "nothing changed, the run was cancelled",
        RunEnd.FAILED: "nothing changed, the run failed",
    }
    more = f"\n`nightschool report {report.run.id}` tells all."
    return Notice(title=f"{report.run.specialty}: {titles[report.end]}", text=f"{report.reason}{more}")


def send_in_background(name: str, send: Callable[[], None]) -> threading.Thread:
    """Send in a thread of its own: whoever is told slowly, or not at all, holds up nothing.

    A failure is logged under the plugin's name. The process waits for the thread at its end: `send` needs a time-out.
    """

    def run() -> None:
        try:
            send()
        except Exception as error:  # noqa: BLE001 - whatever a notification fails at is said here and goes no further
            logger.warning("%s could not tell anybody: %s: %s", name, type(error).__name__, error)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    return thread


def require_local(connected: socket.socket, setting: str) -> None:
    """Raise `NotLocal` where a connected socket leads out of this machine and its private network.

    The other end is asked, not the name: a name may lead elsewhere the next time. `setting` is what allows it.
    """
    host = str(connected.getpeername()[0]).partition("%")[0]
    address = ipaddress.ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if not (mapped or address).is_private:
        raise NotLocal(f"{host} is a public address, and nothing leaves this network unless {setting} = true")
