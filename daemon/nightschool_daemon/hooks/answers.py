"""Whether a plugin's answer has the type that its hook documents."""

import dataclasses
import math
import types
import typing
from collections.abc import Callable

MAX_SHOWN = 80


def documented_type(specification: Callable[..., object]) -> object:
    """The return annotation of a hook specification, with names resolved."""
    return typing.get_type_hints(specification).get("return", object)


def fits(answer: object, kind: object) -> bool:
    """Whether `answer` is of `kind`: a record, a scalar, a tuple of these, or a union.

    A whole number serves as a float; NaN and infinities are no answers.
    """
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        return any(fits(answer, one) for one in typing.get_args(kind))
    if origin is tuple:
        return isinstance(answer, tuple) and _elements_fit(answer, typing.get_args(kind))
    if kind is float:
        return isinstance(answer, int | float) and not isinstance(answer, bool) and math.isfinite(answer)
    if kind is int:
        return isinstance(answer, int) and not isinstance(answer, bool)
    if kind is None:
        return answer is None
    return isinstance(answer, kind) if isinstance(kind, type) else True


def _elements_fit(answer: tuple[object, ...], kinds: tuple[object, ...]) -> bool:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return all(fits(one, kinds[0]) for one in answer)
    return len(answer) == len(kinds) and all(fits(one, kind) for one, kind in zip(answer, kinds, strict=True))


def misfit(answer: object, kind: object) -> str:
    """Say what was answered and what the hook documents."""
    shown = type(answer).__name__ if dataclasses.is_dataclass(answer) else repr(answer)[:MAX_SHOWN]
    return f"it answered {shown}, the hook documents {_name(kind)}"


def _name(kind: object) -> str:
    return kind.__name__ if isinstance(kind, type) and typing.get_origin(kind) is None else str(kind)
