"""What a run takes of the disks that it writes to."""

from pathlib import Path


def delivered_bytes(place: Path, run: Path, base: Path) -> int:
    """What a version of a base takes at most of the disk that a place is on.

    That is the base's size in the run's directory, and as much in Ollama's store, where the base is.
    """
    device = place.stat().st_dev
    return base.stat().st_size * sum(one.stat().st_dev == device for one in (run, base.parent))
