"""Which pairs a night ranks."""

from nightschool_daemon.learning.ranking import chosen
from nightschool_hookspecs import PreferencePair

MOST = 40


def pair(number: int) -> PreferencePair:
    return PreferencePair(event_id=f"e {number}", messages=(), chosen="a", rejected="b", group=str(number))


def test_a_night_ranks_what_is_new_first() -> None:
    pairs = [pair(number) for number in range(2 * MOST)]
    used = frozenset(str(number) for number in range(MOST + 5))
    found = [one.key for one in chosen(pairs, MOST, 1, used)]
    assert len(found) == MOST
    assert used.isdisjoint(found[: MOST - 5])
    assert used.issuperset(found[MOST - 5 :])
    again, other = (chosen(pairs, MOST, seed, used) for seed in (1, 2))
    assert found == [one.key for one in again] != [one.key for one in other]
