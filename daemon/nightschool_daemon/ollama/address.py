"""Where the server is, from the configuration and the environment."""

import ipaddress
import os
from urllib.parse import urlsplit

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.ollama.errors import InvalidHost, RemoteHostRefused

DEFAULT_PORT = 11434


def base_url(settings: OllamaSettings) -> str:
    """The server's URL.

    Raises `InvalidHost`, and `RemoteHostRefused` for another machine unless the configuration allows it.
    """
    text = settings.host or os.environ.get("OLLAMA_HOST") or "127.0.0.1"
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        given = parts.port
    except ValueError as error:
        raise InvalidHost(f"{text!r} is no address of an Ollama ({error}). Set ollama.host to host:port.") from error
    host = parts.hostname or "127.0.0.1"
    # an address to bind to is no address to connect to
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    if not settings.allow_remote and not _is_loopback(host):
        raise RemoteHostRefused(
            f"{host} is another machine, and nothing leaves this one unless you say so: "
            "set ollama.allow_remote = true to allow it."
        )
    port = given or {"https": 443}.get(parts.scheme, DEFAULT_PORT)
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}:{port}"


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
