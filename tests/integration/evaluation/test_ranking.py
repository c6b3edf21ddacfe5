"""Pairs of answers are ranked as the networks that a real Ollama serves would: by models that know what follows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from nightschool_daemon.config import EngineChoice, ExamSettings, OllamaSettings, Settings, StateSettings
from nightschool_daemon.config import TrainingSettings as Training
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import (
    HELD_OUT_PAIRS,
    BaseSnapshot,
    PrepareResult,
    RankResult,
    RegisterResult,
    RunDirectory,
    Step,
    read_lines,
    write_lines,
)
from nightschool_daemon.learning import gguf_file, ranking
from nightschool_daemon.learning.ranking import Margin, rank
from nightschool_daemon.learning.served import why_not_computed
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_daemon.ollama.http import CreateRequest, OllamaHttp
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_hookspecs import Message, PreferencePair, RankedPair, Role, RunInfo, Specialty
from support.ollama_server import OllamaServer
from support.tiny_gguf import TURN, write_ending_gguf

BASE, TALKER, SHOWN = "silent:latest", "talker:latest", "shown:latest"
NOW = datetime(2026, 1, 2, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Quiet(WorkerContext):
    """A worker's context without its process."""

    noted: list[str] = field(default_factory=list)

    def progress(self, done: int, total: int, text: str) -> None:
        assert 0 <= done <= total
        assert text

    def note(self, text: str) -> None:
        self.noted.append(text)


@pytest.fixture
def between(fresh_ollama: OllamaServer, tmp_path: Path) -> Callable[..., Quiet]:
    """A context of an exam between two tags: of a base that finds an "a" behind an "o", one that finds a "b" there."""
    files = {
        name: write_ending_gguf(tmp_path / f"{name[:5]}.gguf", end=end, end_of_text=TURN[-1])
        for name, end in ((BASE, "a"), (TALKER, "b"))
    }
    http = OllamaHttp(OllamaSettings(host=fresh_ollama.url))
    for name, file in files.items():
        http.upload_blob(file, sha256_of(file))
        http.create(CreateRequest(model=name, files={"model.gguf": sha256_of(file)}))
    http.create(
        CreateRequest(
            model=SHOWN,
            from_model=BASE,
            messages=(Message(role=Role.USER, content="x" * 400), Message(role=Role.ASSISTANT, content="y")),
        )
    )
    http.close()
    settings = Settings(
        ollama=OllamaSettings(host=fresh_ollama.url, models_directory=fresh_ollama.models_directory),
        state=StateSettings(directory=tmp_path / "state"),
        exam=ExamSettings(context_tokens=512),
    )

    def context(incumbent: str, candidate: str, *, base: str = BASE) -> Quiet:
        """`base`: of the candidate; the incumbent was made from BASE."""
        run = RunDirectory(path=tmp_path / f"{incumbent[:5]}-{candidate[:5]}")
        for step in Step:
            run.step(step).mkdir(parents=True, exist_ok=True)
        blobs = {
            name: fresh_ollama.models_directory / "blobs" / f"sha256-{sha256_of(file)}" for name, file in files.items()
        }
        snapshot = BaseSnapshot(
            name=base,
            tag_digest="t",
            weights_digest=sha256_of(files[base]),
            architecture="llama",
            capabilities=("completion",),
            pin=base,
            gguf=blobs[base],
        )
        run.finish(
            Step.PREPARE,
            PrepareResult(
                base=snapshot,
                incumbent=incumbent,
                undo_tag=BASE,
                undo_digest="t",
                events=0,
                incumbent_base=blobs[BASE],
            ),
        )
        run.finish(Step.REGISTER, RegisterResult(tag=candidate, number=1, tag_digest="c", weights_digest="w"))
        return Quiet(
            step=Step.RANK,
            run=run,
            info=RunInfo(
                id="r",
                specialty=Specialty(base=BASE, artifact_type="x"),
                seed=5,
                started_at=NOW,
                reason="test",
                directory=run.path,
            ),
            settings=settings,
            hooks=Hooks.load(plugin_directory=None, tables={}, built_in=()),
        )

    return context


def pair(better: str, worse: str, group: str = "g") -> PreferencePair:
    messages = (Message(role=Role.USER, content="say something"),)
    return PreferencePair(event_id=f"e {group}", messages=messages, chosen=better, rejected=worse, group=group)


