"""The parts of one installation, put together: the daemon and the command line build the same."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from nightschool_daemon.config import ConfigurationError, Settings, require_directories
from nightschool_daemon.hooks import Hooks, KnownStrikes, PluginState, StrikeBook
from nightschool_daemon.intake import Intake
from nightschool_daemon.ledger import FILE_NAME, Ledger
from nightschool_daemon.locking import StateLock
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.runs import Runs

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Installation:
    """Everything that works on one state directory."""

    settings: Settings
    ledger: Ledger
    hooks: Hooks
    ollama: OllamaHttp
    runs: Runs
    intake: Intake


@contextmanager
def working(settings: Settings, *, safe_mode: bool = False) -> Iterator[Installation]:
    """Take the lock and open everything for writing. Raises `LockedError`, `LedgerError`, `ConfigurationError`."""
    require_directories(settings)
    lock = StateLock.take(settings.state_directory)
    try:
        ledger = Ledger.open(settings.state_directory / FILE_NAME)
        try:
            yield _put_together(settings, ledger, safe_mode=safe_mode, writes=True)
        finally:
            ledger.close()
    finally:
        lock.release()


@contextmanager
def looking(settings: Settings) -> Iterator[Installation]:
    """Open everything for reading, beside a daemon or without one. Raises `LedgerError`."""
    ledger = Ledger.open_read_only(settings.state_directory / FILE_NAME)
    try:
        yield _put_together(settings, ledger, safe_mode=False, writes=False)
    finally:
        ledger.close()


def now() -> datetime:
    """The time, aware, in UTC."""
    return datetime.now(UTC)


def load_hooks(settings: Settings, strikes: StrikeBook | None, *, safe_mode: bool) -> Hooks:
    """The plugins as the configuration has them. Raises `ConfigurationError`."""
    try:
        return Hooks.load(
            plugin_directory=settings.plugin_directory,
            tables=settings.plugin_tables,
            plugins=settings.plugins,
            strikes=strikes,
            clock=now,
            safe_mode=safe_mode,
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"{settings.file or 'configuration'}: {error}") from error


def _put_together(settings: Settings, ledger: Ledger, *, safe_mode: bool, writes: bool) -> Installation:
    strikes = ledger.plugins if writes else KnownStrikes(ledger.plugins.all_strikes())
    hooks = load_hooks(settings, strikes, safe_mode=safe_mode)
    if writes:
        _log_broken(hooks)
    ollama = OllamaHttp(settings.ollama)
    return Installation(
        settings=settings,
        ledger=ledger,
        hooks=hooks,
        ollama=ollama,
        runs=Runs(settings=settings, ledger=ledger, hooks=hooks, ollama=ollama, clock=now),
        intake=Intake(
            settings=settings.feedback,
            hooks=hooks,
            ledger=ledger,
            default_base=settings.specialties.default_base,
        ),
    )


def _log_broken(hooks: Hooks) -> None:
    for one in hooks.status():
        if one.state is PluginState.BROKEN:
            logger.warning("The plugin %s is not asked: %s", one.name, one.reason)
