"""What a plan tells, by a worker's room in this process and a real server that stays as it was."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from nightschool_daemon import codec
from nightschool_daemon.config import (
    DeliverySettings,
    EngineChoice,
    OllamaSettings,
    PluginSettings,
    Settings,
    StateSettings,
    TrainingSettings,
)
from nightschool_daemon.display import plan_rows
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.jobs import EventRow, Job, RunDirectory, Step
from nightschool_daemon.learning import gguf_file, planning
from nightschool_daemon.learning.engine import fitting, machine, memory
from nightschool_daemon.learning.engine.network import Network
from nightschool_daemon.learning.gguf_file import GgufFile
from nightschool_daemon.learning.loading import Tokens, load_tokens
from nightschool_daemon.learning.peft_files import WEIGHTS
from nightschool_daemon.learning.worker import WorkerContext
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_daemon.plans import PlanRequest, Route, TrainingPlan
from nightschool_daemon.reasons import BY_HAND, OTHER_KIND
from nightschool_hookspecs.records import (
    DeliveryForm,
    Event,
    FeedbackType,
    MethodChoice,
    RunInfo,
    Specialty,
    TrainedForm,
    TrainingMethod,
)
from support.fault_proxy import FaultProxy
from support.night import import_tiny
from support.ollama_server import OllamaServer
from support.rewritten_gguf import rewritten
from support.tiny_architectures import write_tiny_architecture

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
BASE = "planned:1m"
SPECIALTY = Specialty(base=BASE, artifact_type="manual")

LORA: dict[str, dict[str, object]] = {"tuning_fixed": {"form": "lora"}}
ALONE: dict[str, dict[str, object]] = {"evaluation_split": {"folds": 0}}
"""Without trial candidates."""


class Desk:
    """Where plans are made."""

    def __init__(self, directory: Path, server: OllamaServer, gguf: Path) -> None:
        self.directory, self.server, self.gguf = directory, server, gguf
        self.settings = Settings(
            ollama=OllamaSettings(host=server.url, models_directory=server.models_directory),
            state=StateSettings(directory=directory / "state"),
            training=TrainingSettings(threads=1),
        )
        self.tables: dict[str, dict[str, object]] = {}
        self.plugins = PluginSettings()
        self.store: dict[str, str] = {}
        self.learned: Path | None = None
        self.known = 0
        """So many of the events, the first ones, the model in use has learned already."""

    def plan(
        self,
        method: MethodChoice = MethodChoice.SFT,
        events: list[Event] | None = None,
        gguf: Path | None = None,
        reason: str = "plan",
    ) -> TrainingPlan:
        """A plan as the worker leaves it."""
        run = RunDirectory(path=self.directory)
        for step in (Step.PREPARE, Job.PLAN):
            run.step(step).mkdir()
        file = gguf or self.gguf
        request = PlanRequest(
            base=BASE,
            weights_digest=sha256_of(file),
            gguf=file,
            method=method,
            system=None,
            loaded_bytes=0,
            has_events=events is not None,
            learned=self.learned,
        )
        (run.step(Job.PLAN) / "request.json").write_text(codec.to_json(request))
        rows = [
            EventRow(
                event=one,
                group=one.id,
                side=None,
                trained_on=number < self.known,
                inherited=number < self.known,
                arrival=number,
            )
            for number, one in enumerate(events or ())
        ]
        (run.step(Step.PREPARE) / "events.jsonl").write_text("".join(f"{codec.to_json(row)}\n" for row in rows))
        (run.step(Step.PREPARE) / "store.json").write_text(json.dumps(self.store))
        info = RunInfo(id="plan", specialty=SPECIALTY, seed=1, started_at=NOW, reason=reason, directory=self.directory)
        hooks = Hooks.load(plugin_directory=None, tables=self.tables, plugins=self.plugins)
        planning.run(WorkerContext(step=Job.PLAN, run=run, info=info, settings=self.settings, hooks=hooks))
        return run.result(Job.PLAN, TrainingPlan)


@pytest.fixture
def desk(tmp_path: Path, ollama: OllamaServer, tiny_gguf: Path) -> Desk:
    torch.set_num_threads(1)
    import_tiny(ollama, tiny_gguf, BASE)
    return Desk(tmp_path, ollama, tiny_gguf)


def corrections(count: int) -> list[Event]:
    return [
        Event(
            id=f"c-{number}",
            source="test",
            timestamp=NOW,
            artifact_type="manual",
            model=BASE,
            input_data=f"greet guest {number}",
            ai_output="go away",
            corrected_output="hello",
            feedback_type=FeedbackType.USER_CORRECTION,
        )
        for number in range(count)
    ]


def test_without_data_an_assumption_is_planned_for_and_told(desk: Desk) -> None:
    plan = desk.plan()
    assert plan.assumed is not None
    assert plan.assumed.startswith("100 examples of 128 tokens")
    assert (plan.events, plan.events_left_out) == (100, {})
    assert (plan.route, plan.problem, plan.architecture) == (Route.PACKED, None, "llama")
    (training,) = plan.trainings
    assert (training.examples, training.tokens, training.longest) == (100, 12_800, 128)
    assert "on the CPU" not in dict(plan_rows(plan))
    assert 0 < training.memory.peak_bytes <= training.memory.available_bytes
    assert training.memory.seconds > 0


def test_a_plan_unpacks_no_layers(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is for who trains. How many it would be is told nevertheless."""

    def refused(_network: Network, layers: int) -> None:
        raise AssertionError(f"{layers} layers would be unpacked")

    monkeypatch.setattr(Network, "keep_unpacked", refused)
    # after other tests this process is large, and leaves no room for what is unpacked
    monkeypatch.setattr(memory, "held_bytes", lambda _network: 0)
    plan = desk.plan()
    assert plan.problem is None
    assert plan.trainings[0].memory.unpacked == 2


