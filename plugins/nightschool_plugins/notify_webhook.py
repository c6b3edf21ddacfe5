"""Tells a web hook of every move of an alias: one POST with a JSON object.

The object has `event` (`move` or `run`), `title`, `text`, and what happened in fields; chat servers that take `text`
need nothing else. Redirects are not followed.
"""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from nightschool_hookspecs import AliasMove, RunReport, hookimpl
from nightschool_hookspecs.notices import (
    Notice,
    notice_of_move,
    notice_of_run,
    require_local,
    send_in_background,
)

NAME = "notify_webhook"


class HookRefused(OSError):
    """The web hook answered with something else than success."""


@dataclass(frozen=True, kw_only=True)
class NotifyWebhook:
    """`[plugins.notify_webhook]`"""

    url: str = ""
    """Empty: nobody is told."""
    allow_remote: bool = False
    """Whether the address may lie outside this machine and its private network."""
    token_file: Path | None = None
    """A file with a token that is sent as `Authorization: Bearer`."""
    timeout_s: float = 10.0
    moves: bool = True
    runs: bool = False

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if self.url and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("url must be of the form http://host/path")
        if self.timeout_s <= 0:
            raise ValueError("timeout_s must be above 0")

    @hookimpl
    def nightschool_after_move(self, move: AliasMove) -> None:
        if self.url and self.moves:
            said = {"kind": move.kind.value, "alias": move.alias, "from": move.from_tag, "to": move.to_tag}
            self._tell("move", notice_of_move(move), {**said, "reason": move.reason})

    @hookimpl
    def nightschool_after_run(self, report: RunReport) -> None:
        if self.url and self.runs:
            said = {"run": report.run.id, "end": report.end.value, "alias": report.alias, "version": report.version}
            self._tell("run", notice_of_run(report), {**said, "reason": report.reason})

    def _tell(self, event: str, notice: Notice, more: Mapping[str, object]) -> None:
        body = json.dumps({"event": event, "title": notice.title, "text": f"{notice.title}\n{notice.text}", **more})
        send_in_background(NAME, lambda: self._post(body.encode()))

    def _post(self, body: bytes) -> None:
        parts = urlsplit(self.url)
        connection = self._connection(parts)
        try:
            connection.connect()
            if not self.allow_remote:
                require_local(connection.sock, f"plugins.{NAME}.allow_remote")
            connection.request(
                "POST", parts._replace(scheme="", netloc="", fragment="").geturl() or "/", body, self._headers()
            )
            status = connection.getresponse().status
        finally:
            connection.close()
        if not 200 <= status < 300:
            raise HookRefused(f"{parts.hostname} answered with status {status}")

    def _connection(self, parts: SplitResult) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return kind(parts.hostname or "", parts.port, timeout=self.timeout_s)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": "nightschool"}
        if self.token_file is not None:
            token = self.token_file.expanduser().read_text(encoding="utf-8").strip()
            headers["Authorization"] = f"Bearer {token}"
        return headers


@hookimpl
def nightschool_register_settings() -> type[NotifyWebhook]:
    return NotifyWebhook
