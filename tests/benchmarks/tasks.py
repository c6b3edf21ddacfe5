"""Two real tasks with prompts and wanted answers: shell commands, and entity-relationship diagrams of schemas."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[1] / "data"
GENERAL_TOPICS = ("exceptions", "execmodel", "function", "import", "naming", "objects", "sequence-types", "try")
GENERAL_CHARACTERS = 1500


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A prompt and the answer that is wanted."""

    prompt: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """Pairs to learn from, and pairs that are held out: no prompt and no database is on both sides."""

    learned: tuple[Pair, ...]
    held_out: tuple[Pair, ...]


def shell(seed: int, learned: int, held_out: int) -> Task:
    """Commands from descriptions (NL2Bash)."""
    text = (DATA / "nl2bash" / "sample.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return _divided([Pair(prompt=row["description"], answer=row["command"]) for row in rows], seed, learned, held_out)


def diagrams(seed: int, learned: int, held_out: int) -> Task:
    """Mermaid diagrams from schemas (Spider). Wide schemas are left out: they would be most of the tokens."""
    text = (DATA / "spider" / "schemas.jsonl").read_text(encoding="utf-8")
    pairs = [_diagram(json.loads(line)) for line in text.splitlines()]
    short = [one for one in pairs if len(one.prompt) + len(one.answer) < 1600]
    return _divided(short, seed, learned, held_out)


def general_texts() -> list[str]:
    """English prose that neither task is about: Python's own documentation, from the interpreter that runs this."""
    from pydoc_data.topics import topics

    return [topics[name][:GENERAL_CHARACTERS] for name in GENERAL_TOPICS if name in topics]


TASKS = {"shell": shell, "diagrams": diagrams}


def _divided(pairs: list[Pair], seed: int, learned: int, held_out: int) -> Task:
    shuffled = random.Random(seed).sample(pairs, len(pairs))
    return Task(held_out=tuple(shuffled[:held_out]), learned=tuple(shuffled[held_out : held_out + learned]))


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a schema; `table` counts from 0, and is -1 for Spider's `*`."""

    table: int
    name: str
    type: str
    is_key: bool


def _diagram(schema: dict[str, Any]) -> Pair:
    tables: list[str] = schema["table_names_original"]
    columns = [
        Column(table=table, name=name, type=kind, is_key=place in schema["primary_keys"])
        for place, ((table, name), kind) in enumerate(
            zip(schema["column_names_original"], schema["column_types"], strict=True)
        )
    ]
    lines, entities = [], []
    for number, table in enumerate(tables):
        own = [one for one in columns if one.table == number]
        shown = [f"{one.name} {one.type}{' pk' if one.is_key else ''}" for one in own]
        lines.append(f"{table}({', '.join(shown)})")
        inner = [f"    {one.type} {one.name}{' PK' if one.is_key else ''}" for one in own]
        entities.append("\n".join([f"  {table} {{", *inner, "  }"]))
    for left, right in schema["foreign_keys"]:
        many, one_side = tables[columns[left].table], tables[columns[right].table]
        lines.append(f"{many}.{columns[left].name} -> {one_side}.{columns[right].name}")
        entities.append(f"  {one_side} ||--o{{ {many} : {columns[left].name}")
    prompt = "Draw an entity-relationship diagram in mermaid.\n" + "\n".join(lines)
    return Pair(prompt=prompt, answer="\n".join(["erDiagram", *entities]))
