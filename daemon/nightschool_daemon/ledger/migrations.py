"""The schema, as steps that are applied in order and never changed afterwards."""

FIRST = """
CREATE TABLE events (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,           -- source/id
    source_version TEXT,
    body TEXT NOT NULL,                 -- the event as JSON
    body_digest TEXT NOT NULL,
    content_digest TEXT NOT NULL,       -- of input_data, ai_output, corrected_output
    artifact_type TEXT NOT NULL,
    base TEXT,
    answered_by TEXT,
    group_key TEXT NOT NULL,
    is_correction INTEGER NOT NULL,
    score REAL,
    retracted INTEGER NOT NULL DEFAULT 0,
    arrived_at TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_specialty ON events (artifact_type, base);
CREATE INDEX events_by_content ON events (content_digest);

CREATE TABLE sides (
    artifact_type TEXT NOT NULL,
    group_key TEXT NOT NULL,
    side TEXT NOT NULL,
    PRIMARY KEY (artifact_type, group_key)
) STRICT, WITHOUT ROWID;

CREATE TABLE uses (                     -- which run looked at an event, and which version learned it
    arrival INTEGER NOT NULL REFERENCES events (arrival),
    base TEXT NOT NULL,
    artifact_type TEXT NOT NULL,
    run_id TEXT NOT NULL,
    version_tag TEXT,
    PRIMARY KEY (arrival, base, artifact_type, run_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE files (                    -- how far a JSONL file was read
    name TEXT PRIMARY KEY,
    inode INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    head_digest TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    base TEXT NOT NULL,
    artifact_type TEXT NOT NULL,
    seed INTEGER NOT NULL,
    reason TEXT NOT NULL,
    started_at TEXT NOT NULL,
    finished_at TEXT,
    end TEXT,
    outcome_reason TEXT NOT NULL DEFAULT '',
    directory TEXT NOT NULL
) STRICT;

CREATE TABLE steps (
    run_id TEXT NOT NULL REFERENCES runs (id),
    step TEXT NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    input_digest TEXT NOT NULL,
    output_digest TEXT,
    started_at TEXT NOT NULL,
    finished_at TEXT,
    reason TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run_id, step)
) STRICT, WITHOUT ROWID;

CREATE TABLE versions (
    tag TEXT PRIMARY KEY,
    base TEXT NOT NULL,
    artifact_type TEXT NOT NULL,
    number INTEGER NOT NULL,
    run_id TEXT NOT NULL,
    form TEXT,
    tag_digest TEXT NOT NULL,
    weights_digest TEXT NOT NULL,
    base_tag_digest TEXT NOT NULL,
    base_weights_digest TEXT NOT NULL,
    state TEXT NOT NULL,
    created_at TEXT NOT NULL,
    files TEXT NOT NULL,
    UNIQUE (base, artifact_type, number)
) STRICT;
CREATE INDEX versions_by_digest ON versions (tag_digest);

CREATE TABLE moves (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    alias TEXT NOT NULL,
    from_digest TEXT,
    to_digest TEXT,
    from_tag TEXT,
    to_tag TEXT,
    reason TEXT NOT NULL,
    run_id TEXT,
    intended_at TEXT NOT NULL,
    done_at TEXT,
    state TEXT NOT NULL
) STRICT;
CREATE INDEX moves_by_alias ON moves (alias, id);

CREATE TABLE exam_items (
    run_id TEXT NOT NULL REFERENCES runs (id),
    item_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (run_id, item_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE exam_answers (
    run_id TEXT NOT NULL REFERENCES runs (id),
    item_id TEXT NOT NULL,
    sitting TEXT NOT NULL,
    position INTEGER NOT NULL,
    score REAL NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (run_id, item_id, sitting)
) STRICT, WITHOUT ROWID;

CREATE TABLE verdicts (
    run_id TEXT PRIMARY KEY REFERENCES runs (id),
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE bases (
    name TEXT PRIMARY KEY,
    body TEXT NOT NULL,
    seen_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE strikes (
    plugin TEXT NOT NULL,
    content_digest TEXT NOT NULL,
    strikes INTEGER NOT NULL,
    reason TEXT NOT NULL,
    last_at TEXT NOT NULL,
    PRIMARY KEY (plugin, content_digest)
) STRICT, WITHOUT ROWID;

CREATE TABLE plugin_store (
    plugin TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (plugin, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE facts (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID
"""

