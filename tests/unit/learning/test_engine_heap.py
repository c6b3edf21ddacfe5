"""Room in the C library's heap for a training's tensors. Only glibc is told of it."""

import json
import subprocess
import sys

import pytest

from nightschool_daemon.runs import worker_process

TENSORS, TENSOR_BYTES = 40, 3 << 20
SCRIPT = """
import ctypes, json, resource, sys
import psutil, torch
from nightschool_daemon.learning.engine import machine

class Account(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena free fast mapped bytes top peak used unused kept".split()]

if sys.argv[1] == "limited":
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))
library = ctypes.CDLL(None)
library.mallinfo2.restype = Account
resident = psutil.Process().memory_info().rss
if sys.argv[1] != "never":
    machine.widen_heap()
    machine.widen_heap()
added = psutil.Process().memory_info().rss - resident
machine.return_free_memory()
mapped = library.mallinfo2().mapped
tensors = [torch.empty(int(sys.argv[3]), dtype=torch.uint8) for _ in range(int(sys.argv[2]))]
print(json.dumps({"mapped": library.mallinfo2().mapped - mapped, "added": added}))
"""


@pytest.mark.parametrize(("how", "mapped"), [("widened", 0), ("never", TENSORS), ("limited", TENSORS)])
def test_tensors_lie_in_a_widened_heap_and_are_mapped_elsewhere(how: str, mapped: int) -> None:
    """It stays wide when freed memory goes back; where the address space is limited nothing is taken of it."""
    command = [sys.executable, "-c", SCRIPT, how, str(TENSORS), str(TENSOR_BYTES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=worker_process.environment())
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["mapped"] == pytest.approx(mapped, abs=4)
    assert told["added"] < 50_000_000