PAIRS = (pair("ob", "oa", "b is better"), pair("oa", "ob", "a is better"))


def ranked(context: Quiet, pairs: Sequence[PreferencePair]) -> list[RankedPair]:
    return rank(context, pairs, partial(ranking.of_run, context))


def signs(context: Quiet, pairs: Sequence[PreferencePair]) -> dict[str, tuple[bool, bool]]:
    """Whether incumbent and candidate rank each pair right."""
    return {one.key: (one.incumbent > 0, one.candidate > 0) for one in ranked(context, pairs)}


def test_each_model_ranks_by_its_own_weights(between: Callable[..., Quiet]) -> None:
    assert signs(between(BASE, TALKER), PAIRS) == {"b is better": (False, True), "a is better": (True, False)}


def test_an_incumbent_of_an_earlier_base_ranks_by_that(between: Callable[..., Quiet]) -> None:
    found = signs(between(BASE, TALKER, base=TALKER), PAIRS)
    assert found == {"b is better": (False, True), "a is better": (True, False)}


def test_the_length_of_an_answer_decides_nothing(between: Callable[..., Quiet]) -> None:
    """Four likely pairs of tokens lose to one in the sum, for each costs a little, and win in the mean."""
    assert signs(between(BASE, TALKER), [pair("obobobob", "et")]) == {"g": (False, True)}


def test_pairs_that_do_not_fit_behind_the_prompt_of_either_are_left_out(between: Callable[..., Quiet]) -> None:
    """One tag shows examples first, and Ollama puts them into its prompt."""
    long = pair("ob" * 50, "oa" * 50, "long")
    assert set(signs(between(BASE, BASE), [*PAIRS, long])) == {"b is better", "a is better", "long"}
    assert set(signs(between(BASE, SHOWN), [*PAIRS, long])) == {"b is better", "a is better"}
    assert ranked(between(BASE, SHOWN), [long]) == []


def test_a_killed_step_goes_on_where_it_stopped(between: Callable[..., Quiet], monkeypatch: pytest.MonkeyPatch) -> None:
    context = between(BASE, TALKER)
    write_lines(context.run.step(Step.SELECT) / HELD_OUT_PAIRS, PAIRS)
    asked = 0
    real = ranking.margin_of

    def killed(*given: object) -> float:
        nonlocal asked
        asked += 1
        if asked == 4:
            raise KeyboardInterrupt
        return real(*given)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(ranking, "margin_of", killed)
    with pytest.raises(KeyboardInterrupt):
        ranking.run(context)
    assert context.run.ranked_pairs() == ()
    file = context.run.step(Step.RANK) / ranking.MARGINS
    kept = read_lines(file, Margin)
    assert len(list(kept)) == 3
    # and half of a line that did not get to the disk
    file.write_bytes(file.read_bytes() + b'{"signature": "')

    ranking.run(context)
    assert asked == 5
    assert context.run.result(Step.RANK, RankResult) == RankResult(ranked=2, left_out=0)
    assert len(context.run.ranked_pairs()) == 2
    assert context.noted == []


def test_a_base_that_is_gone_is_told(between: Callable[..., Quiet]) -> None:
    context = between(BASE, TALKER)
    write_lines(context.run.step(Step.SELECT) / HELD_OUT_PAIRS, PAIRS)
    prepared = context.run.result(Step.PREPARE, PrepareResult)
    context.run.finish(Step.PREPARE, replace(prepared, incumbent_base=None))
    ranking.run(context)
    assert context.run.result(Step.RANK, RankResult) == RankResult(ranked=0, left_out=2)
    assert context.noted == [
        f"2 held-out pairs of answers were not ranked. The base that {BASE} was made from is gone."
    ]


def test_only_what_the_packed_engine_computes_is_ranked(between: Callable[..., Quiet]) -> None:
    context = between(BASE, TALKER)
    base = gguf_file.read(context.run.result(Step.PREPARE, PrepareResult).base.gguf)
    assert why_not_computed(context.settings, base) is None
    other = replace(context.settings, training=Training(engine=EngineChoice.TRANSFORMERS))
    assert why_not_computed(other, base) is not None
