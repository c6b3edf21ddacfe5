"""Agreement with people: what people agree on among themselves."""

from benchmarks.validators import Judged, kappa, one_and_the_rest


def judged(*people: bool) -> Judged:
    return Judged(description="d", reference="ls", prediction="ls", template=True, command=True, people=people)


def test_each_person_is_held_against_the_others_and_not_against_a_majority_with_that_person() -> None:
    ones, rests = one_and_the_rest([judged(True, False), judged(True, True, False)])
    # of three, two that are divided say nothing about the third
    assert (ones, rests) == ([True, False, False], [False, True, True])
    assert kappa(ones, rests) < 0


def test_people_who_say_the_same_agree_wholly() -> None:
    assert kappa(*one_and_the_rest([judged(True, True, True), judged(False, False)])) == 1.0
