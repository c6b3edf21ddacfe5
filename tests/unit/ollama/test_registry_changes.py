"""What happened between two polls."""

from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon.ollama.registry import compare
from nightschool_hookspecs.records import BaseChange, InstalledModel

installed = st.dictionaries(
    st.sampled_from(["a:1", "b:1", "c:1", "d:1"]),
    st.tuples(st.sampled_from(["t1", "t2", "t3"]), st.sampled_from(["w1", "w2"])),
).map(lambda found: {name: model(name, *of_it) for name, of_it in found.items()})


def model(name: str, digest: str, weights: str) -> InstalledModel:
    return InstalledModel(name=name, digest=digest, weights_digest=weights, architecture="llama")


@given(installed)
def test_nothing_happened_where_nothing_differs(known: dict[str, InstalledModel]) -> None:
    assert compare(known, dict(known)) == ()


@given(installed, installed)
def test_the_changes_turn_the_first_poll_into_the_second(
    known: dict[str, InstalledModel], present: dict[str, InstalledModel]
) -> None:
    state = dict(known)
    for change, one in compare(known, present):
        if change is BaseChange.VANISHED:
            del state[one.name]
        else:
            state[one.name] = one
    digests = {name: one.digest for name, one in state.items()}
    assert digests == {name: one.digest for name, one in present.items()}


@given(installed, installed)
def test_every_name_changes_at_most_once_and_in_order(
    known: dict[str, InstalledModel], present: dict[str, InstalledModel]
) -> None:
    changed = [one.name for _, one in compare(known, present)]
    assert changed == sorted(set(changed))


@given(installed, installed)
def test_turned_round_what_appeared_vanishes(
    known: dict[str, InstalledModel], present: dict[str, InstalledModel]
) -> None:
    there = {one.name for change, one in compare(known, present) if change is BaseChange.APPEARED}
    back = {one.name for change, one in compare(present, known) if change is BaseChange.VANISHED}
    assert there == back


def test_weights_and_configuration_are_told_apart() -> None:
    known = {"a:1": model("a:1", "t1", "w1"), "b:1": model("b:1", "t1", "w1")}
    present = {"a:1": model("a:1", "t2", "w1"), "b:1": model("b:1", "t2", "w2")}
    assert compare(known, present) == (
        (BaseChange.CONFIGURATION_CHANGED, present["a:1"]),
        (BaseChange.WEIGHTS_CHANGED, present["b:1"]),
    )


def test_a_model_that_vanished_is_told_as_it_was() -> None:
    known = {"a:1": model("a:1", "t1", "w1")}
    assert compare(known, {}) == ((BaseChange.VANISHED, known["a:1"]),)
    assert compare({}, known) == ((BaseChange.APPEARED, known["a:1"]),)
