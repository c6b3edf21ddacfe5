"""The configuration that `nightschool init` writes: short, for the models that Ollama has."""

import json
from collections.abc import Mapping

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.ollama.errors import OllamaError
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.ollama.registry import read_registry

HEAD = """\
# Night School's configuration. `nightschool config show` prints every key with its value; the keys that are
# left out here have their defaults.

{ollama}[feedback]
# Applications drop feedback here.
directory = "~/nightschool/feedback"

[schedule]
# Every night at half past two.
cron = "30 2 * * *"

[specialties.default_base]
# Which model learns from feedback that names none: artifact type, or "*" for every other type.
"""


def starter_configuration(settings: OllamaSettings, environment: Mapping[str, str]) -> str:
    """The text. Without a server to ask it names no model."""
    return HEAD.format(ollama=_ollama(environment)) + _default_base(settings)


def _ollama(environment: Mapping[str, str]) -> str:
    """What only this shell knows of the server is written down: the service has no such environment."""
    keys = {"host": environment.get("OLLAMA_HOST"), "models_directory": environment.get("OLLAMA_MODELS")}
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in keys.items() if value]
    return "".join(["[ollama]\n", *lines, "\n"]) if lines else ""


def _default_base(settings: OllamaSettings) -> str:
    try:
        models = read_registry(OllamaHttp(settings), {})
    except OllamaError as error:
        return f'# Ollama could not be asked ({error})\n# "*" = "llama3.2:3b"\n'
    trainable = sorted((one for one in models.values() if one.trainable), key=lambda one: one.name)
    if not trainable:
        hint = "Ollama has no model that can be trained yet: `ollama pull llama3.2:3b` brings one."
        return f'# {hint}\n# "*" = "llama3.2:3b"\n'
    others = "".join(f"# installed too: {one.name}\n" for one in trainable[1:])
    return f'"*" = {json.dumps(trainable[0].name)}\n{others}'
