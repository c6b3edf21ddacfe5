"""What a training by hand takes from the settings of nights."""

from dataclasses import replace

from nightschool_daemon import codec
from nightschool_daemon.config import Settings
from nightschool_daemon.runs.alone import of_all
from nightschool_hookspecs.testing import sample_event

YEAR_S = 365 * 24 * 3600


def test_no_limit_of_a_night_holds() -> None:
    settings = Settings()
    training = replace(settings.training, max_events=1, max_tokens=1, time_limit_minutes=0.1)
    own = of_all(replace(settings, training=training), [sample_event(f"{number}") for number in range(3)])
    # a worker reads them from a file
    read = codec.from_json(codec.to_json(own), Settings)
    assert read.training.time_limit_s > YEAR_S
    assert (read.training.max_events, read.similarity.max_near_duplicates) == (3, 3)
    assert read.training.max_tokens > 10**12
