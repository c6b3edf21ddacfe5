"""`nightschool serve`: builds the parts, starts them, stops them. It decides nothing."""

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightschool_daemon import codec, config, night
from nightschool_daemon.config import ConfigurationError, Settings, require_directories
from nightschool_daemon.control import ControlError, ControlServer, Send, text_in
from nightschool_daemon.exits import Exit
from nightschool_daemon.explaining import explanation_of
from nightschool_daemon.installation import Installation, now, working
from nightschool_daemon.intake import DirectoryWatcher
from nightschool_daemon.jobs import Step
from nightschool_daemon.lean import give_back, share_heaps
from nightschool_daemon.ledger import LedgerError
from nightschool_daemon.locking import LockedError
from nightschool_daemon.notify import notify, watchdog_interval_s
from nightschool_daemon.ollama.errors import InvalidHost, OllamaError, RemoteHostRefused
from nightschool_daemon.proxy.keeper import ProxyKeeper
from nightschool_daemon.reporting.records import TrackMaterial
from nightschool_daemon.runs import MoveFailed, RunInterrupted, RunRefused, ShareRefused, UndoRefused
from nightschool_daemon.runs.tracks import material_by_name
from nightschool_daemon.scheduling import trigger_of
from nightschool_daemon.status import PAUSED, status_of
from nightschool_daemon.views import history_of, page_of, pairing_of

if TYPE_CHECKING:
    from apscheduler.schedulers.background import BackgroundScheduler

logger = logging.getLogger(__name__)

HEARTBEAT_S = 5.0
CATCH_UP_S = 12 * 3600
"""A night that was missed (the machine slept) is made up for once within so long."""
IDLE_POLL_S = 30.0
ENDING = (signal.SIGTERM, signal.SIGINT)
STOP_LIMIT_S = 150.0
HISTORY_LINES = 20

Job = Callable[[], object]


def serve(settings: Settings, *, safe_mode: bool = False) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit code."""
    logging.basicConfig(
        stream=sys.stderr, level=settings.log.level.upper(), format="%(levelname)s %(name)s: %(message)s"
    )
    # httpx and APScheduler say at "info" what is of interest when they are debugged
    for chatty in ("httpx", "httpcore", "apscheduler"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        with working(settings, safe_mode=safe_mode) as installation:
            service = Service(installation)
            code = service.run()
    except LockedError as error:
        logger.error("%s", error)  # noqa: TRY400 - a sentence for the person, not a traceback
        return Exit.LOCKED
    except (ConfigurationError, InvalidHost, RemoteHostRefused) as error:
        logger.error("%s", error)  # noqa: TRY400
        return Exit.CONFIGURATION
    except LedgerError as error:
        logger.error("%s", error)  # noqa: TRY400
        return Exit.FAILED
    if service.is_to_reload:
        # the same process in the eyes of its manager, with every setting read anew and the lock taken again
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves
    return code


@dataclass(kw_only=True)
class Signals:
    """What the threads wait for."""

    stop: threading.Event = field(default_factory=threading.Event)
    feedback: threading.Event = field(default_factory=threading.Event)
    judged: threading.Event = field(default_factory=threading.Event)
    """Feedback came in that may say something of what was promoted lately."""
    failed: threading.Event = field(default_factory=threading.Event)
    """Something durable could not be made so: the service ends with an error."""
    reload: threading.Event = field(default_factory=threading.Event)
    """The configuration changed: the service ends to begin anew."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Its manager, or a person, ends the service: it does not begin anew, whatever else is asked for."""