def test_a_gpu_that_is_not_used_is_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = "The GPU that torch finds by Metal is not used: norms come out otherwise."
    monkeypatch.setattr(machine, "passed_over", lambda: sentence)
    assert ("on the CPU", sentence) in plan_rows(desk.plan())


def test_added_neurons_are_told_with_their_number(desk: Desk) -> None:
    plan = desk.plan()
    assert plan.trainings[0].hyperparameters.neurons == 64
    rows = dict(plan_rows(plan))
    assert rows["trained form"] == "64 added neurons a layer: 0.10 million parameters"


@pytest.mark.parametrize(("weights", "form"), [(True, TrainedForm.LORA), (False, TrainedForm.NEURONS)])
def test_what_has_learned_by_lora_is_planned_to_go_on_so(
    desk: Desk, tmp_path: Path, weights: bool, form: TrainedForm
) -> None:
    """What is gone is nothing to go on from."""
    desk.learned = tmp_path / "learned"
    desk.learned.mkdir()
    if weights:
        (desk.learned / WEIGHTS).touch()
    (training,) = desk.plan().trainings
    assert training.hyperparameters.form is form


def test_ollama_is_as_it_was(desk: Desk) -> None:
    before = desk.server.tags(), desk.server.blobs()
    desk.plan(events=corrections(20))
    assert (desk.server.tags(), desk.server.blobs()) == before


def test_no_model_is_asked_for_answers(desk: Desk) -> None:
    """A run would have the model in use answer these, to rank what it says."""
    desk.plugins = PluginSettings(enabled=("preference_pairs",))
    commands = [
        replace(one, artifact_type="shell", corrected_output="ls -a", ai_output="dir") for one in corrections(20)
    ]
    with FaultProxy(desk.server.url) as proxy:
        desk.settings = replace(desk.settings, ollama=replace(desk.settings.ollama, host=proxy.url))
        plan = desk.plan(MethodChoice.DPO, events=commands)
        assert proxy.count("POST", "/api/chat") == 0
    assert plan.trainings[0].examples == 20
    assert not (desk.settings.state_directory / "cache" / "answers").exists()


def test_events_are_divided_as_a_run_would(desk: Desk) -> None:
    plan = desk.plan(events=corrections(40))
    assert plan.assumed is None
    assert (plan.events, plan.held_out, plan.trainings[0].examples) == (40, 0, 40)
    assert (plan.folds, plan.folded, plan.asked) == (4, 40, 40)
    # greet guest 7, hello, and what stands around them: a character is a token
    assert 33 * len("greet guest 7hello") < plan.trainings[0].tokens < 33 * 100


