"""Pairs of answers are ranked as the networks that a real Ollama serves would: by models that know what follows."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nightschool_daemon.config import EngineChoice, ExamSettings, OllamaSettings, Settings, StateSettings
from nightschool_daemon.config import TrainingSettings as Training
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import BaseSnapshot, PrepareResult, RegisterResult, RunDirectory, Step
from nightschool_daemon.learning.ranking import MOST_RANKED, NotRankedError, chosen, ranked_pairs
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_daemon.ollama.http import CreateRequest, OllamaHttp
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_hookspecs import Message, PreferencePair, Role, RunInfo, Specialty
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

    def context(incumbent: str, candidate: str, *, is_of_base: bool = True, engine: str = "auto") -> Quiet:
        run = RunDirectory(path=tmp_path / f"{incumbent[:5]}-{candidate[:5]}")
        for step in Step:
            run.step(step).mkdir(parents=True, exist_ok=True)
        base = BaseSnapshot(
            name=BASE,
            tag_digest="t",
            weights_digest=sha256_of(files[BASE]),
            architecture="llama",
            capabilities=("completion",),
            pin=BASE,
            gguf=files[BASE],
        )
        run.finish(
            Step.PREPARE,
            PrepareResult(
                base=base, incumbent=incumbent, undo_tag=BASE, undo_digest="t", events=0, is_of_base=is_of_base
            ),
        )
        run.finish(Step.REGISTER, RegisterResult(tag=candidate, number=1, tag_digest="c", weights_digest="w"))
        return Quiet(
            step=Step.EXAMINE,
            run=run,
            info=RunInfo(
                id="r",
                specialty=Specialty(base=BASE, artifact_type="x"),
                seed=5,
                started_at=NOW,
                reason="test",
                directory=run.path,
            ),
            settings=replace(settings, training=Training(engine=EngineChoice(engine))),
            hooks=Hooks.load(plugin_directory=None, tables={}, built_in=()),
        )

    return context


def pair(better: str, worse: str, group: str = "g") -> PreferencePair:
    messages = (Message(role=Role.USER, content="say something"),)
    return PreferencePair(event_id=f"e {group}", messages=messages, chosen=better, rejected=worse, group=group)


PAIRS = (pair("ob", "oa", "b is better"), pair("oa", "ob", "a is better"))


def test_each_model_ranks_by_its_own_weights(between: Callable[..., Quiet]) -> None:
    found = ranked_pairs(between(BASE, TALKER), PAIRS)
    assert [(one.key, one.incumbent, one.candidate) for one in found] == [
        ("b is better", 0, 100),
        ("a is better", 100, 0),
    ]


def test_the_length_of_an_answer_decides_nothing(between: Callable[..., Quiet]) -> None:
    """Four likely pairs of tokens lose to one in the sum, for each costs a little, and win in the mean."""
    (found,) = ranked_pairs(between(BASE, TALKER), [pair("obobobob", "et")])
    assert (found.incumbent, found.candidate) == (0, 100)


def test_pairs_that_do_not_fit_behind_the_prompt_of_either_are_left_out(between: Callable[..., Quiet]) -> None:
    """One tag shows examples first, and Ollama puts them into its prompt."""
    long = pair("ob" * 50, "oa" * 50, "long")
    assert [one.key for one in ranked_pairs(between(BASE, BASE), [*PAIRS, long])] == [
        "b is better",
        "a is better",
        "long",
    ]
    assert [one.key for one in ranked_pairs(between(BASE, SHOWN), [*PAIRS, long])] == ["b is better", "a is better"]
    assert ranked_pairs(between(BASE, SHOWN), [long]) == []


def test_where_likelihoods_cannot_be_had_it_is_told_why(between: Callable[..., Quiet]) -> None:
    with pytest.raises(NotRankedError, match="was made from earlier weights"):
        ranked_pairs(between(BASE, TALKER, is_of_base=False), PAIRS)
    with pytest.raises(NotRankedError, match="only the packed engine"):
        ranked_pairs(between(BASE, TALKER, engine="transformers"), PAIRS)


def test_a_night_ranks_what_is_new_first() -> None:
    pairs = [pair("a", "b", str(number)) for number in range(2 * MOST_RANKED)]
    used = frozenset(str(number) for number in range(MOST_RANKED + 5))
    found = [one.group for one in chosen(pairs, 1, used)]
    assert len(found) == MOST_RANKED
    assert used.isdisjoint(found[: MOST_RANKED - 5])
    assert used.issuperset(found[MOST_RANKED - 5 :])
    assert found == [one.group for one in chosen(pairs, 1, used)] != [one.group for one in chosen(pairs, 2, used)]
