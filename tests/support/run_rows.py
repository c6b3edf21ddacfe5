"""A run that has begun, as the ledger has it, where a test looks at a field or two of it: `replace` sets these."""

from datetime import UTC, datetime
from pathlib import Path

from nightschool_daemon.ledger import RunRow
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
