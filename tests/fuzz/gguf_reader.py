"""Coverage-guided fuzz of the GGUF reader: `make fuzz-gguf SECONDS=60`.

libFuzzer, through atheris, changes files of every known class, and keeps what reaches new code. It stops at the first
input whose outcome is neither a sound file nor a sentence, or that takes long or much memory, and leaves it beside
the corpus. What it found once stands in `tests/unit/learning/test_gguf_fuzz.py`.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / ".cache" / "fuzz" / "gguf"
LONGEST_BYTES = 8192
A_FILE_S = 5
MEMORY_MB = 1024


def main() -> None:
    """Fuzz for as long as is asked for. Exits with another code than 0 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    seconds = parser.parse_args().seconds
    sys.path.insert(0, str(ROOT / "tests"))
    # atheris has no types, and stands in a dependency group of its own
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["nightschool_daemon.learning.gguf_file"]):
        from support.malformed_gguf import ACCEPTED, REFUSED, read_or_refuse

    corpus = PLACE / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate((*ACCEPTED.values(), *(one.content for one in REFUSED.values()))):
        (corpus / f"seed-{number}").write_bytes(content)
    # a file without a disk: it is written and read some thousand times a second
    memory = os.memfd_create("gguf")
    path = Path(f"/proc/self/fd/{memory}")

    def one(data: bytes) -> None:
        os.ftruncate(memory, 0)
        os.pwrite(memory, data, 0)
        read_or_refuse(path)

    options = {
        "max_total_time": seconds,
        "max_len": LONGEST_BYTES,
        "timeout": A_FILE_S,
        "rss_limit_mb": MEMORY_MB,
        "print_final_stats": 1,
    }
    settings = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], str(corpus), *settings, f"-artifact_prefix={PLACE}/found-"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
