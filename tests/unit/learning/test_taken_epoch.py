"""Which epoch of a training was taken, and by which loss."""

from dataclasses import replace

from nightschool_daemon.jobs import Watched
from support.step_results import TRAINED


def test_the_epoch_whose_loss_was_kept_was_taken() -> None:
    stopped = replace(TRAINED, epoch_losses=(1.5, 1.0, 1.2), trained_loss=1.0, watched_events=("dropdir/1",))
    assert Watched.of(stopped) == Watched(loss=1.0, epoch=2, epochs=3, is_apart=True)
    to_its_end = replace(TRAINED, epoch_losses=(1.5, 1.0, 1.0), trained_loss=1.0)
    assert Watched.of(to_its_end) == Watched(loss=1.0, epoch=3, epochs=3, is_apart=False)


def test_where_no_epoch_is_told_none_was_watched() -> None:
    assert Watched.of(TRAINED) is None
    assert Watched.of(replace(TRAINED, epoch_losses=(2.0,))) is None
    assert Watched.of(None) is None
