"""Cells of the ablation bench run in processes of their own, and none of them can use up the night."""

import pytest

from benchmarks.ablation.apart import answered, kept_up
from benchmarks.results import CellFailed
from support.ollama_server import OllamaServer
from support.works import break_down, die, fail, hang, named


def test_work_is_answered() -> None:
    assert answered(named, 60) == "True, True"


def test_work_that_hangs_is_ended() -> None:
    with pytest.raises(CellFailed, match="took longer"):
        answered(hang, 0.1)


def test_what_comes_to_nothing_says_why() -> None:
    for work, reason in ((die, "killed"), (fail, "too few pairs"), (break_down, "broke down")):
        with pytest.raises(CellFailed, match=reason):
            answered(work, 60)


class FakeServer(OllamaServer):
    def __init__(self, *, comes_up: bool = True) -> None:
        self._is_up, self._comes_up = False, comes_up

    def is_running(self) -> bool:
        return self._is_up

    def start(self, **environment: str) -> None:
        if not self._comes_up:
            raise RuntimeError("it did not come up")
        self._is_up = True

    def stop(self) -> None:
        self._is_up = False


def test_a_server_that_went_away_is_started_again() -> None:
    server = FakeServer()
    with kept_up(server):
        assert server.is_running()
    assert server.is_running()


def test_a_server_under_which_a_cell_failed_is_not_kept() -> None:
    server = FakeServer()
    with pytest.raises(CellFailed, match="hangs"), kept_up(server):
        raise CellFailed("it hangs")
    assert not server.is_running()


def test_a_server_that_does_not_come_up_costs_one_cell() -> None:
    with pytest.raises(CellFailed, match="did not come up"), kept_up(FakeServer(comes_up=False)):
        pass
