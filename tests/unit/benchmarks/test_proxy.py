"""What the proxy adds to a request: all requests count."""

from benchmarks.proxy import Round, rows_of

CALM = Round(ours=[1.5] * 100, peer=[1.0] * 100)
SLOW = Round(ours=[9.0] * 100, peer=[1.0] * 100)
BUSY = Round(ours=[50.5] * 100, peer=[50.0] * 100)


def test_what_is_slow_in_most_rounds_counts_also_where_one_was_calm() -> None:
    _, _, added, calmest = rows_of("passed through", [CALM, SLOW, SLOW])
    assert (added["ours"], added["holds"]) == (8.0, False)
    assert (calmest["ours"], calmest["peer"], calmest["holds"]) == (1.5, 1.0, None)


def test_what_slows_both_sides_is_not_the_proxys() -> None:
    median, high, added, _ = rows_of("passed through", [CALM, BUSY, BUSY])
    assert (added["ours"], added["holds"]) == (0.5, True)
    assert (median["ours"], high["ours"], high["peer"]) == (50.5, 50.5, 50.0)
