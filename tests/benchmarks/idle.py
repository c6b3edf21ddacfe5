"""`make bench-idle`: memory, time and imports of the idle daemon, a minute after its start, beside a real Ollama.

Peer: a bare Python process that merely imports the same libraries (pluggy, watchdog, APScheduler, httpx).
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import results  # noqa: E402 - found through the path above
from support import witness  # noqa: E402 - found through the path above
from support.night import Night, environment, import_tiny  # noqa: E402
from support.ollama_server import OllamaServer  # noqa: E402
from support.tiny_gguf import write_tiny_gguf  # noqa: E402

WAIT_S = 60.0
STARTS = 5
"""The fastest start counts, ours and the peer's, after one that compiles."""
MEMORY_GOAL_MB = 40.0
READY_GOAL_S = 0.3
PEER = "import pluggy, watchdog.observers, apscheduler.schedulers.background, httpx"


def main() -> int:
    """Measure and print. Returns 1 where a goal is missed."""
    with tempfile.TemporaryDirectory() as text, OllamaServer("0.34.3", directory=Path(text) / "ollama") as server:
        directory = Path(text)
        import_tiny(server, write_tiny_gguf(directory / "tiny.gguf"))
        night = Night(directory / "night", server.url, server.models_directory, settings="")
        started(night)
        ready_s = min(started(night) for _ in range(STARTS))
        night.add_plugin("witness", witness.SOURCE)
        daemon = night.start("serve")
        try:
            time.sleep(WAIT_S)
            memory, processor_s = resident_mb(daemon.pid), cpu_seconds(daemon.pid)
            imported = witness.imports_of(night, directory / "modules.txt")
        finally:
            daemon.terminate()
            daemon.wait(30)
    peer_mb, peer_s = min((bare_imports() for _ in range(STARTS)), key=lambda one: one[1])
    heavy = [name for name in witness.HEAVY if name in imported]
    rows = [
        results.row("resident MB", memory, peer_mb, MEMORY_GOAL_MB, holds=memory <= MEMORY_GOAL_MB),
        results.row("ready s", ready_s, peer_s, READY_GOAL_S, holds=ready_s <= READY_GOAL_S),
        results.row("CPU s in the first minute", processor_s, peer_s, None, holds=True),
        results.row("heavy imports", float(len(heavy)), 0.0, 0.0, holds=not heavy),
    ]
    title = f"The idle daemon after {WAIT_S:g} s; {len(imported)} top-level modules, heavy: {heavy or 'none'}"
    return results.presented("idle", title, rows)


def started(night: Night) -> float:
    """Seconds from the start of a daemon until it answers on its socket; then it is stopped again."""
    socket = night.directory / "run" / "control.sock"
    began = time.monotonic()
    daemon = night.start("serve")
    while not socket.exists():
        time.sleep(0.002)
    seconds = time.monotonic() - began
    daemon.terminate()
    daemon.wait(30)
    return seconds


def resident_mb(pid: int) -> float:
    """VmRSS of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(one for one in status.splitlines() if one.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def bare_imports() -> tuple[float, float]:
    """Resident MB and seconds of a process that only imports the libraries."""
    program = f"{PEER}\nprint([l.split()[1] for l in open('/proc/self/status') if l.startswith('VmRSS')][0])"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment()
    )
    return int(done.stdout) / 1024, time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
