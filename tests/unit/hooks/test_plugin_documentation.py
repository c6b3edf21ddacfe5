"""`docs/plugins.md` says of every hook what its declaration says."""

import inspect
import re
from pathlib import Path
from types import FunctionType

import pytest

from nightschool_daemon.hooks import STAGES, is_observer, signature_of

DOCUMENT = (Path(__file__).parents[3] / "docs" / "plugins.md").read_text(encoding="utf-8")
HOOKS: dict[str, FunctionType] = {
    name: function for stage in STAGES for name, function in vars(stage).items() if name.startswith("nightschool_")
}


def section(hook: str) -> str:
    """The document's text under a hook's heading."""
    return re.split(r"\n#{2,4} ", DOCUMENT.partition(f"\n#### `{hook}`\n")[2])[0]


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("hook", sorted(HOOKS))
def test_signature_is_exact(hook: str) -> None:
    code = re.search(r"```python\ndef (\w+)(.*?):\n```", section(hook), re.DOTALL)
    assert code is not None, f"docs/plugins.md has no signature of {hook}"
    source = inspect.getsource(HOOKS[hook])
    declared = re.search(r"def \w+(\(.*?\) -> .*?):\n", source, re.DOTALL)
    assert declared is not None
    assert (code[1], words(code[2])) == (hook, words(declared[1]))


@pytest.mark.parametrize("hook", sorted(HOOKS))
def test_text_is_the_declarations(hook: str) -> None:
    assert words(inspect.cleandoc(HOOKS[hook].__doc__ or "")) in words(section(hook))


@pytest.mark.parametrize("hook", sorted(HOOKS))
def test_at_most_five_parameters(hook: str) -> None:
    assert len(signature_of(hook).parameters) <= 5


def test_document_names_no_hook_that_is_not_there() -> None:
    assert set(re.findall(r"#### `(\w+)`", DOCUMENT)) == set(HOOKS)


@pytest.mark.parametrize("hook", sorted(name for name in HOOKS if is_observer(name)))
def test_observers_return_nothing(hook: str) -> None:
    assert signature_of(hook).return_annotation is None
