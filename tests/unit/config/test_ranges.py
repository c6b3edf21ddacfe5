"""Values that cannot be meant are refused where they stand, before anything starts."""

import pytest

from nightschool_daemon.config import ConfigurationError, parse


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[exam]\nmax_items = -5", "exam: max_items must be at least 1, not -5"),
        ("[exam]\ntemperature = nan", "exam.temperature: a finite number expected"),
        ("[exam]\ntop_p = 0", "exam: top_p must be above 0, not 0"),
        ("[promotion]\nkeep_versions = -1", "promotion: keep_versions must be at least 0"),
        ("[feedback]\nsettle_s = -1", "feedback: settle_s must be at least 0"),
        ("[feedback]\nrescan_interval_s = 0", "feedback: rescan_interval_s must be above 0"),
        ("[ollama]\npoll_interval_s = 0.0", "ollama: poll_interval_s must be above 0"),
        ("[training]\ntime_limit_minutes = 0", "training: time_limit_minutes must be above 0"),
        ("[training]\nmax_growth = 0.5", "training: max_growth must be at least 1, not 0.5"),
        ("[training]\ndoubted = 1.0", "training: doubted must be below 1, not 1"),
        ("[training]\ndoubted = -0.1", "training: doubted must be at least 0, not -0.1"),
        ("[delivery]\nmin_free_gb = -0.5", "delivery: min_free_gb must be at least 0, not -0.5"),
        ("[schedule]\nmax_runs_per_night = 0", "schedule: max_runs_per_night must be at least 1"),
        ("[similarity]\nnear_duplicate = 0", "similarity: near_duplicate must be above 0, not 0"),
        ("[similarity]\nnear_duplicate = 1.5", "similarity: near_duplicate must be at most 1, not 1.5"),
        ("[similarity]\nmax_near_duplicates = 0", "similarity: max_near_duplicates must be at least 1"),
        ("[schedule]\ncron = '99 2 * * *'", "schedule.cron: '99 2 * * *'"),
        ("[schedule]\ncron = '1 2 3'", "has 3 fields; it needs five"),
        ("[schedule]\ncron = '1 2 * * */0'", "schedule"),
        ("[schedule]\ncron = '1 2 * * 9'", "is not within 0-7"),
        ("[state]\ndirectory = 'relative/x'", "state.directory: 'relative/x' is not absolute"),
        ("[feedback]\ndirectory = ''", "feedback.directory: '.' is not absolute"),
        ("[feedback]\ndirectory = '~'", "Give feedback a directory of its own."),
        ("[feedback]\ndirectory = '/srv/x'\n[state]\ndirectory = '/srv/x/state'", "/srv/x/state too"),
        ("[feedback]\ndirectory = '/srv/x'\n[plugins]\ndirectory = '/srv/x'", "/srv/x too"),
        ("[schedule]\ntimezone = 'Mars/Olympus'", "schedule.timezone: 'Mars/Olympus' is not known"),
        ("[plugins]\ndirectory = '/nowhere/plugins'", "plugins.directory: /nowhere/plugins is no directory"),
    ],
)
def test_value_out_of_range_is_named(text: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^configuration: ") as caught:
        parse(text, None)
    assert told in str(caught.value)
