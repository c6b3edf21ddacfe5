"""When the served network counts as the trained one."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from nightschool_daemon.jobs import Losses, VerifyResult
from nightschool_daemon.learning.loading import Tokens
from nightschool_daemon.learning.verification import (
    POSITIONS_A_TEXT,
    Limits,
    Position,
    Table,
    choose_positions,
    compare,
    judged,
)
from nightschool_daemon.ollama.library import NextToken, TokenLogprob
from nightschool_hookspecs.records import TrainingText
from nightschool_hookspecs.services import TrainingError

PAIRS = 101
ASKED = 90
GENERATOR = np.random.default_rng(0)
BASE = GENERATOR.standard_normal(PAIRS) - 4
CHANGE = GENERATOR.standard_normal(PAIRS)
HELD_OUT = Losses(base_loss=3.0, trained_loss=2.0, delivered_loss=2.0)
NOISE = 0.05 * GENERATOR.standard_normal(PAIRS)


def judge(
    *,
    served: NDArray[np.float64] = CHANGE,
    trained: NDArray[np.float64] = CHANGE,
    noise: NDArray[np.float64] = NOISE,
    prompts_equal: bool = True,
    compared: int = ASKED,
    asked: int = ASKED,
    lost: float = 0.0,
    held_out_texts: int = 5,
) -> VerifyResult:
    """The verdict on a served and a trained change of log-probabilities. The engine differs from us by `noise`."""
    table = Table(
        positions=compared,
        base_engine=BASE + noise,
        base_own=BASE,
        candidate_engine=BASE + noise + served,
        candidate_own=BASE + trained,
    )
    return judged(
        table,
        asked=asked,
        held_out=replace(HELD_OUT, delivered_loss=HELD_OUT.trained_loss + lost),
        held_out_texts=held_out_texts,
        prompts_equal=prompts_equal,
    )


def test_the_same_change_passes_however_the_engine_rounds() -> None:
    result = judge()
    assert result.passed, result.reason
    assert result.disagreement == pytest.approx(0)
    assert result.live == pytest.approx(result.expected)
    assert (result.positions, result.pairs) == (ASKED, PAIRS)
    assert (result.held_out, result.held_out_texts) == (HELD_OUT, 5)


def test_a_served_base_is_not_live() -> None:
    result = judge(served=np.zeros(PAIRS))
    assert (result.passed, result.is_last_word) == (False, False)
    assert "does not show the lesson" in result.reason


@pytest.mark.parametrize(
    ("served", "passes"), [(CHANGE[::-1], False), (0.4 * CHANGE, False), (CHANGE, True)], ids=["another", "less", "it"]
)
def test_nothing_is_told_of_a_lesson_that_drowns_in_the_engines_noise(
    served: NDArray[np.float64], passes: bool
) -> None:
    """Twice the noise would let another lesson of the same size through, or less than half of this one."""
    noise = np.full(PAIRS, 0.3)
    result = judge(served=0.2 * served + 0.15 * np.sign(CHANGE) * (not passes), trained=0.2 * CHANGE, noise=noise)
    assert result.passed is passes, result.reason
    if not passes:
        assert "differ by 0.300 on the base itself" in result.reason
        assert not result.is_last_word


def test_a_change_of_the_same_size_in_other_places_is_another_network() -> None:
    result = judge(served=CHANGE[::-1])
    assert not result.passed
    assert "not the trained one" in result.reason


def test_the_opposite_change_is_another_network() -> None:
    assert "not the trained one" in judge(served=-CHANGE).reason


def test_a_lesson_too_small_to_be_seen_is_told() -> None:
    result = judge(served=CHANGE * 1e-3, trained=CHANGE * 1e-3)
    assert (result.passed, result.is_last_word) == (False, True)
    assert "too small to be seen" in result.reason


def test_nothing_compared_is_no_pass() -> None:
    empty = np.zeros(0)
    table = Table(positions=0, base_engine=empty, base_own=empty, candidate_engine=empty, candidate_own=empty)
    result = judged(table, asked=ASKED, held_out=HELD_OUT, held_out_texts=5, prompts_equal=True)
    assert not result.passed
    assert result.pairs == 0
    assert "nothing could be compared" in result.reason


@pytest.mark.parametrize(("silent", "is_last_word"), [(ASKED, True), (ASKED // 10, False)])
def test_a_served_model_that_computes_no_numbers_is_told_apart_from_a_server_that_tells_none(
    silent: int, is_last_word: bool
) -> None:
    empty = np.zeros(0)
    table = Table(
        positions=0,
        base_engine=empty,
        base_own=empty,
        candidate_engine=empty,
        candidate_own=empty,
        silent=silent,
    )
    result = judged(table, asked=ASKED, held_out=HELD_OUT, held_out_texts=5, prompts_equal=True)
    assert (result.passed, result.is_last_word) == (False, is_last_word)
    assert ("Lower learning_rate" in result.reason) == is_last_word


def test_other_prompts_are_no_pass() -> None:
    result = judge(prompts_equal=False)
    assert not result.passed
    assert "other prompts" in result.reason


@pytest.mark.parametrize(("error", "passes"), [(1.9, True), (2.1, False)])
def test_the_bound_is_twice_the_engines_own_noise(error: float, passes: bool) -> None:
    noise = np.full(PAIRS, 0.05)
    assert judge(served=CHANGE + error * 0.05, noise=noise).passed is passes


@pytest.mark.parametrize(("error", "passes"), [(0.019, True), (0.021, False)])
def test_an_engine_without_noise_may_still_round(error: float, passes: bool) -> None:
    change = 0.2 * CHANGE
    assert judge(served=change + error, trained=change, noise=np.zeros(PAIRS)).passed is passes


@pytest.mark.parametrize(("share", "passes"), [(0.09, True), (0.11, False)])
def test_the_engine_rounds_more_of_a_larger_change(share: float, passes: bool) -> None:
    change = np.full(PAIRS, 9.0)
    assert judge(served=change * (1 - share), trained=change).passed is passes


@pytest.mark.parametrize(("share", "reason"), [(0.4, "does not show"), (0.6, "not the trained one")])
def test_half_a_lesson_is_not_the_lesson(share: float, reason: str) -> None:
    result = judge(served=CHANGE * share, noise=np.zeros(PAIRS))
    assert not result.passed
    assert reason in result.reason


@pytest.mark.parametrize(("noise", "passes"), [(0.45, True), (0.55, False)])
def test_a_forward_pass_that_is_not_the_engines_is_no_measure(noise: float, passes: bool) -> None:
    result = judge(noise=np.full(PAIRS, noise))
    assert result.passed is passes
    assert passes or "differ by 0.550 nats on the base itself" in result.reason


@pytest.mark.parametrize(
    ("losses", "sentence"),
    [
        (replace(HELD_OUT, base_loss=np.inf), "for the base itself"),
        (replace(HELD_OUT, trained_loss=np.inf), "With what was trained"),
        (replace(HELD_OUT, delivered_loss=np.nan), "With what was trained"),
    ],
)
def test_losses_that_are_no_numbers_end_the_step(losses: Losses, sentence: str) -> None:
    """Though all that was compared are some."""
    table = Table(positions=ASKED, base_engine=BASE, base_own=BASE, candidate_engine=BASE, candidate_own=BASE)
    with pytest.raises(TrainingError, match=sentence):
        judged(table, asked=ASKED, held_out=losses, held_out_texts=5, prompts_equal=True)


def test_a_wrong_forward_pass_does_not_let_another_network_pass() -> None:
    """Its own error would widen the bound to all that the served model is off."""
    assert not judge(served=CHANGE + 3.0, noise=np.full(PAIRS, 1.5)).passed


@pytest.mark.parametrize(("compared", "passes"), [(60, True), (59, False), (1, False)])
def test_most_places_that_are_asked_must_be_comparable(compared: int, passes: bool) -> None:
    result = judge(compared=compared)
    assert result.passed is passes
    assert passes or f"only {compared} of {ASKED} places could be compared" in result.reason


def test_a_small_lesson_passes_and_it_is_told_at_how_few_places() -> None:
    result = judge(compared=12, asked=12)
    assert result.passed
    assert result.reason.endswith("equals the trained network, at the 12 places that could be compared.")


# --------------------------------------------------------------------------- places

LETTERS = "abcdefghijklmnopqrstuvwxyz.!"
END = "!"
LIMITS = Limits(max_length=100, context_tokens=100)


@pytest.fixture
def tokens() -> Tokens:
    """A letter is a token."""
    tokenizer = Tokenizer(WordLevel({letter: number for number, letter in enumerate(LETTERS)}, unk_token="."))
    tokenizer.pre_tokenizer = Split(Regex("."), "isolated")
    tokenizer.decoder = Fuse()
    return Tokens(tokenizer=tokenizer, bos=None)


def texts(count: int, letters: int) -> list[TrainingText]:
    """Each begins with another letter."""
    return [
        TrainingText(event_id=f"{number}", prompt=f"{LETTERS[number]}.", completion="x" * letters + END)
        for number in range(count)
    ]


def test_of_many_texts_a_few_places_each_are_asked(tokens: Tokens) -> None:
    found = choose_positions(tokens, texts(20, 30), 40, 1, LIMITS)
    assert Counter(Counter(one.prefix[0] for one in found).values()) == {POSITIONS_A_TEXT: 5}


def test_of_few_texts_more_places_each_are_asked(tokens: Tokens) -> None:
    found = choose_positions(tokens, texts(2, 30), 40, 1, LIMITS)
    assert sorted(Counter(one.prefix[0] for one in found).values()) == [20, 20]
    assert len(choose_positions(tokens, texts(2, 5), 40, 1, LIMITS)) == 10


def test_where_an_answer_ends_nothing_is_asked(tokens: Tokens) -> None:
    """The engine gives no probabilities for what ends an answer."""
    found = choose_positions(tokens, texts(1, 3), 40, 1, LIMITS)
    assert [one.prefix for one in found] == ["a.", "a.x", "a.xx"]


def told(count: int, *letters: str) -> NextToken:
    return NextToken(
        prompt_tokens=count, top=tuple(TokenLogprob(token=one, content=one.encode(), logprob=-1.0) for one in letters)
    )


def test_places_are_counted_by_what_could_be_compared(tokens: Tokens) -> None:
    """One in common, none in common, no answer, and another count of tokens."""
    places = [Position(prefix="a.", ids=(0, 26))] * 4
    before = [told(2, "x", "y"), told(2, "x"), told(2, "x"), told(3, "x")]
    after = [told(2, "y", "z"), told(2, "z"), told(2), told(3, "x")]
    own = np.zeros((len(places), len(LETTERS)), np.float32)
    table = compare(tokens, places, (before, after), (own, own))
    # where none is in common, the likeliest of each tells by itself
    assert table.positions == 2
    assert table.silent == 1
    assert table.base_engine.tolist() == pytest.approx([-1.0, -1.0, math.nan], nan_ok=True)
    assert table.candidate_engine.tolist() == pytest.approx([-1.0, math.nan, -1.0], nan_ok=True)


def test_a_model_that_ends_its_answers_is_told_apart_from_one_that_tells_nothing_of_what_it_is(tokens: Tokens) -> None:
    """The engine names no token for either."""
    tokens.tokenizer.add_special_tokens([AddedToken(END, special=True)])
    (end,) = tokens.control()
    for letter in (end, LETTERS.index("x")):
        own = np.full((ASKED, len(LETTERS)), -12.0, np.float32)
        own[:, letter] = 0.0
        engine = [certain("z")] * ASKED, [told(2)] * ASKED
        table = compare(tokens, [Position(prefix="a.", ids=(0, 26))] * ASKED, engine, (own, own))
        result = judged(table, asked=ASKED, held_out=HELD_OUT, held_out_texts=0, prompts_equal=True)
        assert (table.ended, table.silent) == ((ASKED, 0) if letter == end else (0, ASKED))
        assert not result.passed
        assert result.is_last_word is (letter != end)
        assert ("ends its answer, where its base goes on" in result.reason) is (letter == end)
        assert "Lower learning_rate" in result.reason


@pytest.mark.parametrize(
    ("served", "is_trained"), [("x", True), ("y", False), ("z", False)], ids=["trained", "another", "base"]
)
def test_a_lesson_that_leaves_no_likely_token_in_common_is_compared(
    tokens: Tokens, served: str, *, is_trained: bool
) -> None:
    """The base is all but certain of z, the trained network of x, and neither of y."""
    letters = [LETTERS[one] for one in range(len(LETTERS))]
    base, trained = (np.full((ASKED, len(letters)), -12.0, np.float32) for _ in range(2))
    base[:, letters.index("z")], trained[:, letters.index("x")] = 0.0, 0.0
    place = Position(prefix="a.", ids=(0, 26))
    engine = [certain("z")] * ASKED, [certain(served)] * ASKED
    table = compare(tokens, [place] * ASKED, engine, (base, trained))
    result = judged(table, asked=ASKED, held_out=HELD_OUT, held_out_texts=0, prompts_equal=True)
    assert result.positions == ASKED
    assert result.passed is is_trained, result.reason


def certain(letter: str) -> NextToken:
    """With our own error of a hundredth of a nat."""
    return NextToken(prompt_tokens=2, top=(TokenLogprob(token=letter, content=letter.encode(), logprob=-0.01),))
