"""The guards that ask, on a real Ollama: models that know their answers by heart, and larger ones that are slower."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from nightschool_daemon.config import ExamSettings, OllamaSettings, Settings
from nightschool_daemon.evaluation.earlier_answers import EarlierAnswers
from nightschool_daemon.evaluation.exam_models import ExamModels
from nightschool_daemon.evaluation.similarity import CombinedMeasure, no_embeddings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.ollama.http import CreateRequest, OllamaHttp
from nightschool_daemon.ollama.storage import sha256_of
from nightschool_hookspecs import (
    Exam,
    GenerationError,
    GuardResult,
    Message,
    ModelAnswer,
    ModelMemory,
    OutOfTime,
    Role,
    Sitting,
)
from nightschool_hookspecs.testing import sample_exam
from nightschool_plugins.guard_capabilities import TOOLS, GuardCapabilities
from nightschool_plugins.guard_general import GuardGeneral
from nightschool_plugins.guard_latency import GuardLatency
from nightschool_plugins.guard_memory import GuardMemory
from support.fault_proxy import FaultProxy, answers
from support.night import import_tiny
from support.ollama_server import OllamaServer
from support.tiny_gguf import write_scripted_gguf, write_tiny_gguf

TEMPLATE = (
    "{{ range .Tools }}{{ .Function.Name }}\n{{ end }}{{ range .Messages }}<|im_start|>{{ .Role }}\n"
    "{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}"
    '{{ if .ToolCalls }}<tool_call>{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", '
    '"arguments": {{ .Function.Arguments }}}{{ end }}</tool_call>{{ end }}<|im_end|>\n{{ end }}'
    "<|im_start|>assistant\n{{ if .Think }}?{{ else }}!{{ end }}"
)
"""Ends with `?` where thought is wanted, else with `!`."""
PLAIN = "{{ range .Messages }}{{ .Content }}{{ end }}"
CALL = '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>'
ABLE = {"?": "<think>Let me see.</think>It is so.", "!": CALL}
TALKS = {"?": "It is so.", "!": "It rains in Paris."}
KNOWS = {
    "?": "Paris, Tokyo, Africa, Earth, yellow, Shakespeare, H2O, 100, children, bonjour, dog, Wednesday",
    ".": "yes",
}
QUESTION = (Message(role=Role.USER, content="Are you there?"),)


def settings(url: str, **exam: float) -> Settings:
    return Settings(
        ollama=OllamaSettings(host=url),
        exam=replace(ExamSettings(context_tokens=512), **exam),  # type: ignore[arg-type]
    )


def scripted(server: OllamaServer, directory: Path, name: str, script: Mapping[str, str], template: str) -> str:
    gguf = write_scripted_gguf(directory / f"{name}.gguf", script)
    http, digest = OllamaHttp(OllamaSettings(host=server.url)), sha256_of(gguf)
    http.upload_blob(gguf, digest)
    http.create(CreateRequest(model=f"{name}:1m", files={"tiny.gguf": digest}, template=template))
    http.close()
    return f"{name}:1m"


def exam(incumbent: str, candidate: str) -> Exam:
    return replace(sample_exam(), incumbent=incumbent, candidate=candidate)


def found(result: GuardResult | None) -> tuple[bool, str]:
    assert result is not None
    return result.held, result.reason


def test_tools_and_thinking_are_tried_for_real(ollama: OllamaServer, tmp_path: Path) -> None:
    able = scripted(ollama, tmp_path, "able", ABLE, TEMPLATE)
    models, guard = ExamModels(settings(ollama.url)), GuardCapabilities()
    assert set(models.capabilities(able)) == {"completion", "tools", "thinking"}

    assert found(guard.nightschool_guard_promotion(exam(able, able), 1, models)) == (
        True,
        "The candidate's tag lists all of completion, thinking, tools. "
        "The incumbent gave a well-formed tool call in 4 of 4 tries, and the candidate at least once. "
        "The incumbent thought before it answered in 3 of 3 tries, and the candidate at least once.",
    )
    no_calls = scripted(ollama, tmp_path, "no-calls", {**ABLE, "!": TALKS["!"]}, TEMPLATE)
    assert found(guard.nightschool_guard_promotion(exam(able, no_calls), 1, models)) == (
        False,
        "The incumbent gave a well-formed tool call in 4 of 4 tries, the candidate in none of these.",
    )
    no_thought = scripted(ollama, tmp_path, "no-thought", {**ABLE, "?": TALKS["?"]}, TEMPLATE)
    assert found(guard.nightschool_guard_promotion(exam(able, no_thought), 1, models)) == (
        False,
        "The incumbent thought before it answered in 3 of 3 tries, the candidate in none of these.",
    )
    plain = scripted(ollama, tmp_path, "plain", ABLE, PLAIN)
    assert found(guard.nightschool_guard_promotion(exam(able, plain), 1, models)) == (
        False,
        "The candidate's tag no longer lists thinking and tools.",
    )


def test_general_prompts_show_a_candidate_that_knows_its_lesson_alone(ollama: OllamaServer, tmp_path: Path) -> None:
    hooks = Hooks.load(plugin_directory=None, tables={}, built_in=("similarity_edit", "similarity_bleu"))
    measure, models, guard = CombinedMeasure(hooks, no_embeddings), ExamModels(settings(ollama.url)), GuardGeneral()
    knows = scripted(ollama, tmp_path, "knows", KNOWS, PLAIN)
    held, reason = found(guard.nightschool_guard_promotion(exam(knows, knows), 1, measure, models))
    assert held
    assert reason.startswith("Of 14 general prompts that the incumbent can do, the candidate fails at 0;")
    lesson = scripted(ollama, tmp_path, "lesson", {"?": "ls -a", ".": "ls -a"}, PLAIN)
    held, reason = found(guard.nightschool_guard_promotion(exam(knows, lesson), 1, measure, models))
    assert not held
    assert "the candidate fails at 14;" in reason


def test_what_the_exam_suspects_is_measured_in_turns(ollama: OllamaServer, tmp_path: Path) -> None:
    import_tiny(ollama, write_tiny_gguf(tmp_path / "small.gguf"), "small:1m")
    import_tiny(ollama, write_tiny_gguf(tmp_path / "large.gguf", layers=48), "large:1m")
    models, guard = ExamModels(settings(ollama.url)), GuardLatency(pairs=30, pair_tokens=24)
    held, reason = found(guard.nightschool_guard_promotion(suspicious("small:1m", "small:1m"), 1, models))
    assert held, reason
    assert "when both took turns" in reason
    held, reason = found(guard.nightschool_guard_promotion(suspicious("small:1m", "large:1m"), 1, models))
    assert not held, reason


def suspicious(incumbent: str, candidate: str) -> Exam:
    """An exam whose candidate was 3.2 times slower: it is, or the machine was busy."""
    asked = exam(incumbent, candidate)
    took = {sitting: 3.2 if sitting is Sitting.CANDIDATE else 1.0 for sitting in Sitting}
    return replace(
        asked, answers=tuple(replace(one, generation_s=took[one.sitting], tokens=10) for one in asked.answers)
    )


def test_memory_is_what_the_server_says_of_the_loaded_model(ollama: OllamaServer, tiny_gguf: Path) -> None:
    import_tiny(ollama, tiny_gguf, "old:1m")
    import_tiny(ollama, tiny_gguf, "new:1m")
    with FaultProxy(ollama.url) as proxy:
        models = ExamModels(settings(proxy.url))
        # llama-server of the tests does not log what it takes, so that Ollama says 0
        assert models.memory("old:1m") is None
        for name, size in (("old:1m", 4_000_000_000), ("new:1m", 6_000_000_000), ("new:1m", 6_000_000_000)):
            line = {"name": name, "digest": "d", "size": size, "size_vram": 1_000_000_000, "context_length": 512}
            proxy.add("GET", "/api/ps", answers(200, {"models": [line]}))
        held, reason = found(GuardMemory().nightschool_guard_promotion(exam("old:1m", "new:1m"), models))
        assert not held
        assert "1.50 times as much" in reason
        assert models.memory("new:1m") == ModelMemory(
            total_bytes=6_000_000_000, gpu_bytes=1_000_000_000, context_tokens=512
        )


def test_a_question_that_is_refused_has_no_answer_and_a_missing_model_is_told(
    ollama: OllamaServer, tiny_gguf: Path
) -> None:
    import_tiny(ollama, tiny_gguf, "tiny-guarded:1m")
    models = ExamModels(settings(ollama.url))
    assert models.ask("tiny-guarded:1m", QUESTION, max_tokens=4, seed=1, tools=TOOLS) is None
    with pytest.raises(GenerationError, match="does not have"):
        models.ask("nobody:1m", QUESTION, max_tokens=4, seed=1)


@pytest.mark.parametrize("earlier", [True, False])
def test_of_what_is_not_kept_neither_tags_nor_version_matter(
    ollama: OllamaServer, tiny_gguf: Path, tmp_path: Path, earlier: bool
) -> None:
    import_tiny(ollama, tiny_gguf, "tiny-kept:1m")
    with FaultProxy(ollama.url) as proxy:
        models = ExamModels(settings(proxy.url), EarlierAnswers(tmp_path) if earlier else None)
        assert models.ask("tiny-kept:1m", QUESTION, max_tokens=4, seed=1, kept=not earlier) is not None
        assert (proxy.count("GET", "/api/version"), proxy.count("GET", "/api/tags")) == (0, 0)


def test_what_may_be_kept_is_asked_of_a_model_once(ollama: OllamaServer, tiny_gguf: Path, tmp_path: Path) -> None:
    import_tiny(ollama, tiny_gguf, "tiny-kept:1m")
    before = ExamModels(settings(ollama.url), EarlierAnswers(tmp_path))
    said = before.ask("tiny-kept:1m", QUESTION, max_tokens=4, seed=1, temperature=0.7, kept=True)
    assert said is not None

    late = ExamModels(settings(ollama.url, guard_time_s=1.0), EarlierAnswers(tmp_path), clock=iter((0.0, 9.0)).__next__)
    assert late.ask("tiny-kept:1m", QUESTION, max_tokens=4, seed=2, temperature=0.7, kept=True) == said
    with pytest.raises(OutOfTime):
        late.ask("tiny-kept:1m", QUESTION, max_tokens=5, seed=1, temperature=0.7, kept=True)


def test_what_another_version_of_the_server_answered_is_asked_again(
    ollama: OllamaServer, tiny_gguf: Path, tmp_path: Path
) -> None:
    import_tiny(ollama, tiny_gguf, "tiny-kept:1m")

    def asked(models: ExamModels) -> ModelAnswer | None:
        return models.ask("tiny-kept:1m", QUESTION, max_tokens=4, seed=1, kept=True)

    assert asked(ExamModels(settings(ollama.url), EarlierAnswers(tmp_path))) is not None
    with FaultProxy(ollama.url) as proxy:
        proxy.add("GET", "/api/version", answers(200, {"version": "99.0.0"}))
        earlier = EarlierAnswers(tmp_path)
        updated = ExamModels(settings(proxy.url, guard_time_s=1.0), earlier, clock=iter((0.0, 9.0)).__next__)
        with pytest.raises(OutOfTime):
            asked(updated)


def test_time_is_shared_and_runs_out(ollama: OllamaServer, tiny_gguf: Path) -> None:
    import_tiny(ollama, tiny_gguf, "tiny-guarded:1m")
    now = 0.0
    models = ExamModels(settings(ollama.url, guard_time_s=10.0), clock=lambda: now)
    said = models.ask("tiny-guarded:1m", QUESTION, max_tokens=4, seed=1)
    assert said is not None
    assert said.tokens == 4
    assert said.generation_s > 0
    assert said.reading_s > 0
    now = 10.0
    with pytest.raises(OutOfTime, match=r"10 s is used up \(exam.guard_time_s\)"):
        models.ask("tiny-guarded:1m", QUESTION, max_tokens=4, seed=1)
