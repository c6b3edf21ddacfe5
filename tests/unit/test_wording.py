"""How prompts are told apart: equal ones by their key, near ones that are not kept by a fingerprint."""

import json
import random
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from nightschool_daemon.wording import BITS, MOST_DIFFERENT, are_near, fingerprint_of, fold, key_of

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


@given(st.text())
def test_folding_twice_changes_nothing_and_every_text_has_a_fingerprint(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    assert len(fingerprint_of(text)) == BITS // 4
    assert fingerprint_of(f" {text} ") == fingerprint_of(text)


@pytest.mark.parametrize(("typos", "share"), [(1, 1.0), (3, 0.98)])
def test_fingerprints_know_near_duplicates_again(typos: int, share: float) -> None:
    chance = random.Random(1)
    pairs = [(text, _with_typos(text, typos, chance)) for text in real_prompts() if len(text) > 40]
    known = sum(are_near(fingerprint_of(one), fingerprint_of(other)) for one, other in pairs)
    assert known >= share * len(pairs)


def test_fingerprints_of_unlike_prompts_differ() -> None:
    prints = {text: fingerprint_of(text) for text in real_prompts()}
    unlike = [pair for pair in combinations(prints, 2) if Levenshtein.normalized_similarity(*pair) < 0.6]
    mistaken = sum(are_near(prints[one], prints[other]) for one, other in unlike)
    assert mistaken < 0.01 * len(unlike)
    assert MOST_DIFFERENT < BITS / 3


def _with_typos(text: str, count: int, chance: random.Random) -> str:
    letters = list(text)
    for place in chance.sample(range(1, len(letters)), count):
        letters[place - 1], letters[place] = letters[place], letters[place - 1]
    return "".join(letters)
