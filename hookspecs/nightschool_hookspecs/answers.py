"""Whether an answer has the type that its hook declares. The daemon and the contract tests ask it alike."""

import dataclasses
import math
import types
import typing
from collections.abc import Callable


def answer_type(specification: Callable[..., object]) -> object:
    """The declared type of one answer, None included where the hook may have no opinion."""
    return typing.get_type_hints(specification).get("return", object)


def fits(answer: object, kind: object) -> bool:
    """Whether an answer is of a type: a record, a scalar, a tuple of these, or a union.

    A whole number serves as a float; NaN and infinities are no answers.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(fits(answer, one) for one in arguments)
    if origin is tuple:
        return isinstance(answer, tuple) and _elements_fit(answer, arguments)
    if kind is float:
        return isinstance(answer, int | float) and not isinstance(answer, bool) and math.isfinite(answer)
    if kind is int:
        return isinstance(answer, int) and not isinstance(answer, bool)
    return isinstance(answer, kind) and _numbers_are_finite(answer) if isinstance(kind, type) else True


def _numbers_are_finite(answer: object) -> bool:
    """Whether no field of a record is NaN or infinite; other answers have no fields."""
    fields = dataclasses.fields(answer) if dataclasses.is_dataclass(answer) else ()
    values = (getattr(answer, one.name) for one in fields)
    return all(math.isfinite(value) for value in values if isinstance(value, float))


def _elements_fit(answer: tuple[object, ...], kinds: tuple[object, ...]) -> bool:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return all(fits(one, kinds[0]) for one in answer)
    return len(answer) == len(kinds) and all(fits(one, kind) for one, kind in zip(answer, kinds, strict=True))
