"""How many cores a worker's networks use."""

import os
from collections.abc import Iterator

import pytest
import torch

from nightschool_daemon.learning.threads import cores, limit_threads


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threads, held_to = torch.get_num_threads(), os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, held_to)
    torch.set_num_threads(threads)


def test_a_worker_that_is_held_to_some_cores_uses_no_more_threads() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(7)
    limit_threads(0)
    assert (cores(), torch.get_num_threads()) == (1, 1)


def test_where_nothing_holds_a_process_to_cores_all_of_them_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 11)
    assert cores() == 11


def test_so_many_as_are_asked_for_are_used() -> None:
    limit_threads(3)
    assert torch.get_num_threads() == 3
