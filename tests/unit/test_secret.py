"""The secret of an installation."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
