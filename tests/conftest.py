"""Fixtures that need a real server, and property tests without a deadline: no test asserts a time."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from support.ollama_server import OllamaServer
from support.tiny_gguf import write_tiny_gguf

CURRENT = "0.34.3"
LONGEST = ("test_killed.py", "test_crossfit.py")
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
# Threads that wait for each other keep a core busy each, and hold up the very one that they wait for where other tests
# compute beside them. Ollama's runners take the first, torch, in this process as in our workers, the second.
os.environ.setdefault("LLAMA_ARG_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # as in a shell's background, where whatever tests start would ignore it too
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of which one test takes a minute: at the end one process would wait for the other."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaServer]:
    """The newest Ollama, shared by the whole session."""
    with OllamaServer(CURRENT, directory=tmp_path_factory.mktemp("ollama")) as server:
        yield server


@pytest.fixture
def fresh_ollama(tmp_path: Path) -> Iterator[OllamaServer]:
    """The newest Ollama, for one test alone."""
    with OllamaServer(CURRENT, directory=tmp_path / "ollama") as server:
        yield server


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's file."""
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
