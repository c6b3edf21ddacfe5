"""The step `select` has the incumbent asked on a real server: what is learned from, once, and kept."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nightschool_daemon import codec
from nightschool_daemon.config import (
    EmbeddingSource,
    ExamSettings,
    OllamaSettings,
    PluginSettings,
    Settings,
    SimilaritySettings,
    StateSettings,
    TrainingSettings,
)
from nightschool_daemon.evaluation.local_model import pinned_options
from nightschool_daemon.evaluation.similarity import CombinedMeasure, no_embeddings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import (
    BaseSnapshot,
    EventRow,
    PrepareResult,
    PromptRow,
    RunDirectory,
    SelectResult,
    SplitResult,
    Step,
    read_lines,
    write_lines,
)
from nightschool_daemon.learning import dataset
from nightschool_daemon.learning.kept_answers import KeptAnswers
from nightschool_daemon.learning.sampling import KeptSample
from nightschool_daemon.learning.worker import WorkerContext, open_context
from nightschool_daemon.ollama.errors import OllamaUnreachable
from nightschool_daemon.ollama.http import CreateRequest, OllamaHttp
from nightschool_daemon.ollama.library import ChatAnswer, OllamaLibrary, PinnedOptions
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_daemon.reasons import REBUILD
from nightschool_hookspecs import (
    AnswerScore,
    Event,
    ExamItem,
    FeedbackType,
    ItemRole,
    Message,
    MethodChoice,
    Role,
    RunInfo,
    Side,
    Specialty,
)
from nightschool_hookspecs.records import PairText
from nightschool_plugins.preference_pairs import PreferencePairs
from support.base_models import CACHE, MODELS
from support.fault_proxy import FaultProxy
from support.night import import_base
from support.ollama_server import OllamaServer
from support.tiny_gguf import write_scripted_gguf

NOW = datetime(2026, 1, 2, tzinfo=UTC)
BASE, INCUMBENT = "sampled-base:1m", "sampled-incumbent:1m"
PLAIN = (
    '{{ range .Messages }}{{ if eq .Role "assistant" }}{{ .Content }}<|im_end|>'
    "{{ else }}<|im_start|>{{ .Content }}{{ end }}{{ end }}"
)
"""The last letter of a prompt is that of its question, by which scripted models know what to say."""
SAYS = {"a": "ls src", "b": "wc -l notes", "c": "ls -R src"}
WANTED = {"list all of a": "ls -a src", "count the lines of b": "wc -l notes", "show the files of c": "ls -l src"}
"""What "b" asks is answered right."""
KEPT_ASIDE = "kept aside for a"
SETTINGS = Settings(
    exam=ExamSettings(context_tokens=512),
    similarity=SimilaritySettings(embedding=EmbeddingSource.NONE),
    training=TrainingSettings(method=MethodChoice.AUTO, threads=1),
    plugins=PluginSettings(enabled=("preference_pairs",)),
)


@dataclass(frozen=True, kw_only=True)
class Watched(WorkerContext):
    """A worker's context without its process, in which something happens before a question."""

    before: Callable[[str], None]
    said: list[str] = field(default_factory=list)

    def progress(self, done: int, total: int, text: str) -> None:
        assert 0 <= done <= total
        self.before(text)

    def note(self, text: str) -> None:
        self.said.append(text)


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A run that is about to select, and the server that it asks."""

    run: RunDirectory
    server: OllamaServer
    proxy: FaultProxy

    def asked(self) -> list[str]:
        """The questions that the incumbent was to answer, in order."""
        bodies = [
            codec.from_json(one.body, dict[str, object]) for one in self.proxy.requests if one.path == "/api/chat"
        ]
        return [
            str(one["messages"][-1]["content"])  # type: ignore[index]  # as Ollama takes it
            for one in bodies
            if one["model"] == INCUMBENT and "_debug_render_only" not in one
        ]

    def select_in_a_worker(self) -> SelectResult:
        """The step, in a process of its own."""
        self.run.begin(Step.SELECT)
        command = [sys.executable, "-m", "nightschool_daemon.learning", "select", str(self.run.path)]
        done = subprocess.run([*command, "--parent", str(os.getpid())], capture_output=True, timeout=500, check=False)
        assert done.returncode == 0, (self.run.step(Step.SELECT) / "failure.json").read_text()
        return self.run.result(Step.SELECT, SelectResult)

    def select(self) -> SelectResult:
        """The same in this process."""
        self.run.begin(Step.SELECT)
        dataset.run(self.context())
        return self.run.result(Step.SELECT, SelectResult)

    def context(self, before: Callable[[str], None] = lambda _: None) -> Watched:
        """What the step works with."""
        own = open_context(Step.SELECT, self.run)
        return Watched(step=own.step, run=own.run, info=own.info, settings=own.settings, hooks=own.hooks, before=before)

    def pairs(self) -> set[tuple[str, str, str, float]]:
        """What is learned from."""
        read = read_lines(self.run.step(Step.SELECT) / "pairs.jsonl", PairText)
        return {(one.event_id, one.chosen, one.rejected, one.margin) for one in read}


def event(identifier: str, prompt: str, wanted: str) -> Event:
    return Event(
        id=identifier,
        timestamp=NOW,
        feedback_type=FeedbackType.USER_CORRECTION,
        input_data=prompt,
        artifact_type="shell",
        ai_output="older answer",
        corrected_output=wanted,
    )


def lay_out(run: RunDirectory, settings: Settings, gguf: Path, held_out: Sequence[str]) -> None:
    """The steps before, as they would have been taken."""
    for step in (Step.PREPARE, Step.SPLIT):
        run.step(step).mkdir(parents=True)
    events = [event(str(number), prompt, wanted) for number, (prompt, wanted) in enumerate(WANTED.items())]
    events.append(event("held", KEPT_ASIDE, "ls -a"))
    rows = [
        EventRow(event=one, group=one.id, side=None, trained_on=False, arrival=number)
        for number, one in enumerate(events)
    ]
    write_lines(run.step(Step.PREPARE) / "events.jsonl", rows)
    prompts = [PromptRow(key=one.key, text=one.input_data, placed=False, group=one.id, side=None) for one in events]
    write_lines(run.step(Step.PREPARE) / "prompts.jsonl", prompts)
    snapshot = BaseSnapshot(
        name=BASE,
        tag_digest="t",
        weights_digest=sha256_of(gguf),
        architecture="llama",
        capabilities=("completion",),
        pin=BASE,
        gguf=gguf,
    )
    run.finish(
        Step.PREPARE,
        PrepareResult(
            base=snapshot,
            incumbent=INCUMBENT,
            incumbent_digest="0123",
            undo_tag=BASE,
            undo_digest="t",
            events=len(rows),
        ),
    )
    sides = {one.id: Side.HELD_OUT if one.id in held_out else Side.TRAINING for one in events}
    run.finish(Step.SPLIT, SplitResult(choices=(), training_events=3, held_out_events=1, sides=sides))
    info = RunInfo(
        id="r",
        specialty=Specialty(base=BASE, artifact_type="shell"),
        seed=5,
        started_at=NOW,
        reason="test",
        directory=run.path,
    )
    run.info.write_text(codec.to_json(info), encoding="utf-8")
    run.settings.write_text(codec.to_json(settings), encoding="utf-8")


@pytest.fixture
def shop(fresh_ollama: OllamaServer, tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    """Lays out a run whose base and incumbent say different things. Another of the same state has another name."""
    http = OllamaHttp(OllamaSettings(host=fresh_ollama.url))
    files = {
        BASE: write_scripted_gguf(tmp_path / "base.gguf", {letter: f"nothing of {letter}" for letter in SAYS}),
        INCUMBENT: write_scripted_gguf(tmp_path / "incumbent.gguf", SAYS),
    }
    for name, file in files.items():
        http.upload_blob(file, sha256_of(file))
        http.create(CreateRequest(model=name, files={"model.gguf": sha256_of(file)}, template=PLAIN))
    http.close()
    with FaultProxy(fresh_ollama.url) as proxy:

        def lay(name: str = "run", held_out: Sequence[str] = ("held",), **training: object) -> Shop:
            settings = replace(
                SETTINGS,
                ollama=OllamaSettings(host=proxy.url, models_directory=fresh_ollama.models_directory),
                state=StateSettings(directory=tmp_path / "state"),
                training=replace(SETTINGS.training, **training),  # type: ignore[arg-type]  # as each test names them
            )
            run = RunDirectory(path=tmp_path / name)
            lay_out(run, settings, files[BASE], held_out)
            return Shop(run=run, server=fresh_ollama, proxy=proxy)

        yield lay


EXPECTED = {("dropdir/0", "ls src"), ("dropdir/2", "ls -R src")}
"""Of which prompts the incumbent says something wrong, and what."""


def sampled(pairs: set[tuple[str, str, str, float]], closing: str) -> set[tuple[str, str]]:
    return {
        (event_id, rejected.removesuffix(closing))
        for event_id, chosen, rejected, margin in pairs
        if rejected != f"older answer{closing}" and 0.1 < margin <= 1 and chosen.endswith(closing)
    }


def test_the_incumbent_is_asked_once_and_what_it_says_wrongly_is_learned_as_worse(shop: Callable[..., Shop]) -> None:
    own = shop()
    found = own.select_in_a_worker()
    assert found.sampled == 2
    assert found.material.pairs == 2 + len(WANTED)
    assert sampled(own.pairs(), found.closing) == EXPECTED
    asked = own.asked()
    assert sorted(asked) == sorted(prompt for prompt in WANTED for _ in range(4))
    before = own.pairs()

    # the step is taken again
    assert own.select() == found
    assert own.pairs() == before
    # and another night, with one prompt on the other side: of what was asked, no more is learned than may be
    later = shop("later", held_out=("held", "0"))
    found = later.select()
    assert sampled(later.pairs(), found.closing) == {("dropdir/2", "ls -R src")}
    assert own.asked() == asked
    assert not any(KEPT_ASIDE in one.body.decode() for one in own.proxy.requests if b"_debug" not in one.body)


def test_trial_candidates_and_rebuilds_learn_from_what_was_asked_for_the_candidate(shop: Callable[..., Shop]) -> None:
    trial = shop("run/crossfit/01")
    assert trial.run.is_trial
    assert trial.select().sampled == 0
    assert trial.asked() == []
    whole = shop("whole", held_out=("held", "2"))
    whole.select()
    asked = whole.asked()
    found = trial.select()
    assert sampled(trial.pairs(), found.closing) == {("dropdir/0", "ls src")}
    rebuilt = shop("rebuilt")
    info = rebuilt.run.read_info()
    rebuilt.run.info.write_text(codec.to_json(replace(info, reason=REBUILD)), encoding="utf-8")
    assert rebuilt.select().sampled == 1
    assert whole.asked() == asked


def test_who_learns_from_no_pairs_asks_for_none_and_is_told_so(shop: Callable[..., Shop]) -> None:
    own = shop(method=MethodChoice.SFT)
    own.run.begin(Step.SELECT)
    context = own.context()
    dataset.run(context)
    assert own.run.result(Step.SELECT, SelectResult).sampled == 0
    assert own.asked() == []
    assert context.said == [
        f'{INCUMBENT} is asked for no answers: training.method is "sft", and only "auto" and "dpo" learn from pairs.'
    ]


def test_a_server_that_goes_away_loses_no_answer_and_the_step_is_repeated_when_it_is_back(
    shop: Callable[..., Shop],
) -> None:
    own = shop()
    own.run.begin(Step.SELECT)

    def goes_away(text: str) -> None:
        if "answer 6 of" in text:
            own.server.kill()

    context = own.context(goes_away)
    with pytest.raises(OllamaUnreachable):
        dataset.run(context)
    (file,) = (context.settings.state_directory / "cache" / "answers").iterdir()
    kept = file.read_text().splitlines()
    assert len(kept) == 5

    own.server.start()
    own.proxy.requests.clear()
    found = own.select()
    assert len(own.asked()) == 4 * len(WANTED) - 5
    assert file.read_text().splitlines()[:5] == kept
    assert sampled(own.pairs(), found.closing) == EXPECTED


# --------------------------------------------------------------------------- a real small model


@dataclass(frozen=True, kw_only=True)
class Silent:
    def progress(self, done: int, total: int, text: str, /) -> None:
        assert 0 <= done < total

    def note(self, text: str, /) -> None: ...


def test_whatever_a_real_model_says_is_ranked_by_a_real_validator(ollama: OllamaServer, tmp_path: Path) -> None:
    file = CACHE / "smollm2.gguf"
    if not file.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        MODELS["smollm2"].fetch(file)
    import_base(ollama, MODELS["smollm2"], file)
    library = OllamaLibrary(OllamaSettings(host=ollama.url))
    hooks = Hooks.load(
        plugin_directory=None, tables={}, built_in=("similarity_edit", "similarity_bleu", "evaluation_shell")
    )
    measure = CombinedMeasure(hooks, no_embeddings)
    said: list[ChatAnswer] = []

    def ask(messages: tuple[Message, ...], options: PinnedOptions) -> ChatAnswer:
        answer = library.chat(MODELS["smollm2"].tag, messages, options)
        said.append(answer)
        return answer

    def validate(item: ExamItem, answer: str) -> AnswerScore | None:
        return hooks.validate_answer(item=item, answer=answer, measure=measure, generate=_asks_nobody)

    exam = ExamSettings(context_tokens=512)
    sample = KeptSample(KeptAnswers(tmp_path, "smollm2", ask), name="smollm2", exam=exam, listener=Silent())
    item = ExamItem(
        id="s/1",
        event_id="s/1",
        artifact_type="shell",
        role=ItemRole.GAIN,
        messages=(Message(role=Role.USER, content="Which command lists files? One word."),),
        reference="ls -a",
    )
    plugin = PreferencePairs(samples=2, max_tokens=48)
    pairs = plugin.nightschool_build_sampled_pairs((item,), sample, validate, 1)
    whole = [one.text for one in said if one.done_reason == "stop"]
    scores = {one: found.score for one in ("ls -a", *whole) if (found := validate(item, one)) is not None}
    assert {one.rejected for one in pairs if one.chosen == "ls -a"} == {one for one in whole if scores[one] < 90}
    for pair in pairs:
        assert pair.margin == (scores[pair.chosen] - scores[pair.rejected]) / 100 > 0.1
    asked = len(said)
    assert plugin.nightschool_build_sampled_pairs((item,), sample, validate, 2) == pairs
    assert len(said) == asked <= 2
    # at this temperature it says other things to another seed
    hot = replace(pinned_options(exam, 1), temperature=0.8, num_predict=16)
    other = [library.chat(MODELS["smollm2"].tag, item.messages, replace(hot, seed=seed)).text for seed in range(3)]
    assert len(set(other)) > 1


def _asks_nobody(messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int) -> str:
    raise AssertionError
