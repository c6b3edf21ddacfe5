"""A server that is told to unload at once keeps what it is asked for all the same."""

from pathlib import Path

from nightschool_daemon.config import ExamSettings, OllamaSettings
from nightschool_daemon.evaluation.local_model import pinned_options
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.ollama.library import OllamaLibrary
from nightschool_hookspecs import Message, Role
from support.night import TINY, import_tiny
from support.ollama_server import OllamaServer


def test_a_model_that_was_asked_is_not_loaded_anew_for_the_next_question(
    fresh_ollama: OllamaServer, tiny_gguf: Path
) -> None:
    fresh_ollama.stop()
    fresh_ollama.start(OLLAMA_KEEP_ALIVE="0")
    import_tiny(fresh_ollama, tiny_gguf)
    settings = OllamaSettings(host=fresh_ollama.url)
    library, http = OllamaLibrary(settings), OllamaHttp(settings)
    options = pinned_options(ExamSettings(context_tokens=64, max_answer_tokens=2), 1)
    library.chat(TINY, (Message(role=Role.USER, content="1"),), options)
    assert [one.name for one in http.loaded()] == [TINY]
    http.unload(TINY)
    library.next_token(TINY, "1", context_tokens=64)
    assert [one.name for one in http.loaded()] == [TINY]
    http.close()