class Service:
    """The running daemon."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._signals = Signals()
        self._jobs: queue.Queue[tuple[Job, Future[object]]] = queue.Queue()
        self._threads: list[threading.Thread] = []

    def run(self) -> int:
        """Start, wait, stop. Returns the exit code."""
        share_heaps()
        with self._handled_signals(), self._parts():
            notify("READY=1")
            give_back()
            logger.info("Night School serves. Feedback: %s", self._installation.settings.feedback_directory)
            interval = watchdog_interval_s() or HEARTBEAT_S
            while not self._signals.stop.wait(interval):
                notify("WATCHDOG=1")
            notify("RELOADING=1" if self.is_to_reload else "STOPPING=1")
        return Exit.FAILED if self._signals.failed.is_set() else Exit.OK

    @property
    def is_to_reload(self) -> bool:
        """Whether the service ended only to begin anew with a changed configuration."""
        signals = self._signals
        return signals.reload.is_set() and not signals.failed.is_set() and not signals.ended.is_set()

    @contextlib.contextmanager
    def _parts(self) -> Iterator[None]:
        """Everything that runs beside the main loop."""
        settings = self._installation.settings
        self._installation.intake.directories.make()
        watcher = DirectoryWatcher(settings.feedback_directory, self._signals.feedback)
        control = ControlServer(settings.runtime_directory, self._handle)
        scheduler = self._scheduler()
        watcher.start()
        control.start()
        scheduler.start()
        keeper = ProxyKeeper(settings.file) if settings.proxy.enabled else None
        if keeper is not None:
            keeper.start()
        loops = (
            ("intake", self._take_in),
            ("probation", self._watch_promotions),
            ("registry", self._watch_registry),
            ("runner", self._work),
        )
        for name, loop in loops:
            thread = threading.Thread(target=self._guarded(loop), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        try:
            yield
        finally:
            self._signals.stop.set()
            self._signals.feedback.set()
            self._signals.judged.set()
            self._installation.runs.interrupt()
            if keeper is not None:
                keeper.stop()
            scheduler.shutdown(wait=False)
            control.stop()
            watcher.stop()
            self._wait_for_threads()

    def _wait_for_threads(self) -> None:
        """Let a training write its checkpoint; the watchdog hears of us meanwhile."""
        deadline = time.monotonic() + STOP_LIMIT_S
        while any(thread.is_alive() for thread in self._threads) and time.monotonic() < deadline:
            notify("WATCHDOG=1")
            for thread in self._threads:
                thread.join(1.0)

    @contextlib.contextmanager
    def _handled_signals(self) -> Iterator[None]:
        earlier = {one: signal.signal(one, lambda *_: self._end()) for one in ENDING}
        earlier[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: self._reload())
        # what came while the image before this one gave way is heard now
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        try:
            yield
        finally:
            if self.is_to_reload:
                # the image that follows would die of either before it listens: a mask outlives it, and so does being
                # ignored
                signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
                earlier[signal.SIGHUP] = signal.SIG_IGN
            for one, handler in earlier.items():
                signal.signal(one, handler)

    def _end(self) -> None:
        """SIGTERM or SIGINT."""
        self._signals.ended.set()
        self._signals.stop.set()

    def _guarded(self, loop: Callable[[], None]) -> Callable[[], None]:
        """A loop whose end by an error ends the service: half a daemon is worse than none."""

        def run() -> None:
            try:
                loop()
            except RunInterrupted:
                return
            except Exception:
                logger.exception("A part of the service failed; it ends, and is started again by its manager")
                self._signals.failed.set()
                self._signals.stop.set()

        return run

    # ----------------------------------------------------------------------- loops

    def _take_in(self) -> None:
        """Scan whenever something happened, and every so often besides."""
        interval = self._installation.settings.feedback.rescan_interval_s
        told = ""
        while not self._signals.stop.is_set():
            self._signals.feedback.clear()
            try:
                report = self._installation.intake.scan(now())
            except (LedgerError, OSError) as error:
                # a full disk, a directory that is not there: what was dropped stays where it is until it is mended
                if str(error) != told:
                    logger.warning("Feedback waits: %s", error)
                told = str(error)
                self._signals.feedback.wait(interval)
                continue
            told = ""
            if not report.is_quiet:
                logger.info(
                    "Feedback: %d new, %d changed, %d withdrawn, %d refused",
                    report.added,
                    report.replaced,
                    report.retracted,
                    report.refused,
                )
                self._signals.judged.set()
            wait = min(interval, self._installation.settings.feedback.settle_s) if report.waiting else interval
            self._signals.feedback.wait(wait)

    def _watch_registry(self) -> None:
        """Look at Ollama's models, and follow what changed."""
        was_away = False
        while not self._signals.stop.is_set():
            try:
                for sentence in self._installation.runs.look_at_registry(now()):
                    logger.warning("%s", sentence)
                was_away = False
            except (OllamaError, LedgerError) as error:
                if not was_away:
                    logger.warning("%s", error)
                was_away = True
            self._signals.stop.wait(self._installation.settings.ollama.poll_interval_s)

    def _watch_promotions(self) -> None:
        """Judge what was promoted lately whenever feedback came in, and every so often besides.

        In a thread of its own: a run under way may take hours, an alias that got worse has no time.
        """
        told = ""
        while not self._signals.stop.is_set():
            self._signals.judged.clear()
            try:
                sentences = self._installation.runs.look_at_feedback(now())
            except (OllamaError, LedgerError) as error:
                sentences = (str(error),)
            if sentences and (text := " ".join(sentences)) != told:
                logger.warning("%s", text)
                told = text
            self._signals.judged.wait(self._installation.settings.ollama.poll_interval_s)

    def _work(self) -> None:
        """Carry out one job at a time; what was begun comes first."""
        self._recover()
        night.finish_what_was_begun(self._installation, LogListener())
        while not self._signals.stop.is_set():
            try:
                job, future = self._jobs.get(timeout=0.5)
            except queue.Empty:
                continue
            try:
                future.set_result(job())
            except RunInterrupted as error:
                future.set_exception(error)
                raise
            except Exception as error:  # noqa: BLE001 - whoever asked hears of it
                future.set_exception(error)

    def _recover(self) -> None:
        """Repair what a crash left, as soon as the server is there."""
        while not self._signals.stop.is_set():
            try:
                for sentence in self._installation.runs.recover(now()):
                    logger.warning("%s", sentence)
            except (OllamaError, LedgerError):
                self._signals.stop.wait(1.0)
            else:
                return

    # ----------------------------------------------------------------------- the night

    def _scheduler(self) -> "BackgroundScheduler":
        from apscheduler.schedulers.background import BackgroundScheduler

        settings = self._installation.settings.schedule
        scheduler = BackgroundScheduler()
        if settings.enabled:
            scheduler.add_job(
                self._night, trigger_of(settings), coalesce=True, misfire_grace_time=CATCH_UP_S, max_instances=1
            )
        return scheduler

    def _night(self) -> None:
        """The scheduled time has come."""
        if self._installation.ledger.facts.get(PAUSED) is not None:
            logger.info("Learning is paused; `nightschool resume` goes on.")
            return
        if not self._wait_until_idle():
            if not self._signals.stop.is_set():
                logger.warning(
                    "The machine was in use, or Ollama away, during the whole window: nothing was learned this night."
                )
            return
        future = self._submit(
            lambda: night.run_due(self._installation, LogListener(), clock=now, may_go_on=self._may_go_on)
        )
        future.add_done_callback(_log_failure)

    def _may_go_on(self) -> bool:
        """Whether another run may begin this night: a pause counts from when it is asked for."""
        return not self._signals.stop.is_set() and self._installation.ledger.facts.get(PAUSED) is None

    def _wait_until_idle(self) -> bool:
        """Whether Ollama was quiet for the configured time within the window."""
        settings = self._installation.settings.schedule
        deadline = time.monotonic() + settings.window_minutes * 60
        quiet_since: float | None = None
        while not self._signals.stop.is_set() and time.monotonic() < deadline:
            quiet_since = (quiet_since or time.monotonic()) if self._is_quiet() else None
            if settings.idle_minutes <= 0:
                return True
            if quiet_since is not None and time.monotonic() - quiet_since >= settings.idle_minutes * 60:
                return True
            self._signals.stop.wait(IDLE_POLL_S)
        return False

    def _is_quiet(self) -> bool:
        try:
            return not self._installation.ollama.loaded()
        except OllamaError:
            return False

    def _submit(self, job: Job) -> Future[object]:
        future: Future[object] = Future()
        self._jobs.put((job, future))
        return future

    # ----------------------------------------------------------------------- control

    def _handle(self, request: Mapping[str, Any], send: Send) -> object:
        """Carry out a request of the command line."""
        commands: Mapping[str, Callable[[], object]] = {
            "ping": lambda: "pong",
            "status": lambda: codec.to_plain(status_of(self._installation, "running", now())),
            "report": lambda: codec.to_plain(page_of(self._installation, request.get("run"))),
            "history": lambda: codec.to_plain(history_of(self._installation, int(request.get("limit", HISTORY_LINES)))),
            "pairing": lambda: codec.to_plain(
                pairing_of(self._installation, request.get("first"), request.get("second"), request.get("on"))
            ),
            "explain": lambda: codec.to_plain(explanation_of(self._installation, text_in(request, "name"))),
            "track": lambda: codec.to_plain(self._track(text_in(request, "name"))),
            "plugins": lambda: codec.to_plain(self._installation.hooks.status()),
            "pause": self._pause,
            "resume": self._resume,
            "cancel": lambda: self._installation.runs.cancel("asked for"),
            "run": lambda: self._run(request.get("specialty"), send),
            "undo": lambda: codec.to_plain(self._installation.runs.undo(text_in(request, "alias"), now())),
            "share": lambda: codec.to_plain(
                self._installation.runs.share(text_in(request, "alias"), float(request.get("share", 0.0)), now())
            ),
            "unshare": lambda: self._installation.runs.unshare(text_in(request, "alias")),
            "approve": lambda: codec.to_plain(self._installation.runs.approve(text_in(request, "alias"), now())),
        }
        command = commands.get(str(request.get("command")))
        if command is None:
            raise ControlError(
                f"The daemon does not know {request.get('command')!r}. Are both of one version?", Exit.USAGE
            )
        try:
            return command()
        except night.NothingToLearn as error:
            raise ControlError(str(error), Exit.NOTHING_CHANGED) from error
        except OllamaError as error:
            raise ControlError(str(error), Exit.OLLAMA) from error
        except (RunRefused, UndoRefused, MoveFailed, ShareRefused) as error:
            raise ControlError(str(error)) from error
        except RunInterrupted as error:
            raise ControlError("The daemon stops. The run goes on when it is started again.") from error

    def _track(self, name: str) -> TrackMaterial:
        return material_by_name(self._installation.runs.planner, self._installation.ledger, name)

    def _pause(self) -> bool:
        self._installation.ledger.facts.put(PAUSED, now().isoformat())
        return True

    def _resume(self) -> bool:
        self._installation.ledger.facts.delete(PAUSED)
        return True

    def _run(self, text: str | None, send: Send) -> object:
        """Take in what is there, then run what was asked for. Sends progress until the end."""
        for sentence in self._installation.runs.look_at_registry(now()):
            logger.warning("%s", sentence)
        self._installation.intake.scan(now())
        reports = []
        listener = SendingListener(send)
        for earlier in self._installation.runs.unfinished():
            listener.note(earlier, "is under way; what was asked for comes after it")
        run = night.run_now if text is not None else night.run_if_fresh
        for specialty in night.asked_for(self._installation, text):
            future = self._submit(partial(run, self._installation, specialty, listener, now()))
            reports += codec.to_plain(future.result())
        if not reports:
            raise night.NothingToLearn("A run that was under way has used up what was fresh.")
        return reports

    def _reload(self) -> None:
        """SIGHUP: end, to begin anew with the changed configuration, if it is sound. A run goes on afterwards."""
        threading.Thread(target=self._guarded(self._reload_if_sound), name="reload", daemon=True).start()

    def _reload_if_sound(self) -> None:
        """Ask a process of its own: a configuration is sound where plugins, directories and host are, too."""
        file = self._installation.settings.file
        chosen = ["--config", str(file)] if file is not None else []
        command = [sys.executable, "-m", "nightschool_daemon", *chosen, "config", "check"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode != Exit.OK:
            logger.error("The configuration stays as it was: %s", done.stderr.strip())
            return
        try:
            require_directories(config.load(file))
        except ConfigurationError as error:
            logger.error("The configuration stays as it was: %s", error)  # noqa: TRY400 - a sentence for the person
            return
        logger.info("The configuration is read anew.")
        self._signals.reload.set()
        self._signals.stop.set()


def _log_failure(future: Future[object]) -> None:
    """Nobody waits for what a night comes to; the log hears of it."""
    error = future.exception()
    if isinstance(error, OllamaError):
        logger.error("Nothing was learned this night: %s", error)
    elif error is not None and not isinstance(error, RunInterrupted):
        logger.error("The night broke", exc_info=error)


class LogListener:
    """Writes a run's progress into the log."""

    def step_began(self, run_id: str, step: Step) -> None:
        logger.info("run %s: %s", run_id, step)

    def progress(self, run_id: str, step: Step, done: int, total: int, text: str) -> None:
        logger.debug("run %s: %s %d/%d %s", run_id, step, done, total, text)

    def step_ended(self, run_id: str, step: Step) -> None:
        logger.debug("run %s: %s done", run_id, step)

    def note(self, run_id: str, text: str) -> None:
        logger.info("run %s: %s", run_id, text)


class SendingListener:
    """Sends a run's progress to the command line that asked for it. One that went away is no reason to stop."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._log = LogListener()

    def step_began(self, run_id: str, step: Step) -> None:
        self._log.step_began(run_id, step)
        self._tell(run_id, "began", step)

    def progress(self, run_id: str, step: Step, done: int, total: int, text: str) -> None:
        self._tell(run_id, "progress", step, done=done, total=total, text=text)

    def step_ended(self, run_id: str, step: Step) -> None:
        self._tell(run_id, "ended", step)

    def note(self, run_id: str, text: str) -> None:
        self._log.note(run_id, text)
        self._tell(run_id, "note", None, text=text)

    def _tell(self, run_id: str, kind: str, step: Step | None, **more: object) -> None:
        line = {"run": run_id, "kind": kind, "step": step.value if step else None, **more}
        self._send({"progress": line})


def main(file: Path | None, *, safe_mode: bool) -> int:
    """Load the configuration and serve. Returns the exit code."""
    # what is asked for before the service listens is done by its start
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        settings = config.load(file)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return Exit.CONFIGURATION
    return serve(settings, safe_mode=safe_mode)