def test_liked_answers_that_a_training_by_hand_is_measured_on_are_told(desk: Desk) -> None:
    liked = [
        replace(one, ai_output="hello", corrected_output=None, feedback_type=FeedbackType.EXPLICIT_POSITIVE)
        for one in corrections(120)
    ]
    plan = desk.plan(events=liked, reason=BY_HAND)
    assert (plan.events, plan.held_out, plan.is_examined) == (108, 12, False)
    assert "12 more kept apart to be measured on" in dict(plan_rows(plan))["learned from"]


@pytest.mark.parametrize(("reason", "is_kept"), [(BY_HAND, False), ("plan", True)])
def test_of_corrections_that_are_learned_by_hand_nothing_is_kept(desk: Desk, reason: str, is_kept: bool) -> None:
    desk.plan(events=corrections(20), reason=reason)
    assert (desk.settings.state_directory / "cache" / "corrections.json").exists() is is_kept


def test_what_is_learned_again_is_estimated_and_no_model_is_asked(desk: Desk) -> None:
    without = desk.plan(events=corrections(40)).trainings[0]
    for step in (Step.PREPARE, Job.PLAN):
        desk.directory.joinpath(step.value).rename(desk.directory / f"first-{step.value}")
    desk.plugins = PluginSettings(enabled=("replay_mixed",))
    desk.tables = {"replay_mixed": {"share": 0.2, "max_tokens": 40}}
    loaded = OllamaHttp(desk.settings.ollama).loaded()
    plan = desk.plan(events=corrections(40))
    assert (plan.events, plan.replayed, plan.trainings[0].examples) == (40, 10, 50)
    # half of the tokens that an answer may have, and what stands around question and answer
    assert 10 * 20 < plan.trainings[0].tokens - without.tokens < 10 * 300
    assert OllamaHttp(desk.settings.ollama).loaded() == loaded
    assert dict(plan_rows(plan))["learned again"].startswith("10 examples beside these, so that nothing is forgotten")


def test_what_is_learned_again_is_not_said_to_be_left_out(desk: Desk) -> None:
    desk.plugins = PluginSettings(enabled=("replay_mixed",))
    desk.tables = {"replay_mixed": {"share": 0.2}}
    desk.settings = replace(desk.settings, training=replace(desk.settings.training, max_events=20))
    desk.known = 40
    plan = desk.plan(events=corrections(40))
    assert (plan.events, plan.replayed) == (20, 5)
    # the others had no room in the lesson, and it is not said that they are of no use
    assert sum(plan.events_left_out.values()) < 20
    assert OTHER_KIND not in plan.events_left_out


def test_starter_examples_are_planned_for_and_are_no_events(desk: Desk) -> None:
    desk.plugins = PluginSettings(enabled=("training_starters",))
    plan = desk.plan(events=[replace(one, artifact_type="workflows") for one in corrections(15)])
    assert (plan.events, plan.starters, plan.trainings[0].examples) == (15, 5, 20)
    assert ("beside these", "5 starter examples, as there are few") in plan_rows(plan)


