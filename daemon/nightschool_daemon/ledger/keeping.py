"""Small tables: the bases that were seen, plugins' strikes and stores, and the daemon's own facts."""

from datetime import datetime

from nightschool_daemon import codec
from nightschool_daemon.ledger.database import Database
from nightschool_daemon.ledger.rows import DisabledPlugin
from nightschool_hookspecs.records import InstalledModel


class Bases:
    """Table `bases`: what the registry watcher saw last."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self) -> dict[str, InstalledModel]:
        """Name -> model as it was last seen."""
        rows = self._database.execute("SELECT name, body FROM bases")
        return {row["name"]: codec.from_json(row["body"], InstalledModel) for row in rows}

    def put(self, model: InstalledModel, at: datetime) -> None:
        """Remember a model as it is now."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO bases VALUES (?, ?, ?)", (model.name, codec.to_json(model), at.isoformat())
            )

    def forget(self, name: str) -> None:
        """Forget a model that vanished."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM bases WHERE name = ?", (name,))


class Plugins:
    """Tables `strikes` and `plugin_store`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def strikes(self, name: str, content_digest: str) -> int:
        """How often a plugin of this content failed."""
        rows = self._database.execute(
            "SELECT strikes FROM strikes WHERE plugin = ? AND content_digest = ?", (name, content_digest)
        )
        return int(rows[0]["strikes"]) if rows else 0

    def strike(self, name: str, content_digest: str, reason: str, at: datetime) -> int:
        """Count a failure and return how many there were."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO strikes VALUES (?, ?, 1, ?, ?) ON CONFLICT DO UPDATE SET "
                "strikes = strikes + 1, reason = excluded.reason, last_at = excluded.last_at",
                (name, content_digest, reason, at.isoformat()),
            )
        return self.strikes(name, content_digest)

    def all_strikes(self) -> dict[tuple[str, str], int]:
        """How often each plugin failed, by its name and content."""
        rows = self._database.execute("SELECT plugin, content_digest, strikes FROM strikes", ())
        return {(row["plugin"], row["content_digest"]): int(row["strikes"]) for row in rows}

    def disabled(self, *, at_least: int) -> tuple[DisabledPlugin, ...]:
        """Plugins that failed `at_least` so often, in the content they had then."""
        rows = self._database.execute(
            "SELECT plugin, strikes, reason FROM strikes WHERE strikes >= ? ORDER BY plugin", (at_least,)
        )
        return tuple(DisabledPlugin(name=row["plugin"], strikes=row["strikes"], reason=row["reason"]) for row in rows)

    def store(self, plugin: str) -> dict[str, str]:
        """A plugin's whole key-value space."""
        rows = self._database.execute("SELECT key, value FROM plugin_store WHERE plugin = ?", (plugin,))
        return {row["key"]: row["value"] for row in rows}

    def store_put(self, plugin: str, key: str, value: str) -> None:
        """Set a key of a plugin's space."""
        with self._database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO plugin_store VALUES (?, ?, ?)", (plugin, key, value))

    def store_delete(self, plugin: str, key: str) -> None:
        """Remove a key of a plugin's space."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM plugin_store WHERE plugin = ? AND key = ?", (plugin, key))


class Facts:
    """Table `facts`: what the daemon must remember beside everything else."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: str) -> str | None:
        """The value of a key."""
        rows = self._database.execute("SELECT value FROM facts WHERE key = ?", (key,))
        return str(rows[0]["value"]) if rows else None

    def beginning_with(self, prefix: str) -> dict[str, str]:
        """Every key that begins so, with its value, in order."""
        rows = self._database.execute(
            "SELECT key, value FROM facts WHERE substr(key, 1, ?) = ? ORDER BY key", (len(prefix), prefix)
        )
        return {row["key"]: row["value"] for row in rows}

    def put(self, key: str, value: str) -> None:
        """Set a key."""
        with self._database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, value))

    def delete(self, key: str) -> None:
        """Remove a key."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM facts WHERE key = ?", (key,))
