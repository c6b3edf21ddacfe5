"""Import an outside plugin in a child process before this one does.

A plugin that exits, hangs, takes all memory or patches the standard library while it is imported
must not take the daemon with it. The child runs under a time limit and an address-space limit and
says through a pipe of its own how the import went, so that what a plugin prints does not matter.
"""

import os
import subprocess
import sys

TIME_LIMIT_S = 30
ADDRESS_SPACE_BYTES = 2 * 1024**3
PASSED = "passed"
REPORT_BYTES = 4096

CHILD = f"""
import sys
report, kind, name = int(sys.argv[1]), sys.argv[2], sys.argv[3]
import importlib, os, resource, types
import dataclasses, json, logging, pathlib, re, typing
import nightschool_hookspecs
sys.path[:] = sys.argv[4:]
resource.setrlimit(resource.RLIMIT_AS, ({ADDRESS_SPACE_BYTES}, {ADDRESS_SPACE_BYTES}))
before = {{(module, key): value for module, loaded in list(sys.modules.items()) if loaded is not None
           for key, value in list(vars(loaded).items()) if isinstance(value, (types.FunctionType, type))}}
write, say = os.write, str
try:
    if kind == "module":
        importlib.import_module(name)
    else:
        module = types.ModuleType("nightschool_checked_plugin")
        sys.modules[module.__name__] = module
        exec(compile(sys.stdin.buffer.read(), name, "exec"), module.__dict__)
except BaseException as error:
    verdict = f"its import failed with {{type(error).__name__}}: {{error}}"
else:
    patched = [f"{{module}}.{{key}}" for (module, key), value in before.items()
               if module in sys.modules and vars(sys.modules[module]).get(key) is not value]
    verdict = "its import replaces " + ", ".join(patched[:3]) if patched else {PASSED!r}
write(report, say(verdict).encode("utf-8", "replace")[:{REPORT_BYTES}])
os._exit(0)
"""


def fault_of_source(source: bytes, path: str) -> str | None:
    """Say what is wrong with importing this file's text; None where nothing is."""
    return _fault("source", path, source)


def fault_of_module(module: str) -> str | None:
    """Say what is wrong with importing an installed module; None where nothing is."""
    return _fault("module", module, b"")


def _fault(kind: str, name: str, source: bytes) -> str | None:
    reading, writing = os.pipe()
    command = [sys.executable, "-c", CHILD, str(writing), kind, name, *sys.path]
    try:
        code = _run(command, source, writing)
        report = os.read(reading, REPORT_BYTES).decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        return f"its import took longer than {TIME_LIMIT_S} s"
    finally:
        os.close(reading)
    if report == PASSED:
        return None
    return report or f"its import ended the process (exit code {code})"


def _run(command: list[str], source: bytes, writing: int) -> int:
    """Run the child; nobody holds the pipe's writing end when this returns."""
    try:
        return subprocess.run(
            command,
            input=source,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(writing,),
            timeout=TIME_LIMIT_S,
            check=False,
        ).returncode
    finally:
        os.close(writing)
