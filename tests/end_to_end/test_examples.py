"""From the fifth correction on: a base that is shown corrections sits the exam before anything is trained."""

from pathlib import Path

import pytest

from nightschool_daemon.ledger import VersionState
from nightschool_hookspecs.records import Recipe, RunEnd
from support.base_models import CACHE, MODELS
from support.night import TINY_TYPE, Night, greetings, import_base
from support.ollama_server import OllamaServer

SMOLLM2 = MODELS["smollm2"]
ALIAS = f"smollm2-demo-nightschool:135m.{TINY_TYPE}"
SETTINGS = """
[exam]
max_answer_tokens = 16
context_tokens = 1024

[similarity]
embedding = "static"

[training]
seed = 7
threads = 2
# what is trained after the examples ends at once: transformers trains no pairs
engine = "transformers"
method = "dpo"

[plugins]
# what is shown one answer gives it to everything, which is what this guard is there to stop
disabled = ["guard_general"]
"""


@pytest.fixture
def night(tmp_path: Path, fresh_ollama: OllamaServer) -> Night:
    gguf = CACHE / "smollm2.gguf"
    if not gguf.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        SMOLLM2.fetch(gguf)
    import_base(fresh_ollama, SMOLLM2, gguf)
    return Night(tmp_path / "night", fresh_ollama.url, fresh_ollama.models_directory, settings=SETTINGS)


def test_a_base_that_is_shown_corrections_is_proven_promoted_and_undone(
    night: Night, fresh_ollama: OllamaServer
) -> None:
    base_digest = fresh_ollama.tags()[SMOLLM2.tag]
    night.drop(greetings(24, model=SMOLLM2.tag, answer="Ahoy!"))

    done = night.learn()

    assert "A better model is in use" in done.stdout
    trained, shown = night.ledger().runs.latest(9)
    assert (trained.recipe, trained.end) == (Recipe.TRAINING, RunEnd.FAILED)
    assert shown.recipe is Recipe.EXAMPLES
    assert shown.end is RunEnd.PROMOTED, shown.outcome_reason
    version = night.ledger().versions.in_state(VersionState.PROMOTED)[0]
    assert version.form is None
    assert version.files == ()
    assert fresh_ollama.tags()[ALIAS] == fresh_ollama.tags()[version.tag] != base_digest

    undone = night.run("undo", ALIAS)

    assert undone.returncode == 0, undone.stderr
    assert fresh_ollama.tags()[ALIAS] == base_digest


def test_below_the_fifth_correction_nothing_is_shown(night: Night) -> None:
    night.drop(greetings(4, model=SMOLLM2.tag))
    night.learn()
    assert [one.recipe for one in night.ledger().runs.latest(9)] == [Recipe.TRAINING]
