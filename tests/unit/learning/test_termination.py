"""SIGTERM ends a worker, but nothing in the midst of what belongs together."""

import signal
from collections.abc import Iterator

import pytest

from nightschool_daemon.learning.termination import Terminated, uninterrupted
from support.kills import heeding

pytestmark = pytest.mark.usefixtures("_heeds_sigterm")


@pytest.fixture
def _heeds_sigterm() -> Iterator[None]:
    with heeding():
        yield


def test_sigterm_waits_for_the_end_of_the_outermost_block_and_counts_once() -> None:
    done: list[str] = []
    with pytest.raises(Terminated):  # noqa: PT012 - where it is raised is what is tested
        with uninterrupted():
            with uninterrupted():
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGTERM)
                done.append("inner")
            done.append("outer")
        done.append("behind")
    assert done == ["inner", "outer"]


def test_sigterm_ends_at_once_what_stands_before_a_block_and_behind_one() -> None:
    with pytest.raises(Terminated):
        signal.raise_signal(signal.SIGTERM)
    with uninterrupted():
        pass
    with pytest.raises(Terminated):
        signal.raise_signal(signal.SIGTERM)


def test_what_breaks_in_a_block_is_what_is_told() -> None:
    with pytest.raises(OSError, match="full"), uninterrupted():  # noqa: PT012 - as above
        signal.raise_signal(signal.SIGTERM)
        raise OSError("The disk is full.")
    with pytest.raises(Terminated):
        signal.raise_signal(signal.SIGTERM)