LESSONS = """
ALTER TABLE versions ADD COLUMN lesson TEXT NOT NULL DEFAULT '{}'
"""

PROMPTS = """
CREATE TABLE prompts (                  -- which group of near-duplicates a prompt is in, for good
    artifact_type TEXT NOT NULL,
    prompt_key TEXT NOT NULL,           -- group_key of its events
    group_key TEXT,                     -- group_key of `sides`; NULL: close to both sides, it goes to neither
    PRIMARY KEY (artifact_type, prompt_key)
) STRICT, WITHOUT ROWID
"""

EVIDENCE = """
CREATE TABLE evidence (
    run_id TEXT PRIMARY KEY REFERENCES runs (id),
    base TEXT NOT NULL,
    artifact_type TEXT NOT NULL,
    incumbent TEXT NOT NULL,            -- the tag that the candidate was compared with
    log_e_value REAL NOT NULL,          -- product of e-values up to this run, natural logarithm
    settled INTEGER NOT NULL DEFAULT 0  -- a promotion came since: it proves nothing further
) STRICT, WITHOUT ROWID;
CREATE INDEX evidence_by_specialty ON evidence (base, artifact_type, incumbent);

CREATE TABLE evidence_items (           -- what the exam of a run asked; what it gained where it counted
    run_id TEXT NOT NULL REFERENCES evidence (run_id),
    key TEXT NOT NULL,
    position INTEGER NOT NULL,
    gain REAL,
    PRIMARY KEY (run_id, key)
) STRICT, WITHOUT ROWID
"""

MARKS = """
CREATE TABLE marks (                    -- how both did in the exam of a run, worked out once
    run_id TEXT PRIMARY KEY REFERENCES runs (id),
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID
"""

RECIPES = """
ALTER TABLE runs ADD COLUMN recipe TEXT NOT NULL DEFAULT 'training'
"""

KNOWN_GROUPS = """
CREATE TABLE known_groups (             -- what a version has learned, whatever becomes of the events
    base TEXT NOT NULL,
    artifact_type TEXT NOT NULL,
    group_key TEXT NOT NULL,
    version_tag TEXT NOT NULL,
    PRIMARY KEY (base, artifact_type, group_key, version_tag)
) STRICT, WITHOUT ROWID;
INSERT OR IGNORE INTO known_groups
SELECT u.base, u.artifact_type, coalesce(p.group_key, e.group_key), u.version_tag
FROM uses u JOIN events e USING (arrival)
LEFT JOIN prompts p ON p.artifact_type = u.artifact_type AND p.prompt_key = e.group_key
WHERE u.version_tag IS NOT NULL
"""

WORDINGS = """
CREATE TABLE wordings (                 -- prompts that new ones are compared with, though no event asks them
    prompt_key TEXT PRIMARY KEY,
    event_key TEXT NOT NULL,            -- the event that asked it, or of which it is a variant
    text TEXT,                          -- of a variant
    fingerprint TEXT,                   -- in its place once the event was withdrawn or changed
    CHECK ((text IS NULL) != (fingerprint IS NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX wordings_by_event ON wordings (event_key);
CREATE INDEX events_by_group ON events (group_key);
CREATE INDEX prompts_by_key ON prompts (prompt_key);
CREATE INDEX sides_by_group ON sides (group_key)
"""

MIGRATIONS: tuple[str, ...] = (FIRST, LESSONS, PROMPTS, EVIDENCE, MARKS, RECIPES, KNOWN_GROUPS, WORDINGS)
"""Append; the number of a step is the schema version it leads to."""
