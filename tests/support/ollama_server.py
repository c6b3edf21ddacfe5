"""A real Ollama on a free loopback port, with a home and a models directory of its own."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

import httpx

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "ollama"
START_LIMIT_S = 60.0


class OllamaServer:
    """Starts on entering, stops on leaving; can be stopped, killed and started again in between."""

    def __init__(self, version: str, *, directory: Path, binary: Path | None = None) -> None:
        self.binary = binary or CACHE / version / "bin" / "ollama"
        if not self.binary.is_file():
            raise FileNotFoundError(f"{self.binary} is missing: run `make ollama`.")
        self.directory = directory
        self.models_directory = directory / "models"
        self.log = directory / "ollama.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "OllamaServer":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, **environment: str) -> None:
        """Start and wait until it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("OLLAMA_")}
        own = {
            "HOME": str(self.directory),
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMA_MODELS": str(self.models_directory),
            "OLLAMA_NO_CLOUD": "1",
            "NO_PROXY": "127.0.0.1",
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self.binary), "serve"],
                env={**inherited, **own, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_until_up()

    def stop(self) -> None:
        """End it and its runners."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it the hard way."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start on the same port and models."""
        self.stop()
        self.start()

    def is_running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def tags(self) -> dict[str, str]:
        """Tag -> manifest digest."""
        models = httpx.get(f"{self.url}/api/tags", timeout=30).json()["models"]
        return {one["name"]: one["digest"] for one in models}

    def blobs(self) -> set[str]:
        """Names of the blob files, partial ones included, without what the server links while a model runs."""
        directory = self.models_directory / "blobs"
        found = {one.name for one in directory.iterdir()} if directory.is_dir() else set()
        return {name for name in found if not name.startswith(".ollama-split-")}

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                raise RuntimeError(f"Ollama ended at its start; see {self.log}")
            try:
                if httpx.get(f"{self.url}/api/version", timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise RuntimeError(f"Ollama did not come up; see {self.log}")

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        try:
            os.killpg(process.pid, how)
            process.wait(30)
        except ProcessLookupError:
            pass
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if how is signal.SIGTERM:
            _kill_rest(process.pid)


def _kill_rest(group: int) -> None:
    """Runners that outlived their server."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
