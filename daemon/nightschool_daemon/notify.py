"""Tells systemd how the service is (sd_notify), where systemd listens."""

import contextlib
import os
import socket


def notify(state: str) -> None:
    """Send `READY=1`, `WATCHDOG=1`, `STOPPING=1` or `STATUS=...`. Where systemd does not listen nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # an address that begins with @ is in Linux's abstract name space
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, contextlib.suppress(OSError):
        channel.connect(target)
        channel.sendall(state.encode())


def watchdog_interval_s() -> float | None:
    """How often systemd wants to hear from us: half of its limit. None: never."""
    microseconds = os.environ.get("WATCHDOG_USEC")
    return int(microseconds) / 2_000_000 if microseconds else None
