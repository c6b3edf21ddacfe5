"""What a version takes of the disks that it is written to."""

from pathlib import Path

from nightschool_daemon.disk import delivered_bytes

ELSEWHERE = Path("/proc")
"""A file system of its own."""


def test_a_version_takes_its_size_in_the_run_and_in_the_store(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.touch()
    assert delivered_bytes(tmp_path, tmp_path, base, 1000) == 2000
    assert delivered_bytes(tmp_path, ELSEWHERE, base, 1000) == 1000
    assert delivered_bytes(ELSEWHERE, ELSEWHERE, base, 1000) == 1000
    assert delivered_bytes(ELSEWHERE, tmp_path, base, 1000) == 0
