"""Starts the proxy beside the daemon, and again where it ends; stops it with the daemon."""

import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
STOP_LIMIT_S = 10.0


class ProxyKeeper:
    """One child process. It ends when its standard input does, so that a killed daemon leaves none behind."""

    def __init__(self, configuration: Path | None) -> None:
        chosen = ["--config", str(configuration)] if configuration is not None else []
        self._command = [sys.executable, "-m", "nightschool_daemon", *chosen, "proxy", "--with-parent"]
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name="proxy", daemon=True)

    def start(self) -> None:
        """Start the proxy and keep it running."""
        self._thread.start()

    def stop(self) -> None:
        """End it. Answers under way get a few seconds."""
        with self._lock:
            self._stopped.set()
            process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _keep(self) -> None:
        pause_s = FIRST_PAUSE_S
        while (process := self._begin()) is not None:
            began = time.monotonic()
            code = process.wait()
            if self._stopped.is_set():
                return
            if time.monotonic() - began > LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            logger.warning("The proxy ended with code %d; it is started again in %g s.", code, pause_s)
            self._stopped.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _begin(self) -> "subprocess.Popen[bytes] | None":
        with self._lock:
            if self._stopped.is_set():
                return None
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE)
            return self._process
