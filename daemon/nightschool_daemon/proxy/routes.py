"""What the daemon tells the proxy: which alias is shared between which versions."""

from dataclasses import dataclass
from pathlib import Path

from nightschool_daemon import codec, secret
from nightschool_daemon.jobs import write_durably

DIRECTORY = "proxy"
FILE_NAME = "routes.json"


@dataclass(frozen=True, kw_only=True)
class Route:
    """An alias whose use is shared."""

    alias: str
    incumbent: str
    """Tag of the version that answers the other conversations."""
    candidate: str
    share: float
    """Of the conversations that go to the candidate, 0..1."""


@dataclass(frozen=True, kw_only=True)
class Routes:
    """The aliases that are shared; every other name passes through."""

    routes: tuple[Route, ...] = ()

    def of(self, name: str) -> Route | None:
        """The route of an alias, by its normalised name."""
        return next((one for one in self.routes if one.alias == name), None)


def directory_of(state_directory: Path) -> Path:
    """The directory that daemon and proxy share. It is made where it is not there."""
    directory = state_directory / DIRECTORY
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory


def write_routes(state_directory: Path, routes: Routes) -> None:
    """Tell the proxy; it looks before every request."""
    write_durably(directory_of(state_directory) / FILE_NAME, codec.to_json(routes))


class RoutesFile:
    """The file as the proxy reads it: anew when it changed."""

    def __init__(self, state_directory: Path) -> None:
        self._file = state_directory / DIRECTORY / FILE_NAME
        self._seen: tuple[int, int] | None = None
        self._routes = Routes()

    def current(self) -> Routes:
        """The routes as they are now."""
        try:
            status = self._file.stat()
        except FileNotFoundError:
            return Routes()
        seen = (status.st_mtime_ns, status.st_ino)
        if seen != self._seen:
            self._routes = codec.from_json(self._file.read_bytes(), Routes)
            self._seen = seen
        return self._routes


def secret_of(state_directory: Path) -> bytes:
    """The proxy's own secret, made where there is none: nobody can choose a conversation's version."""
    return secret.secret_of(directory_of(state_directory))
