"""The search for near-duplicates: complete on what is alike, blind to the order, exact for vectors."""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from nightschool_daemon.learning import duplicates
from nightschool_daemon.learning.duplicates import (
    confirmed,
    near_fingerprints,
    near_texts,
    near_vectors,
    near_wordings,
    shingles,
)
from nightschool_daemon.wording import MINIMA, fingerprint_of, fold
from nightschool_hookspecs import Matrix
from nightschool_hookspecs.testing import matrix
from support.fingerprints import are_near

SAMPLE = Path(__file__).parents[2] / "data" / "nl2bash" / "sample.jsonl"


MOST_OF_A_CROWD = duplicates.WINDOW + duplicates.FIRST


def real_prompts() -> list[str]:
    """Descriptions of shell commands, once each."""
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(fold(json.loads(line)["description"]) for line in lines))


def groups_of(text: str) -> set[str]:
    padded = f" {text}".ljust(duplicates.SHINGLE)
    return {padded[place : place + duplicates.SHINGLE] for place in range(len(padded) - duplicates.SHINGLE + 1)}


def jaccard(one: set[str], other: set[str]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def as_set(pairs: duplicates.Pairs) -> set[tuple[int, int]]:
    return {(int(low), int(high)) for low, high in pairs}


def typo(text: str) -> str:
    """The same text with two letters swapped in its middle."""
    place = len(text) // 2
    return text[: place - 1] + text[place] + text[place - 1] + text[place + 1 :]


def test_every_pair_that_shares_most_of_its_wording_is_found_among_real_prompts() -> None:
    texts = real_prompts()[:300]
    texts += [typo(text) for text in texts if len(text) > 60]
    sets = [groups_of(text) for text in texts]
    found = as_set(near_texts(texts))
    alike = {(i, j) for j in range(len(texts)) for i in range(j) if jaccard(sets[i], sets[j]) >= 0.7}
    assert len(alike) > 100
    assert alike <= found
    assert min(jaccard(sets[i], sets[j]) for i, j in found) > 0.3


def test_only_pairs_with_a_new_text_are_found_when_the_others_are_known() -> None:
    texts = real_prompts()[:100]
    texts += [f"{text} please" for text in texts[:20]]
    whole, late = as_set(near_texts(texts)), as_set(near_texts(texts, since=100))
    assert late == {(low, high) for low, high in whole if high >= 100}
    assert len(late) >= 20


def test_of_short_texts_every_pair_is_found_whose_edits_are_few() -> None:
    """A wrong letter here and there leaves hardly a group of five characters whole: the sketch finds some of them."""
    texts = [text for text in real_prompts() if 30 <= len(text) <= 60][:60]
    texts += [re.sub(r"(.{8}).", r"\1#", text) for text in texts]
    alike = {
        (i, j)
        for j in range(len(texts))
        for i in range(j)
        if Levenshtein.normalized_similarity(texts[i], texts[j], score_cutoff=0.85) >= 0.85
    }
    found = as_set(near_wordings(texts, 0.85))
    assert found == alike
    assert not alike <= as_set(near_texts(texts))
    assert as_set(near_wordings(texts, 0.85, since=60)) == {(low, high) for low, high in alike if high >= 60}


def test_long_texts_are_left_to_the_sketch() -> None:
    long = "x" * (duplicates.SHORT + 1)
    assert near_wordings([long, long], 0.85).tolist() == []
    assert near_wordings([], 0.85).shape == (0, 2)


def test_of_too_many_short_texts_the_shortest_are_compared_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["a longer text", "a longer text", "short", "short"]
    monkeypatch.setattr(duplicates, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(duplicates, "MOST_COMPARED", 4)
    assert near_wordings(texts, 0.85).tolist() == [[2, 3]]
    assert "2 of 4 new short prompts" in caplog.text
    monkeypatch.setattr(duplicates, "MOST_COMPARED", 8)
    assert near_wordings(texts, 0.85).tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize("since", [0, 1, 40, 119, 120])
def test_across_two_lists_are_the_pairs_of_one_from_each_and_no_others_are_compared(
    since: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [text for text in real_prompts() if 30 <= len(text) <= 60][:60]
    texts += [typo(text) for text in texts]
    vectors = np.random.default_rng(1).standard_normal((len(texts), 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for whole, across in (
        (near_texts(texts), near_texts(texts, since=since, across=True)),
        (near_wordings(texts, 0.85), near_wordings(texts, 0.85, since=since, across=True)),
        (near_vectors(vectors, 0.9), near_vectors(vectors, 0.9, since=since, across=True)),
    ):
        assert as_set(across) == {(low, high) for low, high in as_set(whole) if low < since <= high}
    # what is new is not compared with itself, however much it is
    found = near_wordings(texts, 0.85, since=since, across=True)
    monkeypatch.setattr(duplicates, "MOST_COMPARED", since * (len(texts) - since))
    assert np.array_equal(near_wordings(texts, 0.85, since=since, across=True), found)
    assert not caplog.records


def test_however_many_texts_of_a_crowd_are_known_a_new_one_meets_some_of_them() -> None:
    text = "count the lines of every file below here"
    met = as_set(near_texts([text] * 300, since=200, across=True))
    assert {high for _, high in met} == set(range(200, 300))


prints = st.lists(st.text("ab c", max_size=12).map(lambda text: fingerprint_of(text, b"")), max_size=8)


@settings(deadline=None)
@given(prints, prints)
def test_fingerprints_are_compared_alike_one_by_one_and_all_at_once(left: list[str], right: list[str]) -> None:
    near = {(i, j) for i, one in enumerate(left) for j, other in enumerate(right) if are_near(one, other)}
    assert as_set(near_fingerprints(left, right)) == near


def test_fingerprints_that_share_just_enough_are_found_by_their_bands() -> None:
    """All pairs of real prompts and of what many typos left of them, among which many are on the edge."""
    texts = [text for text in real_prompts() if len(text) > 40][:60]
    left = [fingerprint_of(text, b"") for text in texts]
    right = [fingerprint_of(re.sub(r"(.{9}).", r"\1#", text), b"") for text in texts]
    near = {(i, j) for i, one in enumerate(left) for j, other in enumerate(right) if are_near(one, other)}
    assert len(near) > 20
    assert as_set(near_fingerprints(left, right)) == near
    assert MINIMA % duplicates.PRINT_ROWS == 0


def test_the_same_texts_give_the_same_pairs_whatever_the_size_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text for text in real_prompts() for _ in range(2)]
    first = near_texts(texts)
    monkeypatch.setattr(duplicates, "TEXTS_AT_ONCE", 7)
    assert np.array_equal(near_texts(texts), first)


def by_one_pattern(count: int) -> list[str]:
    return [f"count the lines of every file below directory {number}" for number in range(count)]


@pytest.mark.parametrize(
    "near",
    [
        lambda count: near_texts(["count the lines of every file below here"] * count),
        lambda count: near_wordings(by_one_pattern(count), 0.85),
        lambda count: near_vectors(np.ones((count, 1), np.float32), 0.85),
    ],
    ids=["texts", "wordings", "vectors"],
)
def test_a_crowd_hangs_together_at_a_cost_that_is_linear(near: Callable[[int], duplicates.Pairs]) -> None:
    pairs = near(1000)
    assert len(pairs) < 1000 * MOST_OF_A_CROWD
    assert set(range(1, 1000)) <= {int(high) for _, high in pairs}


def test_a_crowd_of_fingerprints_hangs_together_at_a_cost_that_is_linear() -> None:
    prints = [fingerprint_of(text, b"") for text in by_one_pattern(600)]
    pairs = near_fingerprints(prints[:300], prints[300:])
    assert len(pairs) <= 300 * MOST_OF_A_CROWD
    assert {int(high) for _, high in pairs} == set(range(300))


def test_beside_a_crowd_every_short_text_is_compared(caplog: pytest.LogCaptureFixture) -> None:
    longer = "and then tell me which of them has the greatest number of lines in it"
    texts = [*by_one_pattern(2100), longer, typo(longer)]
    assert (2100, 2101) in as_set(near_wordings(texts, 0.85))
    assert not caplog.records


def test_of_a_crowd_of_fingerprints_the_nearest_are_kept() -> None:
    whole = "count the lines of every file below this directory, and tell me which has the most of them"
    words = whole.split()
    crowd = [" ".join([*words[:place], "xy", *words[place + 1 :]]) for place in range(len(words))]
    left = [fingerprint_of(text, b"") for text in [*crowd * 5, whole]]
    pairs = near_fingerprints(left, left[-1:])
    assert duplicates.WINDOW <= len(pairs) <= MOST_OF_A_CROWD < len(left)
    assert (len(left) - 1, 0) in as_set(pairs)


@settings(deadline=None)
@given(st.lists(st.text(max_size=30), max_size=8))
def test_any_texts_have_shingles_of_their_own_and_equal_ones_are_near(texts: list[str]) -> None:
    hashes, owners = shingles(texts)
    for number, text in enumerate(texts):
        assert len(set(hashes[owners == number].tolist())) == len(groups_of(text))
    found = as_set(near_texts(texts))
    assert {(i, j) for j in range(len(texts)) for i in range(j) if texts[i] == texts[j]} <= found


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 2**31), st.sampled_from([0.0, 0.5, 0.9]))
def test_vectors_give_every_pair_above_the_threshold(count: int, since: int, seed: int, threshold: float) -> None:
    vectors = np.random.default_rng(seed).standard_normal((count, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    original, duplicates.TILE = duplicates.TILE, 8
    try:
        pairs = near_vectors(vectors, threshold, since=since)
    finally:
        duplicates.TILE = original
    clear = {
        (i, j): float(vectors[i] @ vectors[j]) for j in range(max(1, since), count) for i in range(j) if j >= since
    }
    assert {pair for pair, value in clear.items() if value >= threshold + 1e-6} <= as_set(pairs)
    assert as_set(pairs) <= {pair for pair, value in clear.items() if value >= threshold - 1e-6}
    assert pairs.tolist() == sorted(pairs.tolist())


@pytest.mark.parametrize(("since", "across"), [(0, False), (150, False), (150, True)])
def test_of_a_crowd_of_vectors_the_nearest_are_kept(since: int, across: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "TILE", 70)
    vectors = np.random.default_rng(3).standard_normal((300, 8)).astype(np.float32) + np.float32(4)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = as_set(near_vectors(vectors, 0.5, since=since, across=across))
    for text in range(since, 300):
        wanted = set[int]()
        for sort in (range(since), range(since, since if across else text)):
            cosines = vectors[sort.start : sort.stop] @ vectors[text]
            nearest = np.argsort(-cosines, kind="stable")[: duplicates.WINDOW] + sort.start
            wanted |= {*nearest.tolist(), *sort[: duplicates.FIRST]}
        assert {low for low, high in found if high == text} == wanted


def test_the_near_one_with_the_same_digits_is_found_behind_a_crowd_with_others() -> None:
    """Of long texts by the sketch, of short ones by their edits, of vectors whatever their cosines."""
    long = "please count all the lines of every single file below the directory {} and send them to me, " * 3
    texts = [long.format(*3 * [number]) for number in (*range(100, 300), 77)]
    near = long.replace("please", "plaese").replace("count", "cuont").replace("single", "snigle").format(77, 77, 77)
    assert (200, 201) in as_set(near_texts([*texts, near], since=201, across=True))
    short = [f"what is {number} percent of 640 euros" for number in range(100, 300)]
    asked = ["wat is 37 percnt of 640 euro", "what is 37 percent of 640 euros"]
    assert (200, 201) in as_set(near_wordings([*short, *asked], 0.85, since=201, across=True))
    vectors = np.array([[1, 0]] * 200 + [[0.9, np.sqrt(0.19)], [1, 0]], np.float32)
    digits = np.array([0] * 200 + [1, 1])
    assert (200, 201) in as_set(near_vectors(vectors, 0.85, digits=digits, since=201))


def test_a_slip_of_the_pen_is_found_behind_a_crowd_with_the_same_digits() -> None:
    names = ("".join(letters) for letters in itertools.product("bcdf", "ghjk", "mnpq", "rstv"))
    texts = [*(f"show the sizes of all files in {name}" for name in names), "shwo teh sizse of all fiels in /etc"]
    asked = "show the sizes of all files in /etc"
    pairs = near_wordings([*texts, asked], 0.7, since=len(texts), across=True)
    assert len(texts) > 3 * duplicates.WINDOW
    assert (len(texts) - 1, len(texts)) in as_set(pairs)
    assert len(pairs) <= 1 + MOST_OF_A_CROWD


def test_a_known_text_is_found_behind_a_crowd_of_new_ones() -> None:
    crowd = by_one_pattern(200)
    texts = [*crowd[:20], "count the lines of every fiel below drectory 7", *crowd[20:]]
    assert (20, 150) in as_set(near_wordings(texts, 0.85, since=21))


def two_kinds(count: int) -> list[str]:
    """Each text has more than a crowd of others of its own kind that are nearer to it than any of the other kind."""
    return [
        f"please {verb} the lines of every file below the directory number {number} and send them to me"
        for verb in ("count", "print")
        for number in range(count)
    ]


def vectors_of_two_kinds(count: int) -> duplicates.Vectors:
    vectors = np.zeros((2 * count, count + 2), np.float32)
    vectors[:count, 0] = vectors[count:, 1] = 0.5
    vectors[:, :2] += 1
    vectors[np.arange(2 * count), 2 + np.arange(2 * count) % count] = 0.1
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.mark.parametrize(
    "near",
    [lambda count: near_wordings(two_kinds(count), 0.85), lambda count: near_vectors(vectors_of_two_kinds(count), 0.9)],
    ids=["wordings", "vectors"],
)
def test_a_crowd_of_two_kinds_hangs_together(near: Callable[[int], duplicates.Pairs]) -> None:
    count = 2 * duplicates.WINDOW
    tied = {high for low, high in as_set(near(count)) if low < count <= high}
    assert tied == set(range(count, 2 * count))


def test_the_metrics_see_candidates_only_and_the_order_of_two_texts_does_not_matter() -> None:
    seen: list[tuple[str, str]] = []

    def longer_left(left: list[str], right: list[str]) -> Matrix:
        seen.extend((left[0], other) for other in right)
        return matrix([[1.0 if left[0] < other else 0.2 for other in right]], columns=len(right))

    texts = ["b", "a", "c"]
    pairs = np.array([[0, 1], [0, 2]], dtype=np.int64)
    assert as_set(confirmed(pairs, texts, longer_left, 0.5)) == {(0, 1), (0, 2)}
    assert sorted(seen) == [("a", "b"), ("b", "c")]
    assert len(confirmed(pairs[:0], texts, longer_left, 0.5)) == 0


def test_few_edits_suffice_whatever_the_metrics_say() -> None:
    def sees_nothing(left: list[str], right: list[str]) -> Matrix:
        return matrix([[0.0 for _ in right] for _ in left], columns=len(right))

    texts = ["list all hidden files", "list all hiddne files", "list all files"]
    assert as_set(confirmed(np.array([[0, 1], [0, 2]]), texts, sees_nothing, 0.85)) == {(0, 1)}


@pytest.mark.parametrize(
    ("left", "right", "are_near"),
    [
        ("list all hidden files in the current directory", "list all hiddne files in teh current directory", True),
        ("list all hidden files in the current directory", "listall hidden files in the current directory", True),
        ("greet guest number 12 of the house", "greet guest number 13 of the house", False),
        ("show the sizes of all files in /etc", "show the sizes of all files in /var", False),
        ("show the sizes of all files", "do not show the sizes of all files", False),
    ],
    ids=["typos", "a space too few", "another number", "another word", "a word more"],
)
def test_few_edits_are_enough_where_they_are_slips_of_the_pen(left: str, right: str, are_near: bool) -> None:
    def measures_nothing(left: list[str], right: list[str]) -> Matrix:
        return matrix([[0.0] * len(right)], columns=len(right))

    assert (len(confirmed(np.array([[0, 1]]), [left, right], measures_nothing, 0.8)) == 1) is are_near
