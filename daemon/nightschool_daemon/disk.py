"""What a run takes of the disks that it writes to."""

from pathlib import Path


def delivered_bytes(place: Path, run: Path, base: Path, version_bytes: int) -> int:
    """What a version of a base takes of the disk that a place is on.

    That are its bytes in the run's directory, and as many in Ollama's store, where the base is.
    """
    device = place.stat().st_dev
    return version_bytes * sum(one.stat().st_dev == device for one in (run, base.parent))
