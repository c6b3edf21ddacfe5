"""Names the artifact type of an event that came without one, by what its answer looks like.

The first that fits: a mermaid ER diagram, an OpenAPI document, another mermaid diagram, a workflow in YAML,
SQL or another fenced program, a shell command. Nothing is named where nothing fits.
"""

import re

from nightschool_hookspecs import Event, hookimpl

FENCE = re.compile(r"```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
SHELL_LANGUAGES = frozenset({"sh", "bash", "shell", "zsh", "console", "shell-session"})
ER_DIAGRAM = re.compile(r"^\s*erDiagram\b", re.MULTILINE)
MERMAID = re.compile(r"^\s*(graph|flowchart|sequenceDiagram|classDiagram|stateDiagram|C4Context)\b", re.MULTILINE)
OPEN_API = re.compile(r"""^\s*["']?(openapi|swagger)["']?\s*:\s*["']?\d""", re.MULTILINE)
YAML_WORKFLOW = re.compile(r"^(on|jobs|steps|stages|workflow|pipeline|tasks)\s*:", re.MULTILINE)
SQL = re.compile(
    r"^\s*(select\b.+\bfrom\b|insert\s+into\b|update\b.+\bset\b|delete\s+from\b|create\s+(table|view|index)\b"
    r"|alter\s+table\b|with\b.+\bselect\b)",
    re.IGNORECASE | re.DOTALL,
)
SHELL = re.compile(
    r"^(\$ )?(sudo |time |env )?(awk|cat|cd|chmod|chown|cp|curl|cut|date|df|diff|docker|du|echo|find|git|grep|head|"
    r"kill|kubectl|ln|ls|mkdir|mv|ps|rm|rsync|scp|sed|sort|ssh|systemctl|tail|tar|tee|touch|tr|uniq|wc|wget|which|xargs)"
    r"( |$)"
)


@hookimpl
def nightschool_classify_event(event: Event) -> str | None:
    text = event.corrected_output or event.ai_output or ""
    fence = FENCE.search(text)
    language = fence.group(1).lower() if fence else ""
    body = fence.group(2) if fence else text
    candidates = (
        ("erd", ER_DIAGRAM.search(body)),
        ("api_docs", OPEN_API.search(body)),
        ("architecture", language == "mermaid" or MERMAID.match(body)),
        ("shell", language in SHELL_LANGUAGES or _is_one_command(body)),
        ("workflows", (language in ("yaml", "yml") or not fence) and YAML_WORKFLOW.search(body)),
        ("code_prototype", fence or SQL.match(body)),
    )
    return next((name for name, fits in candidates if fits), None)


def _is_one_command(text: str) -> bool:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return len(lines) == 1 and SHELL.match(lines[0].strip()) is not None
