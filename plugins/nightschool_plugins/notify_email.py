"""Sends a mail of every move of an alias, through an SMTP server of one's own."""

from dataclasses import dataclass
from pathlib import Path

from nightschool_hookspecs import AliasMove, RunReport, hookimpl
from nightschool_hookspecs.notices import (
    Notice,
    notice_of_move,
    notice_of_run,
    require_local,
    send_in_background,
)

NAME = "notify_email"


@dataclass(frozen=True, kw_only=True)
class NotifyEmail:
    """`[plugins.notify_email]`"""

    recipients: tuple[str, ...] = ()
    """Empty: nobody is told."""
    sender: str = "nightschool@localhost"
    host: str = "localhost"
    port: int = 25
    starttls: bool = False
    user: str = ""
    """Empty: without a login."""
    password_file: Path | None = None
    allow_remote: bool = False
    """Whether the server may lie outside this machine and its private network."""
    timeout_s: float = 20.0
    moves: bool = True
    runs: bool = False

    def __post_init__(self) -> None:
        if self.timeout_s <= 0 or not 0 < self.port < 65536:
            raise ValueError("timeout_s must be above 0, port between 1 and 65535")
        if self.user and self.password_file is None:
            raise ValueError("a user needs a password_file")

    @hookimpl
    def nightschool_after_move(self, move: AliasMove) -> None:
        if self.recipients and self.moves:
            self._tell(notice_of_move(move))

    @hookimpl
    def nightschool_after_run(self, report: RunReport) -> None:
        if self.recipients and self.runs:
            self._tell(notice_of_run(report))

    def _tell(self, notice: Notice) -> None:
        send_in_background(NAME, lambda: self._send(notice))

    def _send(self, notice: Notice) -> None:
        import smtplib
        import ssl
        from email.message import EmailMessage
        from email.utils import formatdate, make_msgid

        message = EmailMessage()
        message["Subject"] = f"Night School: {' '.join(notice.title.split())}"
        message["From"], message["To"] = self.sender, ", ".join(self.recipients)
        message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain="nightschool.invalid")
        message.set_content(notice.text)
        with smtplib.SMTP(self.host, self.port, timeout=self.timeout_s) as server:
            if not self.allow_remote and server.sock is not None:
                require_local(server.sock, f"plugins.{NAME}.allow_remote")
            if self.starttls:
                server.starttls(context=ssl.create_default_context())
            if self.password_file is not None:
                server.login(self.user, self.password_file.expanduser().read_text(encoding="utf-8").strip())
            server.send_message(message)


@hookimpl
def nightschool_register_settings() -> type[NotifyEmail]:
    return NotifyEmail
