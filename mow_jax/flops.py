"""Floating-point operations of a jax function, counted from its jaxpr: matrix products, loops included.

The compiler's own count sees a loop's body once; this one multiplies it. Used by learner and by the benchmarks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax


def count(function: Callable, *arguments: Any) -> int:
    """Multiplications and additions in the matrix products of function(*arguments); arguments may be shapes."""
    return of(jax.make_jaxpr(function)(*arguments).jaxpr)


def of(jaxpr: Any) -> int:
    """The same of a jaxpr. Raises ValueError for a loop of unknown length."""
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> int:
    kind = equation.primitive.name
    if kind == "dot_general":
        return _product(equation)
    if kind == "conv_general_dilated":
        return _convolution(equation)
    if kind == "while":
        raise ValueError("a while loop has no known length: its operations cannot be counted")
    if kind == "cond":
        return max(of(branch.jaxpr) for branch in equation.params["branches"])
    times = equation.params["length"] if kind == "scan" else 1
    inner = [value for value in equation.params.values() if hasattr(value, "eqns") or hasattr(value, "jaxpr")]
    return times * sum(of(getattr(value, "jaxpr", value)) for value in inner)


def _product(equation: Any) -> int:
    left, _ = (variable.aval.shape for variable in equation.invars)
    (contracted, _), _ = equation.params["dimension_numbers"]
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    outputs = equation.params["dimension_numbers"].rhs_spec[0]
    each = math.prod(size for axis, size in enumerate(kernel) if axis != outputs)
    return 2 * math.prod(equation.outvars[0].aval.shape) * each
