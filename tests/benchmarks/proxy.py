"""`make bench-proxy`: what the proxy adds to a request, beside direct access to the same fixed upstream.

Peer: the same request straight to the upstream, which answers at once, in turn with ours. Times are those of the whole
answer and, for a stream, of its first chunk. All requests count. What the proxy adds is the difference within a round;
beside other work it says little of the proxy, so the bench wants a machine of its own for its two minutes.
"""

import asyncio
import http.client
import json
import multiprocessing
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks import results  # noqa: E402 - found through the path above
from nightschool_daemon.proxy.routes import Route, Routes, write_routes  # noqa: E402
from support.night import environment  # noqa: E402 - found through the path above
from support.ollama_server import free_port  # noqa: E402

ROUNDS = 20
REQUESTS = 300
"""Of each kind and side in a round."""
PAUSE_S = 0.002
"""Between requests, as in use: in a loop without pauses the system's scheduler would be measured."""
GOAL_MS = 2.0
MEMORY_GOAL_MB = 64.0
ALIAS, FIRST, SECOND = "tiny-nightschool:1m.greeting", "tiny-nightschool:1m.v1", "tiny-nightschool:1m.v2"
CHUNKS = 20
LINE = json.dumps({"model": SECOND, "message": {"role": "assistant", "content": "word"}, "done": False}) + "\n"


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A fixed upstream: `/api/tags` answers whole, anything else in chunks."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = next((int(one.split(":")[1]) for one in head.splitlines() if one.startswith("content-length")), 0)
            await reader.readexactly(length)
            if head.startswith("get"):
                writer.write(
                    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"models":[]}'
                )
            else:
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
                )
                for _ in range(CHUNKS):
                    writer.write(f"{len(LINE):x}\r\n{LINE}\r\n".encode())
                writer.write(b"0\r\n\r\n")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


@dataclass(frozen=True, kw_only=True)
class Round:
    """Requests that were sent in turn, in milliseconds."""

    ours: Sequence[float]
    peer: Sequence[float]


Ask = Callable[[http.client.HTTPConnection], float]


def upstream(port: int) -> None:
    """Serve until ended."""

    async def serve() -> None:
        async with await asyncio.start_server(_answer, "127.0.0.1", port) as server:
            await server.serve_forever()

    asyncio.run(serve())


def wait_for(port: int) -> None:
    """Until somebody listens."""
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)


def whole(connection: http.client.HTTPConnection) -> float:
    """Milliseconds of a short request that passes through."""
    began = time.perf_counter()
    connection.request("GET", "/api/tags")
    connection.getresponse().read()
    return (time.perf_counter() - began) * 1000


def shared(connection: http.client.HTTPConnection) -> float:
    """Milliseconds to the first line of a stream that is routed to another version and renamed."""
    body = json.dumps({"model": ALIAS, "messages": [{"role": "user", "content": "greet the guest " * 50}]})
    began = time.perf_counter()
    connection.request("POST", "/api/chat", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.readline()
    first = (time.perf_counter() - began) * 1000
    response.read()
    return first


def measure(ask: Ask, ours: int, peer: int) -> list[Round]:
    """Times through the proxy and without it, in turn, in rounds after one that warms up."""
    through, direct = (http.client.HTTPConnection("127.0.0.1", port) for port in (ours, peer))
    rounds = [[(paused(ask, through), paused(ask, direct)) for _ in range(REQUESTS)] for _ in range(ROUNDS + 1)][1:]
    return [Round(ours=[one for one, _ in pairs], peer=[other for _, other in pairs]) for pairs in rounds]


def paused(ask: Ask, connection: http.client.HTTPConnection) -> float:
    """Milliseconds of a request after a pause."""
    time.sleep(PAUSE_S)
    return ask(connection)


def percentile_99(times: Sequence[float]) -> float:
    """The 99th percentile."""
    return statistics.quantiles(times, n=100)[98]


def rows_of(name: str, rounds: Sequence[Round]) -> list[results.Row]:
    """What all requests took, what the proxy adds, and what they took where the machine was calm.

    Both sides are disturbed alike within a round, so that the goal is for what is added there.
    """
    ours, peer = ([ms for one in rounds for ms in one.ours], [ms for one in rounds for ms in one.peer])
    highs = [(percentile_99(one.ours), percentile_99(one.peer)) for one in rounds]
    added = statistics.median(high - peer_high for high, peer_high in highs)
    calmest, peer_calmest = map(min, zip(*highs, strict=True))
    told = f"{name}, p99 ms added (median of {len(rounds)} rounds)"
    return [
        results.row(f"{name}, median ms", statistics.median(ours), statistics.median(peer), None, holds=None),
        results.row(f"{name}, p99 ms", percentile_99(ours), percentile_99(peer), None, holds=None),
        results.row(told, added, 0.0, GOAL_MS, holds=added < GOAL_MS),
        results.row(f"{name}, p99 ms, the calmest round of each", calmest, peer_calmest, None, holds=None),
    ]


def resident_mb(pid: int) -> float:
    """VmRSS of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(one for one in status.splitlines() if one.startswith("VmRSS")).split()[1]) / 1024


def main() -> int:
    """Measure and print. Returns 1 where a goal is missed."""
    ours, peer = free_port(), free_port()
    server = multiprocessing.get_context("spawn").Process(target=upstream, args=(peer,), daemon=True)
    server.start()
    wait_for(peer)
    with tempfile.TemporaryDirectory() as text:
        state = Path(text) / "state"
        write_routes(state, Routes(routes=(Route(alias=ALIAS, incumbent=FIRST, candidate=SECOND, share=1.0),)))
        configuration = Path(text) / "config.toml"
        configuration.write_text(
            f'[ollama]\nhost = "127.0.0.1:{peer}"\n[state]\ndirectory = "{state}"\n[feedback]\n'
            f'directory = "{text}/feedback"\n[proxy]\nport = {ours}\n'
        )
        command = [sys.executable, "-m", "nightschool_daemon", "--config", str(configuration), "proxy"]
        proxy = subprocess.Popen(command, env=environment())
        try:
            wait_for(ours)
            passed, routed = measure(whole, ours, peer), measure(shared, ours, peer)
            memory = resident_mb(proxy.pid)
        finally:
            proxy.terminate()
            proxy.wait(30)
            server.terminate()
    rows = [
        *rows_of("passed through", passed),
        *rows_of("routed stream, first line", routed),
        results.row("resident MB", memory, 0.0, MEMORY_GOAL_MB, holds=memory < MEMORY_GOAL_MB),
    ]
    title = f"The proxy, {ROUNDS} rounds of {REQUESTS} requests"
    results.fill("proxy", title, rows)
    return results.presented("proxy", title, rows)


if __name__ == "__main__":
    sys.exit(main())
