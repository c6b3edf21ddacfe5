"""A real small model says questions anew; whatever it says keeps the rules or is dropped."""

from collections.abc import Sequence

import pytest

from nightschool_daemon.config import ExamSettings, OllamaSettings
from nightschool_daemon.evaluation.local_model import LocalModel
from nightschool_daemon.evaluation.similarity import CombinedMeasure, no_embeddings
from nightschool_daemon.hooks import Hooks
from nightschool_daemon.ollama.library import OllamaLibrary
from nightschool_hookspecs import GenerationError, Message, Role, TrainingExample
from nightschool_hookspecs.variants import keeps
from nightschool_plugins.augmentation_backtranslate import AugmentationBacktranslate
from nightschool_plugins.augmentation_paraphrase import AugmentationParaphrase
from support.base_models import CACHE, MODELS
from support.night import import_base
from support.ollama_server import OllamaServer

QUESTIONS = {
    "list all files in the directory /var/log, also the hidden ones": "ls -a /var/log",
    "count the lines of every Python file below src": "find src -name '*.py' -exec wc -l {} +",
    "show the 10 largest files in my home directory": "du -a ~ | sort -n | tail -10",
    "make a directory called backup and copy notes.txt into it": "mkdir backup && cp notes.txt backup",
}
EXAM = ExamSettings(context_tokens=1024)


@pytest.fixture(scope="module")
def smollm2(ollama: OllamaServer) -> str:
    base = MODELS["smollm2"]
    file = CACHE / "smollm2.gguf"
    if not file.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        base.fetch(file)
    import_base(ollama, base, file)
    return base.tag


def examples() -> tuple[TrainingExample, ...]:
    return tuple(
        TrainingExample(
            event_id=f"s/{number}",
            messages=(Message(role=Role.USER, content=question),),
            target=target,
            prompt=question,
        )
        for number, (question, target) in enumerate(QUESTIONS.items())
    )


@pytest.mark.parametrize(
    "plugin", [AugmentationParaphrase(most_questions=2), AugmentationBacktranslate(most_questions=2)]
)
def test_whatever_a_real_model_says_keeps_the_rules_or_is_dropped(
    ollama: OllamaServer, smollm2: str, plugin: AugmentationParaphrase | AugmentationBacktranslate
) -> None:
    settings = OllamaSettings(host=ollama.url)
    said: list[str] = []
    model = LocalModel(OllamaLibrary(settings), smollm2, EXAM)

    def generate(messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int) -> str:
        said.append(model(messages, max_tokens=max_tokens, temperature=temperature, seed=seed))
        return said[-1]

    hooks = Hooks.load(plugin_directory=None, tables={}, built_in=("similarity_edit", "similarity_bleu"))
    measure = CombinedMeasure(hooks, no_embeddings)
    found = plugin.nightschool_augment_examples(examples(), generate, measure, 7)
    assert 1 <= len(said) <= plugin.most_questions
    for variant in found:
        original = examples()[int(str(variant.parent).removeprefix("s/"))]
        assert variant.target == original.target
        assert variant.messages[-1].content != original.prompt
        assert keeps(original.prompt, variant.messages[-1].content, original.target)


def test_a_model_that_is_not_there_costs_the_variants_alone(ollama: OllamaServer) -> None:
    model = LocalModel(OllamaLibrary(OllamaSettings(host=ollama.url)), "nobody:1b", EXAM)
    with pytest.raises(GenerationError):
        model((Message(role=Role.USER, content="?"),), max_tokens=8, temperature=0.0, seed=1)
    hooks = Hooks.load(plugin_directory=None, tables={}, built_in=("similarity_edit",))
    measure = CombinedMeasure(hooks, no_embeddings)
    assert AugmentationParaphrase().nightschool_augment_examples(examples(), model, measure, 7) == ()
