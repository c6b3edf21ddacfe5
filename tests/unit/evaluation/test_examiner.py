"""The examiner: in blocks, resumable after a kill, patient with a server that goes away."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool_daemon import codec
from nightschool_daemon.config import ExamSettings
from nightschool_daemon.evaluation.examiner import ExamError, Sitters, choose_items, examine, rounds, score_answer
from nightschool_daemon.evaluation.local_model import pinned_options
from nightschool_daemon.evaluation.patience import SERVER_POLL_S
from nightschool_daemon.evaluation.similarity import CombinedMeasure, NoSimilarityError, no_embeddings
from nightschool_daemon.hooks import Hooks, PluginFailed
from nightschool_daemon.ollama.errors import OllamaError, OllamaInterrupted, OllamaRefused, OllamaUnreachable
from nightschool_daemon.ollama.library import ChatAnswer
from nightschool_hookspecs import (
    AnswerScore,
    Embed,
    ExamAnswer,
    ExamItem,
    ItemRole,
    Message,
    Role,
    SimilarityMatrix,
    Sitting,
    hookimpl,
)
from nightschool_hookspecs.testing import FakeGenerate, matrix

SITTERS = Sitters(incumbent="old", candidate="new", candidate_digest="d")
BLOCKS = ["old", "old", "new", "new", "old", "old"]


def item(identifier: str, role: ItemRole = ItemRole.GAIN) -> ExamItem:
    question = Message(role=Role.USER, content=identifier)
    return ExamItem(id=identifier, event_id=identifier, artifact_type="shell", role=role, messages=(question,))


ITEMS = (item("a"), item("b"))


class Killed(BaseException):
    """The process ended here."""


class FakeServer:
    """Answers with the question, or does what is next on its list of troubles."""

    def __init__(self, troubles: Sequence[BaseException | None] = ()) -> None:
        self.asked: list[tuple[str, str]] = []
        self._troubles = list(troubles)

    def __call__(self, name: str, messages: tuple[Message, ...]) -> ChatAnswer:
        trouble = self._troubles.pop(0) if self._troubles else None
        if trouble is not None:
            raise trouble
        self.asked.append((name, messages[-1].content))
        return ChatAnswer(text=f"{name} says {messages[-1].content}", tokens=3, latency_s=0.5, done_reason="stop")


def score(one: ExamItem, text: str) -> AnswerScore:
    return AnswerScore(score=len(text), validator="length")


def quiet(done: int, total: int, text: str) -> None:
    assert 0 <= done <= total


def hold(server: FakeServer, file: Path, pauses: list[float] | None = None) -> tuple[ExamAnswer, ...]:
    return examine(
        (ITEMS,),
        SITTERS,
        ask=server,
        score=score,
        file=file,
        report=quiet,
        pause=([] if pauses is None else pauses).append,
    )


def test_models_sit_in_blocks_and_every_answer_is_written(tmp_path: Path) -> None:
    server = FakeServer()
    answers = hold(server, tmp_path / "answers.jsonl")
    assert [name for name, _ in server.asked] == BLOCKS
    assert [one.sitting for one in answers[::2]] == list(Sitting)
    assert answers[0].text == "old says a"
    assert answers[0].score == len("old says a")
    lines = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert tuple(codec.from_json(line, ExamAnswer) for line in lines) == answers


@pytest.mark.parametrize("is_relative", [False, True])
def test_an_answer_tells_whether_its_score_is_relative(tmp_path: Path, is_relative: bool) -> None:
    answers = examine(
        (ITEMS,),
        SITTERS,
        ask=FakeServer(),
        score=lambda *_: AnswerScore(score=50.0, validator="v", is_relative=is_relative),
        file=tmp_path / "answers.jsonl",
        report=quiet,
    )
    assert {one.is_relative for one in answers} == {is_relative}


@pytest.mark.parametrize("kill_at", range(6))
@pytest.mark.parametrize("torn", ["", '{"item_id":"b","sit'])
def test_a_killed_exam_goes_on_where_it_stopped(tmp_path: Path, kill_at: int, torn: str) -> None:
    file = tmp_path / "answers.jsonl"
    before = FakeServer([*[None] * kill_at, Killed()])
    with pytest.raises(Killed):
        hold(before, file)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(torn)
    after = FakeServer()
    answers = hold(after, file)
    assert [name for name, _ in before.asked + after.asked] == BLOCKS
    assert len(answers) == 6
    assert answers == hold(FakeServer([AssertionError("everything is answered")]), file)


@pytest.mark.parametrize("trouble", [OllamaInterrupted("it broke off"), OllamaRefused("too long", status=400)])
def test_a_failure_gets_a_second_chance_and_then_counts_as_failed(tmp_path: Path, trouble: OllamaError) -> None:
    answers = hold(FakeServer([trouble, None, trouble, trouble]), tmp_path / "answers.jsonl")
    assert [one.failed for one in answers] == [False, True, False, False, False, False]
    assert (answers[1].score, answers[1].detail) == (0.0, str(trouble))


def test_it_waits_for_a_server_that_comes_back(tmp_path: Path) -> None:
    pauses: list[float] = []
    server = FakeServer([None, OllamaUnreachable("away"), OllamaUnreachable("away")])
    answers = hold(server, tmp_path / "answers.jsonl", pauses)
    assert pauses == [SERVER_POLL_S] * 2
    assert not any(one.failed for one in answers)


def test_it_gives_up_on_a_server_that_stays_away(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    with pytest.raises(OllamaUnreachable):
        hold(FakeServer([None, *[OllamaUnreachable("away")] * 1000]), file)
    assert len(file.read_text(encoding="utf-8").splitlines()) == 1


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 20), st.integers(0, 20), st.integers())
def test_the_caps_of_a_night_hold_and_the_draw_repeats_itself(
    gains: int, guards: int, most: int, most_guards: int, seed: int
) -> None:
    items = tuple(item(f"{index}", ItemRole.GAIN) for index in range(gains)) + tuple(
        item(f"g{index}", ItemRole.GUARD) for index in range(guards)
    )
    settings = ExamSettings(max_items=most, max_guard_items=most_guards)
    chosen = choose_items(items, settings, seed)
    roles = [one.role for one in chosen]
    assert roles.count(ItemRole.GAIN) == min(most, gains)
    assert roles.count(ItemRole.GUARD) == min(most_guards, guards)
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(items)
    assert chosen == choose_items(items, settings, seed)


@given(st.sets(st.integers(0, 19)), st.integers(1, 20), st.integers())
def test_items_that_are_new_evidence_come_first(used: set[int], most: int, seed: int) -> None:
    items = tuple(item(f"{index}", ItemRole.GAIN) for index in range(20))
    keys = frozenset(items[index].key for index in used)
    chosen = choose_items(items, ExamSettings(max_items=most), seed, keys)
    assert sum(one.key not in keys for one in chosen) == min(most, 20 - len(used))


@given(st.integers(0, 70), st.integers(0, 10), st.integers(1, 30))
def test_rounds_lose_nothing_and_guards_sit_in_the_first(gains: int, guards: int, size: int) -> None:
    items = tuple(item(f"{index}", ItemRole.GAIN) for index in range(gains)) + tuple(
        item(f"g{index}", ItemRole.GUARD) for index in range(guards)
    )
    cut = rounds(items, size)
    assert sorted(one.id for of_round in cut for one in of_round) == sorted(one.id for one in items)
    assert all(sum(one.role is ItemRole.GAIN for one in of_round) <= size for of_round in cut)
    assert all(one.role is ItemRole.GAIN for of_round in cut[1:] for one in of_round)


def test_what_is_decided_is_not_asked_on(tmp_path: Path) -> None:
    items = tuple(item(letter) for letter in "abcdef")
    server, looks = FakeServer(), list[int]()

    def decided(answers: tuple[ExamAnswer, ...]) -> bool:
        looks.append(len(answers))
        return len(answers) == 12

    answers = examine(
        rounds(items, 2),
        SITTERS,
        ask=server,
        score=score,
        decided=decided,
        file=tmp_path / "answers.jsonl",
        report=quiet,
    )
    assert [name for name, _ in server.asked] == BLOCKS * 2
    assert [one.item_id for one in answers] == list("abababcdcdcd")
    assert looks == [6, 12]


def test_what_was_learned_sits_once_against_the_incumbent(tmp_path: Path) -> None:
    server = FakeServer()
    items = (item("a"), item("known", ItemRole.LEARNED))
    examine(rounds(items, 20), SITTERS, ask=server, score=score, file=tmp_path / "answers.jsonl", report=quiet)
    assert [name for name, prompt in server.asked if prompt == "known"] == ["old", "new"]
    assert [name for name, prompt in server.asked if prompt == "a"] == ["old", "new", "old"]


@pytest.mark.parametrize(("most", "asked"), [(0, 0), (3, 3), (50, 9)])
def test_of_what_was_learned_a_sample_is_asked(most: int, asked: int) -> None:
    items = tuple(item(f"{index}", ItemRole.LEARNED) for index in range(9))
    assert len(choose_items(items, ExamSettings(max_regression_items=most), 1)) == asked


def test_every_option_comes_from_the_settings() -> None:
    options = pinned_options(ExamSettings(temperature=0.5, top_k=3, max_answer_tokens=9, context_tokens=77), 2**40 + 5)
    assert (options.temperature, options.top_k, options.num_predict, options.num_ctx) == (0.5, 3, 9, 77)
    assert options.seed == 5


# --------------------------------------------------------------------------- similarity


class Metric:
    def __init__(self, metric: str, weight: float, value: float | None) -> None:
        self._answer = (metric, weight, value)

    @hookimpl
    def nightschool_measure_similarity(
        self, left: Sequence[str], right: Sequence[str], embed: Embed
    ) -> SimilarityMatrix | None:
        metric, weight, value = self._answer
        if value is None:
            return None
        table = matrix([[value for _ in right] for _ in left], columns=len(right))
        return SimilarityMatrix(metric=metric, weight=weight, matrix=table)


def measure(*metrics: Metric) -> CombinedMeasure:
    hooks = Hooks.load(plugin_directory=None, tables={}, built_in=())
    for number, metric in enumerate(metrics):
        hooks.manager.register(metric, name=f"metric{number}")
    return CombinedMeasure(hooks, no_embeddings)


def test_metrics_are_combined_by_weight_and_a_missing_one_drops_out() -> None:
    combined = measure(Metric("edit", 0.4, 1.0), Metric("bleu", 0.1, 0.5), Metric("embedding", 0.5, None))
    found = combined(["a", "b"], ["c"])
    assert (found.rows, found.columns) == (2, 1)
    assert found.values.tolist() == pytest.approx([0.9, 0.9])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_answers_no_number_is_named(value: float) -> None:
    """Else nothing would count as a near-duplicate of what is held out."""
    with pytest.raises(PluginFailed, match=r"the plugin edit failed .*no number"):
        measure(Metric("edit", 0.4, value), Metric("bleu", 0.1, 0.5))(["a"], ["b"])


def test_a_metric_of_other_texts_is_named() -> None:
    class Transposed(Metric):
        @hookimpl
        def nightschool_measure_similarity(
            self, left: Sequence[str], right: Sequence[str], embed: Embed
        ) -> SimilarityMatrix | None:
            return super().nightschool_measure_similarity(right, left, embed)

    with pytest.raises(PluginFailed, match="of 2 and 1 texts it answered 1 rows of 2"):
        measure(Transposed("edit", 0.4, 1.0))(["a", "b"], ["c"])


def test_without_any_metric_nothing_is_made_up() -> None:
    with pytest.raises(NoSimilarityError, match="similarity_edit"):
        measure()(["a"], ["b"])


def test_an_artifact_type_that_nobody_scores_is_an_error() -> None:
    hooks = Hooks.load(plugin_directory=None, tables={}, built_in=())
    with pytest.raises(ExamError, match="evaluation_text"):
        score_answer(hooks, CombinedMeasure(hooks, no_embeddings), FakeGenerate(), ITEMS[0], "ls")
