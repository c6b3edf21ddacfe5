"""A wheel, installed in an empty environment outside the checkout, works."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from nightschool_daemon import __version__

ROOT = Path(__file__).resolve().parents[3]
DATA = (
    "nightschool_daemon/data/config.toml",
    "nightschool_daemon/data/systemd/nightschool.service",
    "nightschool_daemon/data/systemd/nightschool-user.service",
)
OF_PLUGINS = (
    "nightschool_plugins/data/general_prompts.toml",
    "nightschool_plugins/data/replay_prompts.toml",
    "nightschool_plugins/data/synonyms.txt",
    "nightschool_plugins/data/starters/erd.toml",
    "nightschool_plugins/data/starters/workflows.toml",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with wheel and source distribution."""
    directory = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(directory)], cwd=ROOT, check=True)
    return directory


def test_wheel_holds_configuration_and_units_as_files(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        for name in DATA:
            original = ROOT / name.removeprefix("nightschool_daemon/data/")
            assert wheel.read(name) == original.read_bytes()
        for name in OF_PLUGINS:
            assert wheel.read(name) == (ROOT / "plugins" / name).read_bytes()
        assert "nightschool_hookspecs/py.typed" in wheel.namelist()


def test_wheel_that_is_built_from_the_source_distribution_holds_them_too(built: Path, tmp_path: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as source:
        source.extractall(tmp_path, filter="data")
    unpacked = tmp_path / f"nightschool-{__version__}"
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=unpacked, check=True
    )
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        assert all(wheel.read(name) for name in (*DATA, *OF_PLUGINS))


def test_wheel_works_in_an_empty_environment(built: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    packages = next((environment / "lib").glob("python3*")) / "site-packages"
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(packages)  # noqa: S202 - our own wheel
    # the libraries come from the environment of the tests: nothing is downloaded, and the checkout is not on the path
    libraries = [one for one in sys.path if one.endswith("site-packages")]
    (packages / "libraries.pth").write_text("\n".join(libraries))
    program = "\n".join(
        (
            "import sys",
            "sys.path[:] = [one for one in sys.path if not one.startswith(sys.argv[1])]",
            "sys.argv[:] = sys.argv[2:]",
            "import nightschool_daemon",
            "from nightschool_daemon.__main__ import main",
            "print(nightschool_daemon.__file__)",
            "sys.exit(main())",
        )
    )

    def call(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(environment / "bin" / "python"), "-c", program, str(ROOT / "daemon"), "nightschool", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"HOME": str(tmp_path), "PATH": os.environ["PATH"], "OLLAMA_HOST": "127.0.0.1:9", "COLUMNS": "200"},
            check=False,
        )

    version = call("--version")
    assert version.returncode == 0, version.stderr
    assert version.stdout.splitlines() == [
        str(packages / "nightschool_daemon" / "__init__.py"),
        f"nightschool {__version__}",
    ]
    assert call("config", "show").returncode == 0
    doctor = call("doctor")
    assert doctor.returncode == 1
    assert "ollama serve" in doctor.stdout
    assert "Traceback" not in doctor.stderr
