"""Rows are laid into a pass and taken out of it without a token lost, and gradients come back to where they belong."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nightschool_daemon.learning.engine.layout import Branches, Layout, distinct, lay_out

CPU = torch.device("cpu")
Row = tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]
TOKENS = st.lists(st.integers(0, 99), min_size=1, max_size=9).map(tuple)
ANSWERS = st.lists(st.integers(0, 99), max_size=9).map(tuple)
ROWS = st.lists(st.tuples(TOKENS, st.lists(ANSWERS, max_size=3).map(tuple)), min_size=1, max_size=5)


def rows_of(drawn: list[Row]) -> list[Branches]:
    return [Branches(stem=stem, answers=answers) for stem, answers in drawn]


def states(layout: Layout) -> Tensor:
    """A state for each token, no two alike."""
    count = layout.ids.shape[0]
    return torch.arange(count * 6, dtype=torch.float32).view(count, 2, 3).requires_grad_()


@settings(max_examples=60, deadline=None)
@given(drawn=ROWS, shares=st.booleans())
def test_tokens_come_back_from_padded_rows(drawn: list[Row], *, shares: bool) -> None:
    rows = rows_of(drawn)
    layout = lay_out(rows, CPU, shares=shares)
    x = states(layout)
    padded = layout.padded(x)
    assert padded.shape == (len(rows), max(map(len, rows)), 2, 3)
    assert torch.equal(layout.flat(padded), x)
    ids = layout.padded(layout.ids)
    for number, row in enumerate(rows):
        assert ids[number, : len(row)].tolist() == [*row.stem, *(one for answer in row.answers for one in answer)]
        if not shares:
            begin = int(layout.starts[number])
            assert torch.equal(padded[number, : len(row)], x[begin : begin + len(row)])


@settings(max_examples=60, deadline=None)
@given(drawn=ROWS)
def test_what_rows_begin_with_alike_is_there_once(drawn: list[Row]) -> None:
    rows = rows_of(drawn)
    layout = lay_out(rows, CPU, shares=True)
    stems = {row.stem[: place + 1] for row in rows for place in range(len(row.stem))}
    assert len(layout.ids) == len(stems) + sum(len(answer) for row in rows for answer in row.answers)
    assert distinct(rows) == len(layout.ids)
    assert len(lay_out(rows, CPU, shares=False).ids) == sum(map(len, rows))


@settings(max_examples=60, deadline=None)
@given(drawn=ROWS)
def test_a_token_learns_from_every_row_that_it_stands_in(drawn: list[Row]) -> None:
    rows = rows_of(drawn)
    layout = lay_out(rows, CPU, shares=True)
    x = states(layout)
    whole = layout.padded(x)
    for number, row in enumerate(rows):
        whole[number, : len(row)].sum().backward(retain_graph=True)
    numbers = layout.padded(torch.arange(len(layout.ids)))
    stands_in = torch.zeros(len(layout.ids))
    for number, row in enumerate(rows):
        stands_in[numbers[number, : len(row)]] += 1
    assert x.grad is not None
    assert torch.equal(x.grad, stands_in[:, None, None].expand_as(x))


@settings(max_examples=60, deadline=None)
@given(drawn=ROWS, seed=st.integers(0, 9))
def test_gradients_pass_through_padded_rows_as_if_there_were_no_padding(drawn: list[Row], seed: int) -> None:
    layout = lay_out(rows_of(drawn), CPU, shares=True)
    weights = torch.randn(layout.ids.shape[0], 2, 3, generator=torch.Generator().manual_seed(seed))
    x = states(layout)
    (layout.flat(layout.padded(x)) * weights).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, weights)


@settings(max_examples=60, deadline=None)
@given(drawn=ROWS)
def test_every_token_of_an_answer_is_predicted_from_the_one_before_it(drawn: list[Row]) -> None:
    rows = rows_of(drawn)
    layout = lay_out(rows, CPU, shares=True)
    expected: list[tuple[int, int, int, int]] = []
    numbers = itertools.count()
    for row in rows:
        for answer in row.answers:
            number = next(numbers)
            whole = (*row.stem, *answer)
            expected += [
                (number, whole[place - 1], place - 1, whole[place]) for place in range(len(row.stem), len(whole))
            ]
    sources = layout.sources
    found = zip(
        layout.answer_of.tolist(),
        layout.ids[sources].tolist(),
        layout.positions[sources].tolist(),
        layout.targets.tolist(),
        strict=True,
    )
    assert list(found) == expected
    assert layout.answers == sum(len(row.answers) for row in rows)


@settings(max_examples=60, deadline=None)
@given(drawn=ROWS)
def test_a_token_sees_its_own_text_up_to_itself_and_nothing_else(drawn: list[Row]) -> None:
    rows = rows_of(drawn)
    layout = lay_out(rows, CPU, shares=True)
    if layout.visible is None or layout.places is None:
        assert all(len(row.answers) <= 1 for row in rows)
        return
    for number, row in enumerate(rows):
        places: list[tuple[int | None, int]] = [(None, place) for place in range(len(row.stem))]
        for which, answer in enumerate(row.answers):
            places += [(which, len(row.stem) + place) for place in range(len(answer))]
        for here, (owner, place) in enumerate(places):
            seen = {other for other, (whose, _) in enumerate(places) if whose in (None, owner)}
            expected = sorted(other for other in seen if places[other][1] <= place)
            assert layout.visible[number, 0, here].nonzero()[:, 0].tolist() == expected
        assert layout.places[number, : len(places)].tolist() == [place for _, place in places]
    assert bool(layout.visible.any(-1).all()), "no softmax is over nothing"


def test_what_many_rows_add_is_summed_up_in_32_bits() -> None:
    """In 16 bits a sum of ones stays at 256."""
    layout = lay_out(rows_of([((1, 2), ((number,),)) for number in range(1000)]), CPU, shares=True)
    x = torch.zeros(len(layout.ids), 3, dtype=torch.bfloat16, requires_grad=True)
    layout.padded(x).sum().backward()
    assert x.grad is not None
    assert x.grad[:2].tolist() == [[1000.0] * 3] * 2
    assert bool((x.grad[2:] == 1).all())


def test_rows_of_one_length_need_no_padding() -> None:
    layout = lay_out(rows_of([((1, 2), ((3,),)), ((4,), ((5, 6),))]), CPU, shares=True)
    assert (layout.gather, layout.scatter, layout.visible) == (None, None, None)
    assert (layout.rows, layout.longest) == (2, 3)


@pytest.mark.parametrize("longest", [1, 7])
def test_padding_costs_no_more_than_the_longest_row(longest: int) -> None:
    layout = lay_out(rows_of([((1,) * longest, ()), ((2,), ())]), CPU, shares=True)
    assert math.prod(layout.padded(layout.ids).shape) == 2 * longest
