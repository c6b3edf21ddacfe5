"""The configuration that `nightschool init` writes: short, for the models that Ollama has."""

import json

from nightschool_daemon.config import OllamaSettings
from nightschool_daemon.ollama.errors import OllamaError
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_daemon.ollama.registry import read_registry
from nightschool_hookspecs.records import InstalledModel

HEAD = """\
# Night School's configuration. `nightschool config show` prints every key with its value; the keys that are
# left out here have their defaults.

[feedback]
# Applications drop feedback here.
directory = "~/nightschool/feedback"

[schedule]
# Every night at half past two.
cron = "30 2 * * *"

[specialties.default_base]
# Which model learns from feedback that names none: artifact type, or "*" for every other type.
"""


def starter_configuration(settings: OllamaSettings) -> str:
    """The text. Without a server to ask it names no model."""
    try:
        models = read_registry(OllamaHttp(settings), {})
    except OllamaError as error:
        return f'{HEAD}# Ollama could not be asked ({error})\n# "*" = "llama3.2:3b"\n'
    trainable = sorted((one for one in models.values() if one.trainable), key=lambda one: one.name)
    if not trainable:
        hint = "Ollama has no model that can be trained yet: `ollama pull llama3.2:3b` brings one."
        return f'{HEAD}# {hint}\n# "*" = "llama3.2:3b"\n'
    return HEAD + _default_base(trainable)


def _default_base(models: list[InstalledModel]) -> str:
    others = "".join(f"# installed too: {one.name}\n" for one in models[1:])
    return f'"*" = {json.dumps(models[0].name)}\n{others}'
