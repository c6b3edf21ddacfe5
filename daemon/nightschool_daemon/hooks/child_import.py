"""Imports a user's plugin in a process of its own, before this one does."""

import subprocess
import sys

IMPORT_LIMIT_S = 20.0
IMPORT_MEMORY_BYTES = 4 * 1024**3

_CHILD = """
import importlib, importlib.util, json, logging, os, pathlib, re, resource, sys, types, typing
import nightschool_hookspecs

def load(kind, name):
    if kind == "module":
        importlib.import_module(name)
        return
    spec = importlib.util.spec_from_file_location("checked", name)
    module = importlib.util.module_from_spec(spec)
    sys.modules["checked"] = module
    spec.loader.exec_module(module)

def replaced(before):
    found = (f"{module}.{key}" for (module, key), value in before.items()
             if getattr(sys.modules.get(module), key, None) is not value)
    return ", ".join(list(found)[:3])

kind, name, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
report, nowhere, write, leave = os.dup(1), os.open(os.devnull, os.O_WRONLY), os.write, os._exit
os.dup2(nowhere, 1)
os.dup2(nowhere, 2)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = {(module, key): value for module, loaded in list(sys.modules.items())
          for key, value in list(vars(loaded).items()) if isinstance(value, (types.FunctionType, type))}
try:
    load(kind, name)
    names = replaced(before)
    text = f"it replaces {names}, which others use too" if names else "imported"
except BaseException as error:
    text = f"{type(error).__name__}: {error}"
write(report, text.encode("utf-8", "replace")[:2000])
leave(0)
"""


def import_in_child(kind: str, name: str) -> None:
    """Import a file or a module in a process of its own first.

    One that hangs, exits, eats memory or patches the standard library must not take us along. Whatever it
    prints is dropped.
    """
    command = [sys.executable, "-c", _CHILD, kind, name, str(IMPORT_MEMORY_BYTES)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=IMPORT_LIMIT_S, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        raise ImportError(f"importing it took longer than {IMPORT_LIMIT_S:g} s") from None
    if done.stdout != "imported":
        raise ImportError(done.stdout or f"importing it ended the process with code {done.returncode}")
