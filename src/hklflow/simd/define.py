"""Decorator of words: functions that generate code and that kernels can call."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

from numba import types
from numba.extending import intrinsic

from hklflow.simd import private
from hklflow.simd.kinds import I64, Kind, kind_of
from hklflow.simd.value import Value, builder, writing

#: Kind of an argument of any type. The word gets an array as `Array`, and a number as `Value`.
LIKE = None


class Array(NamedTuple):
    """An array in generated code: kind of its items, and address of the first item."""

    kind: Kind
    address: Value


def word(*kinds: Kind | None, returns: Kind | None = None) -> Callable[[Callable[..., Any]], Any]:
    """Turn a function that generates code from values into a word.

    Parameters
    ----------
    kinds
        Kinds of the arguments; Numba converts the arguments of a call to these kinds. `LIKE`
        accepts any type.
    returns
        Kind of the result; None if the function returns nothing.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        own = inspect.signature(function).parameters.values()
        if len(own) != len(kinds):
            raise TypeError(f"{function.__name__} has {len(own)} arguments and {len(kinds)} kinds")

        @wraps(function)
        def typed(context: Any, *arguments: Any) -> Any:
            given = [
                argument if kind is LIKE else kind.numba
                for kind, argument in zip(kinds, arguments, strict=True)
            ]
            result = types.void if returns is None else returns.numba

            def write(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                return _written(function, context, builder, signature, values)

            return result(*given), write

        # Numba reads the names of the arguments from the signature.
        context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        setattr(typed, "__signature__", inspect.Signature([context, *own]))  # noqa: B010
        return intrinsic(typed)

    return decorate


def _written(function: Any, context: Any, code: Any, signature: Any, values: Any) -> Any:
    with writing(code):
        arguments = [
            _argument(context, kind, value)
            for kind, value in zip(signature.args, values, strict=True)
        ]
        result = function(*arguments)
    return private.nothing(context) if result is None else result.llvm


def _argument(context: Any, kind: Any, value: Any) -> Array | Value:
    if not isinstance(kind, types.Array):
        return Value(value, kind_of(kind))
    pointer = private.pointer_to_data(context, builder(), kind, value)
    return Array(kind_of(kind.dtype), Value(builder().ptrtoint(pointer, I64.llvm), I64))
