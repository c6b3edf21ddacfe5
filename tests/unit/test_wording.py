"""How prompts are told apart: equal ones by their key, near ones that are not kept by a fingerprint."""

import json
import random
from itertools import combinations
from operator import eq
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from nightschool_daemon.wording import MINIMA, fingerprint_of, fold, key_of
from support.fingerprints import are_near, minima_of

SECRET = b"a secret of sixteen bytes or more"
SAMPLE = Path(__file__).parents[1] / "data" / "nl2bash" / "sample.jsonl"


def real_prompts() -> list[str]:
    """Descriptions of shell commands, once each."""
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(fold(json.loads(line)["description"]) for line in lines))[:200]


@pytest.mark.parametrize(
    "other", ["Wie hei\u00dft das Caf\u00e9?", "wie heisst das cafe\u0301", "  WIE HEISST\n das CAFÉ ... "]
)
def test_prompts_that_read_the_same_are_one(other: str) -> None:
    assert key_of(other) == key_of("Wie heißt das Café?")


@settings(deadline=None)
@given(st.text())
def test_folding_twice_changes_nothing_and_every_text_has_a_fingerprint(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    own = fingerprint_of(text, SECRET)
    assert len(minima_of(own)) == MINIMA
    assert fingerprint_of(f" {text} ", SECRET) == own
    assert are_near(own, own)


@pytest.mark.parametrize(("typos", "share"), [(1, 1.0), (3, 1.0), (5, 0.95)])
def test_fingerprints_know_near_duplicates_again(typos: int, share: float) -> None:
    chance = random.Random(1)
    pairs = [(text, _with_typos(text, typos, chance)) for text in real_prompts() if len(text) > 15 * typos]
    known = sum(are_near(fingerprint_of(one, SECRET), fingerprint_of(other, SECRET)) for one, other in pairs)
    assert len(pairs) > 50
    assert known >= share * len(pairs)


def test_fingerprints_of_unlike_prompts_differ() -> None:
    prints = {text: fingerprint_of(text, SECRET) for text in real_prompts()}
    unlike = [pair for pair in combinations(prints, 2) if Levenshtein.normalized_similarity(*pair) < 0.7]
    assert not [pair for pair in unlike if are_near(prints[pair[0]], prints[pair[1]])]


def test_fingerprints_of_long_unlike_prompts_differ() -> None:
    """Though all groups of characters of a language are somewhere in each of them."""
    whole = " ".join(json.loads(line)["description"] for line in SAMPLE.read_text(encoding="utf-8").splitlines())
    prints = [fingerprint_of(whole[start : start + 8000], SECRET) for start in range(0, len(whole) - 8000, 8000)]
    assert len(prints) > 3
    assert not [pair for pair in combinations(prints, 2) if are_near(*pair)]


def test_a_fingerprint_says_nothing_without_its_secret() -> None:
    """Not even to whoever knows the prompt and how fingerprints are made."""
    text = "count the lines of every file below this directory"
    own, guessed = fingerprint_of(text, SECRET), fingerprint_of(text, b"another secret of this length or so")
    assert sum(map(eq, minima_of(own), minima_of(guessed))) < 0.05 * MINIMA


def _with_typos(text: str, count: int, chance: random.Random) -> str:
    letters = list(text)
    for place in chance.sample(range(1, len(letters)), count):
        letters[place - 1], letters[place] = letters[place], letters[place - 1]
    return "".join(letters)