def test_preferences_on_top_of_wanted_answers_are_two_trainings(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[GgufFile] = []

    def noted(file: GgufFile, digest: str, cache: Path) -> Tokens:
        opened.append(file)
        return load_tokens(file, digest, cache)

    monkeypatch.setattr(planning, "load_tokens", noted)
    desk.tables = {"training_dpo": {"fewest_pairs": 10}}
    plan = desk.plan(MethodChoice.AUTO, events=corrections(40))
    assert [one.method for one in plan.trainings] == [TrainingMethod.SFT, TrainingMethod.DPO]
    assert plan.seconds == pytest.approx(sum(one.memory.seconds for one in plan.trainings))
    assert len(opened) == 1, "a large tokenizer takes a second to open"


@pytest.mark.parametrize("method", [MethodChoice.DPO, MethodChoice.KTO])
def test_other_methods_are_planned_without_data_too(desk: Desk, method: MethodChoice) -> None:
    plan = desk.plan(method)
    assert [one.method.value for one in plan.trainings] == [method.value]


def test_data_that_the_method_learns_nothing_from_are_told(desk: Desk) -> None:
    liked = [replace(one, corrected_output=None, feedback_type=FeedbackType.SUCCESS) for one in corrections(20)]
    plan = desk.plan(MethodChoice.DPO, events=liked)
    assert plan.problem is not None
    assert "no pair of a better and a worse answer" in plan.problem
    assert not plan.deliveries


@pytest.mark.parametrize(("method", "left_out"), [(MethodChoice.KTO, 0), (MethodChoice.SFT, 10)])
def test_disliked_answers_are_left_out_only_where_nothing_is_learned_from_them(
    desk: Desk, method: MethodChoice, left_out: int
) -> None:
    thumbs = [
        replace(one, corrected_output=None, feedback_type=kind)
        for number, one in enumerate(corrections(20))
        for kind in [FeedbackType.SUCCESS if number % 2 else FeedbackType.EXPLICIT_NEGATIVE]
    ]
    plan = desk.plan(method, events=thumbs)
    assert sum(plan.events_left_out.values()) == left_out
    assert plan.events + plan.asked + left_out == 20


def test_every_form_that_the_server_takes_has_its_cost(desk: Desk) -> None:
    desk.tables = LORA
    plan = desk.plan()
    costs = {one.form: one for one in plan.deliveries}
    assert set(costs) == {DeliveryForm.SPLIT, DeliveryForm.FUSED}
    split, fused = costs[DeliveryForm.SPLIT], costs[DeliveryForm.FUSED]
    assert (split.is_chosen, fused.is_chosen) == (True, False)
    assert split.least_bytes <= split.most_bytes
    assert split.least_bytes + split.shared_bytes == fused.least_bytes == desk.gguf.stat().st_size
    reason = "To a tiny one it said: LoRA adapters are no longer supported."
    assert plan.not_delivered == (f"Ollama 0.34.3 takes no LoRA adapters. {reason}",)


def test_a_budget_that_nothing_fits_is_told(desk: Desk) -> None:
    desk.settings = replace(desk.settings, delivery=DeliverySettings(max_version_mb=0.01))
    plan = desk.plan()
    assert plan.delivery is None
    assert plan.delivery_problem is not None
    assert plan.delivery_problem.startswith("A version may cost 0.01 MB (delivery.max_version_mb)")


def test_a_training_that_does_not_fit_says_what_to_change(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda _network: 1000)
    plan = desk.plan()
    assert plan.problem is not None
    assert plan.problem.startswith("An example of 128 tokens needs")
    assert "Lower max_length" in plan.problem
    assert not plan.trainings


def test_layers_that_are_left_out_cost_nothing_in_a_version(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.tables = LORA
    whole, fitted = desk.plan(), fitting.fitted
    for step in (Step.PREPARE, Job.PLAN):
        desk.directory.joinpath(step.value).rename(desk.directory / f"first-{step.value}")
    monkeypatch.setattr(
        fitting, "fitted", lambda *given: replace(fitted(*given, available=10**12), trained_from=1, checkpointed=1)
    )
    upper = desk.plan()
    assert upper.delivery is not None
    assert whole.delivery is not None
    header = gguf_file.read(desk.gguf).header_bytes
    assert (upper.delivery.least_bytes - header) * 2 == whole.delivery.least_bytes - header
    assert upper.trainings[0].parameters * 2 == whole.trainings[0].parameters


def test_a_search_is_told_and_nothing_is_tried_out(desk: Desk) -> None:
    desk.plugins = PluginSettings(enabled=("tuning_optuna",))
    desk.tables = {**ALONE, "tuning_optuna": {"fewest_examples": 40}}
    plan = desk.plan(events=corrections(40))
    assert plan.search is not None
    assert (plan.search.trials, plan.search.seconds) == (50, 3600)
    assert ("search", plan.search.reason) in plan_rows(plan)
    assert "at most 50 trainings on a part of the 40 examples, within 60 min" in plan.search.reason
    assert not list(desk.directory.rglob("journal.log"))


@pytest.mark.parametrize("method", [MethodChoice.SFT, MethodChoice.DPO])
def test_few_examples_and_pairs_are_planned_without_a_search(desk: Desk, method: MethodChoice) -> None:
    desk.plugins = PluginSettings(enabled=("tuning_optuna",))
    desk.tables = {**ALONE, "tuning_optuna": {"fewest_examples": 41 if method is MethodChoice.SFT else 1}}
    plan = desk.plan(method, events=corrections(40))
    assert (plan.search, plan.problem) == (None, None)
    assert not any(name == "search" for name, _ in plan_rows(plan))


def test_what_trial_candidates_would_be_asked_is_planned_without_a_search(desk: Desk) -> None:
    desk.plugins = PluginSettings(enabled=("tuning_optuna",))
    desk.tables = {"tuning_optuna": {"fewest_examples": 40}}
    plan = desk.plan(events=corrections(40))
    assert plan.folds == 4
    assert plan.search is None


def test_what_a_search_found_is_planned_with(desk: Desk) -> None:
    desk.plugins = PluginSettings(enabled=("tuning_optuna",))
    desk.tables = {**LORA, **ALONE, "tuning_optuna": {"fewest_examples": 40}}
    given = desk.plan(events=corrections(40)).trainings[0].hyperparameters
    beside = {"base": sha256_of(desk.gguf), "form": "lora", "layers": [], "max_length": given.max_length}
    desk.store = {"tuning_optuna": json.dumps({"events": 30, "beside": beside, "values": {"lora_r": 5}})}
    for step in (Step.PREPARE, Job.PLAN):
        desk.directory.joinpath(step.value).rename(desk.directory / f"first-{step.value}")
    plan = desk.plan(events=corrections(40))
    assert plan.search is not None
    assert plan.search.reason == "Taken is what a search found when there were 30 events: lora_r 5."
    assert plan.trainings[0].hyperparameters.lora_r == 5


def test_models_with_experts_are_refused(desk: Desk, tmp_path: Path) -> None:
    plan = desk.plan(gguf=write_tiny_architecture(tmp_path / "moe.gguf", "qwen3moe"))
    assert (plan.route, plan.trainings) == (None, ())
    assert plan.problem is not None
    assert plan.problem.startswith("Models with experts (MoE), as this qwen3moe, cannot be trained.")


def test_an_architecture_that_nothing_trains_is_refused(desk: Desk, tmp_path: Path) -> None:
    plan = desk.plan(gguf=rewritten(desk.gguf, tmp_path / "foobar.gguf", keys={"general.architecture": "foobar"}))
    assert (plan.route, plan.trainings, plan.deliveries) == (None, (), ())
    assert plan.problem is not None
    assert "trains a base of the architecture 'foobar'" in plan.problem


def test_a_damaged_base_is_told_and_no_plugin_is_blamed(desk: Desk, tmp_path: Path) -> None:
    content = bytearray(desk.gguf.read_bytes())
    damaged = gguf_file.read(desk.gguf).tensors["blk.1.ffn_gate.weight"]
    # scales of blocks, and numbers of floats, that are none
    content[damaged.start : damaged.start + damaged.bytes] = b"\xff" * damaged.bytes
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    plan = desk.plan(gguf=path)
    assert plan.problem is not None
    assert plan.problem.endswith("so the base is damaged. Remove the model and pull it again.")


def test_the_route_by_transformers_is_told_and_rough(desk: Desk) -> None:
    desk.settings = replace(desk.settings, training=TrainingSettings(threads=1, engine=EngineChoice.TRANSFORMERS))
    plan = desk.plan()
    assert plan.route is Route.TRANSFORMERS
    (training,) = plan.trainings
    assert training.memory.is_rough
    assert training.memory.peak_bytes > 4 * plan.parameters
    assert plan.delivery is not None


@pytest.mark.parametrize("limit", ["free_memory", "_left_in_group", "_left_in_limit"])
def test_that_route_says_when_its_weights_do_not_fit(desk: Desk, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """The machine's memory, `MemoryMax=` or `ulimit -v` is short."""
    desk.settings = replace(desk.settings, training=TrainingSettings(threads=1, engine=EngineChoice.TRANSFORMERS))
    monkeypatch.setattr(memory, limit, lambda *_: 0)
    # what the process itself holds counts as had, and after other tests it holds much
    monkeypatch.setattr(memory, "resident_bytes", lambda: 0)
    plan = desk.plan()
    assert plan.problem is not None
    assert plan.problem.startswith("Through transformers this base needs about")


def test_the_same_parameters_are_trained_as_planned(desk: Desk) -> None:
    """The rule of thumb counts what the engine makes."""
    desk.tables = LORA
    packed = desk.plan()
    for step in (Step.PREPARE, Job.PLAN):
        desk.directory.joinpath(step.value).rename(desk.directory / f"first-{step.value}")
    desk.settings = replace(desk.settings, training=TrainingSettings(threads=1, engine=EngineChoice.TRANSFORMERS))
    assert desk.plan().trainings[0].parameters == packed.trainings[0].parameters
