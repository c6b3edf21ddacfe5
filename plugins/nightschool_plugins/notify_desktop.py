"""Shows every move of an alias on the desktop, by the session bus (org.freedesktop.Notifications).

A service of the whole machine has no session; one of a user has, while that user is logged in.
"""

from dataclasses import dataclass

from nightschool_hookspecs import AliasMove, RunReport, hookimpl
from nightschool_hookspecs.notices import Notice, notice_of_move, notice_of_run, send_in_background

NAME = "notify_desktop"
TIMEOUT_S = 5.0
DEFAULT_EXPIRY = -1
"""The desktop decides how long it is shown."""


@dataclass(frozen=True, kw_only=True)
class NotifyDesktop:
    """`[plugins.notify_desktop]`"""

    enabled: bool = False
    moves: bool = True
    runs: bool = False

    @hookimpl
    def nightschool_after_move(self, move: AliasMove) -> None:
        if self.enabled and self.moves:
            _tell(notice_of_move(move))

    @hookimpl
    def nightschool_after_run(self, report: RunReport) -> None:
        if self.enabled and self.runs:
            _tell(notice_of_run(report))


def _tell(notice: Notice) -> None:
    send_in_background(NAME, lambda: _show(notice))


def _show(notice: Notice) -> None:
    from jeepney import DBusAddress, new_method_call
    from jeepney.io.blocking import open_dbus_connection
    from jeepney.wrappers import unwrap_msg

    desktop = DBusAddress(
        "/org/freedesktop/Notifications",
        bus_name="org.freedesktop.Notifications",
        interface="org.freedesktop.Notifications",
    )
    shown: tuple[object, ...] = ("Night School", 0, "", notice.title, _escaped(notice.text), [], {}, DEFAULT_EXPIRY)
    with open_dbus_connection("SESSION", auth_timeout=TIMEOUT_S) as connection:
        call = new_method_call(desktop, "Notify", "susssasa{sv}i", shown)
        unwrap_msg(connection.send_and_get_reply(call, timeout=TIMEOUT_S))


def _escaped(text: str) -> str:
    """A body is read as markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@hookimpl
def nightschool_register_settings() -> type[NotifyDesktop]:
    return NotifyDesktop
