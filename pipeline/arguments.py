"""How arguments of public functions are checked: against the annotations, before any work is done."""

from __future__ import annotations

import builtins
import collections.abc
import difflib
import inspect
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from pathlib import Path, PurePath
from typing import Any, ParamSpec, TypeVar

from pipeline.errors import PipelineError

P = ParamSpec("P")
T = TypeVar("T")

#: The smallest and largest value of numeric arguments whose type sets no bound.
BOUNDS: Mapping[str, tuple[float, float]] = {"random_state": (0, 2**32 - 1), "port": (0, 65535)}

_NO_SEQUENCE: tuple[Any, ...] = (str, bytes, bytearray, Mapping)  # iterable, but one value


def check_arguments(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a public function: a wrong argument raises `PipelineError` before the function runs.

    Each argument is compared with its annotation; `Any` and names that are imported for type checkers alone are not.
    An unknown, a missing or a repeated argument is a `PipelineError` too, with the nearest name.
    """

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        bind_arguments(function, *args, **kwargs)
        return function(*args, **kwargs)

    return checked


def bind_arguments(function: Callable[..., Any], *args: Any, **kwargs: Any) -> inspect.BoundArguments:
    """Return the arguments of a call by name, with defaults, each checked; nothing is called.

    Raises
    ------
    PipelineError
        An argument is unknown, missing, or not what its annotation says.
    """
    signature = inspect.signature(function)
    name = getattr(function, "__name__", "the function")
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        names = [key for key in signature.parameters if key != "self"]
        unknown = next((key for key in kwargs if key not in signature.parameters), None)
        near = difflib.get_close_matches(unknown or "", names, n=1, cutoff=0.5)
        raise PipelineError(
            f"{name}: expected the arguments {', '.join(names)}; {error}",
            f"did you mean {near[0]}?" if near else f"see help({name})",
        ) from error
    check_values(function, bound.arguments)
    bound.apply_defaults()
    return bound


def check_values(function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Raise `PipelineError` for a value that is not what the annotation of the function's parameter says.

    Parameters
    ----------
    function : callable
    values : mapping of str
        Values by the names of parameters; other names are passed over.
    """
    signature = inspect.signature(function)
    annotations = _annotations(inspect.unwrap(function))
    for name, value in values.items():
        parameter = signature.parameters.get(name)
        if parameter is None or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if name == "labels":  # a table in any form; see `pipeline.labels`
            if isinstance(value, numbers.Number | bytes | type) or callable(value):
                raise _wrong(name, "a table of labels", value, "pass a file such as labels='labels.csv'")
            continue
        annotation = annotations.get(name, Any)
        if value is parameter.default or fits(value, annotation):
            _check_bounds(name, value)
            continue
        raise _wrong(name, describe(annotation), value, _example(name, parameter))


def _check_bounds(name: str, value: Any) -> None:
    least, most = BOUNDS.get(name, (-math.inf, math.inf))
    if isinstance(value, numbers.Real) and not least <= float(value) <= most:
        raise _wrong(name, f"a number from {least:,} to {most:,}", value, f"leave out {name}")


def _wrong(name: str, expected: str, value: Any, step: str) -> PipelineError:
    try:
        shown = f"{value!r:.60}"
    except Exception:  # `__repr__` of a class that this package does not know may raise anything
        shown = "a value"
    shown = "None" if value is None else f"{shown} ({type(value).__name__})"
    return PipelineError(f"{name}: expected {expected}, got {' '.join(shown.split())}", step)


def _example(name: str, parameter: inspect.Parameter) -> str:
    default = parameter.default
    if default is parameter.empty:
        return f"pass another {name}"
    if isinstance(default, str | int | float) and not isinstance(default, os.PathLike):
        return f"leave out {name}, or pass a value such as {name}={default!r}"
    return f"leave out {name}"


@lru_cache(maxsize=256)
def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function's parameters; those that cannot be evaluated are `Any`."""
    names = _Names({**vars(typing), **getattr(function, "__globals__", {})})
    found: dict[str, Any] = {}
    for name, text in getattr(function, "__annotations__", {}).items():
        try:
            found |= typing.get_type_hints(types.SimpleNamespace(__annotations__={name: text}), {}, names)
        except (NameError, TypeError, AttributeError):
            found[name] = Any
    return found


class _Names(dict[str, Any]):
    """The names of a module; a name imported only under `TYPE_CHECKING` is a class compared by its name."""

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            raise KeyError(name)
        return _ByName(name, (), {})


class _ByName(type):
    """A class that is not imported: its instances are those of any class of this name."""

    def __instancecheck__(cls, value: Any) -> bool:
        return any(kind.__name__ == cls.__name__ for kind in type(value).__mro__)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _ByName(name, (), {})


def fits(value: Any, annotation: Any) -> bool:
    """Return whether a value fits an annotation; NumPy numbers are numbers, booleans are not."""
    if annotation is Any:
        return True
    if annotation is None or annotation is type(None):
        return value is None
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, choice) for choice in typing.get_args(annotation))
    if annotation is bool:
        return _is_bool(value)
    if annotation in (int, float):
        kind = numbers.Integral if annotation is int else numbers.Real
        return isinstance(value, kind) and not _is_bool(value)
    if annotation is str:
        return isinstance(value, str)
    kind = origin or annotation
    if kind is collections.abc.Sequence:
        return _is_sequence(value, typing.get_args(annotation))
    if kind is collections.abc.Callable:
        return callable(value)
    if not isinstance(kind, type):
        return True
    if issubclass(kind, PurePath | os.PathLike):
        return isinstance(value, os.PathLike)
    return isinstance(value, kind)


def _is_bool(value: Any) -> bool:
    kind = type(value)  # NumPy's bool is recognized by its name, so that a check does not import NumPy
    return kind is bool or (kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_"))


def _is_sequence(value: Any, kinds: tuple[Any, ...]) -> bool:
    """Return whether a value holds several values of these kinds, in any container."""
    if isinstance(value, _NO_SEQUENCE) or not isinstance(value, collections.abc.Iterable):
        return False
    if isinstance(value, collections.abc.Iterator) or not kinds:  # iterating over it would exhaust it
        return True
    return all(fits(item, kinds[0]) for item in value)


def describe(annotation: Any) -> str:
    """Return what an annotation says, in words: "text or several texts"."""
    kinds = (
        typing.get_args(annotation)
        if typing.get_origin(annotation) in (typing.Union, types.UnionType)
        else [annotation]
    )
    words = list(dict.fromkeys(_word(kind) for kind in kinds))
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _word(kind: Any) -> str:
    kind = type(None) if kind is None else kind
    if kind in _WORDS:
        return _WORDS[kind]
    origin = typing.get_origin(kind) or kind
    if origin is collections.abc.Sequence:
        inside = typing.get_args(kind)
        return f"a list of {describe(inside[0])}" if inside else "a list"
    if origin is collections.abc.Mapping:
        return "a mapping"
    if origin is collections.abc.Callable:
        return "a function"
    if isinstance(origin, type) and issubclass(origin, os.PathLike):
        return "a path"
    return f"a {getattr(origin, '__name__', origin)}"


_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    type(None): "None",
    Path: "a path",
}
