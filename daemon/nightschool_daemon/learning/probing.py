"""What the running server takes, asked by a worker."""

import shutil
from pathlib import Path

from nightschool_daemon.learning.worker import WorkerContext
from nightschool_daemon.ollama.abilities import probe_abilities, unload_quietly
from nightschool_daemon.ollama.http import OllamaHttp
from nightschool_hookspecs.records import ServerAbilities


def probed(context: WorkerContext, directory: Path, base: str, architecture: str) -> ServerAbilities:
    """Ask the server, and leave it as it was: a base that only this had loaded is unloaded, unless somebody asks it.

    `directory`: for tiny files that are there in the meantime. Raises `OllamaError`.
    """
    http = OllamaHttp(context.settings.ollama)
    scratch = directory / "probe"
    try:
        before = {one.name for one in http.loaded()}
        abilities = probe_abilities(http, base, architecture, scratch)
        if base not in before and base in {one.name for one in http.loaded()}:
            unload_quietly(http, base)
        return abilities
    finally:
        http.close()
        shutil.rmtree(scratch, ignore_errors=True)
