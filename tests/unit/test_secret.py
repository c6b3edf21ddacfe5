"""The secret of an installation."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nightschool_daemon.secret import BYTES, FILE_NAME, read_secret, secret_of


def test_a_secret_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    assert read_secret(tmp_path) == b""
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: secret_of(tmp_path), range(32)))
    assert len(found) == 1
    assert found == {read_secret(tmp_path)}
    assert len(read_secret(tmp_path)) == BYTES
    assert [one.name for one in tmp_path.iterdir()] == [FILE_NAME]
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


def test_every_directory_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert secret_of(tmp_path) != secret_of(tmp_path / "other")


@pytest.mark.parametrize("content", [b"", bytes(BYTES + 1)])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    for ask in (secret_of, read_secret):
        with pytest.raises(OSError, match="Put the one back"):
            ask(tmp_path)
