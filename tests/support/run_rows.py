"""A run that has begun and its candidate, as the ledger has them: `replace` sets the fields that a test looks at."""

from datetime import UTC, datetime
from pathlib import Path

from nightschool_daemon.ledger import RunRow, VersionRow, VersionState
from nightschool_hookspecs import Specialty

RUN_ROW = RunRow(
    id="r",
    specialty=Specialty(base="tiny:1b", artifact_type="shell"),
    seed=1,
    reason="test",
    started_at=datetime(2026, 1, 2, tzinfo=UTC),
    finished_at=None,
    end=None,
    outcome_reason="",
    directory=Path("nowhere"),
)
VERSION_ROW = VersionRow(
    tag="tiny-nightschool:1b.shell.v1",
    specialty=RUN_ROW.specialty,
    number=1,
    run_id=RUN_ROW.id,
    form=None,
    tag_digest="",
    weights_digest="",
    base_tag_digest="",
    base_weights_digest="",
    state=VersionState.CANDIDATE,
    created_at=RUN_ROW.started_at,
)
