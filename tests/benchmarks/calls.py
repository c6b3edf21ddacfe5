"""What a call of a bench that takes hours makes, and of which code the results are that it finds."""

import argparse
import hashlib
import json
import logging
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from benchmarks import results

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = tuple(
    ROOT / name
    for name in ("hookspecs/nightschool_hookspecs", "plugins/nightschool_plugins", "daemon/nightschool_daemon")
)


class Coded(Protocol):
    """A result that knows what it was made with."""

    @property
    def code(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Call:
    """What is wanted, and the code with which it would be made."""

    minutes: float
    """After which nothing more is begun."""
    only: tuple[str, ...]
    """Beginnings of the names of what is made; none: all of it."""
    anew: bool
    """What was made with other code is made again."""
    code: str

    @classmethod
    def given(cls, description: str | None, code: str) -> "Call":
        """What the command line asks for."""
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing after so long")
        parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="those whose names begin so")
        parser.add_argument("--anew", action="store_true", help="make those of other code again")
        found = parser.parse_args()
        get_ready()
        return cls(minutes=found.minutes, only=tuple(found.only), anew=found.anew, code=code)

    def carry_out(self, wanted: "Mapping[Path, Callable[[], DataclassInstance]]") -> None:
        """Make what is wanted and not there, each a file."""
        here = {file: run for file, run in wanted.items() if not self.only or file.stem.startswith(self.only)}
        results.carry_out(here, self.minutes, is_finished=self.is_finished)

    def is_finished(self, file: Path) -> bool:
        """Whether a result counts. Its file holds `code`."""
        return file.exists() and (not self.anew or json.loads(file.read_bytes())["code"] == self.code)


def get_ready() -> None:
    """Have the process clear away when somebody ends it, as by an interrupt, and tell of no single request."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # a library of the embeddings has the root logger tell everything
    logging.getLogger("httpx").setLevel(logging.WARNING)


def digest_of(files: Iterable[Path]) -> str:
    """Of the project and of these files, which measure it: what a result depends on besides what was asked for."""
    own = [file for package in PACKAGES for file in package.rglob("*") if file.is_file()]
    digest = hashlib.sha256()
    for file in sorted(file for file in (*own, *files) if file.parent.name != "__pycache__"):
        digest.update(f"{file.relative_to(ROOT)}\n".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]


def states(found: Iterable[Coded]) -> str:
    """How many states of the code results are of, for the title of their table."""
    count = len({one.code for one in found})
    return "one state of the code" if count == 1 else f"{count} states of the code"
