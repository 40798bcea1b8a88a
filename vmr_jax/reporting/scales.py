"""Coordinates, labels and round ticks of the drawings."""

import math
from collections.abc import Sequence


def number(value: float) -> str:
    """A coordinate with at most two decimals: 12.5, 40, 0.33."""
    return f"{round(value, 2) + 0.0:.8g}"  # adding 0 makes -0 a 0


def share(value: float) -> str:
    """A fraction as a percentage of the width: 0.125 is 12.5%."""
    return f"{number(100 * value)}%"


def figure(value: float) -> str:
    """A value for a label: at most four digits, thousands as k, millions as M."""
    for size, suffix, unit in ((1e6, "M", 1e6), (1e4, "k", 1e3)):
        if abs(value) >= size:
            return f"{value / unit:.4g}{suffix}"
    return f"{value + 0.0:.4g}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (multiples of 1, 2 or 5 times a power of ten) inside [low, high]."""
    step = _step(low, high, count)
    return _multiples(step, math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9))


def ticks_around(values: Sequence[float], count: int = 5) -> list[float]:
    """Round numbers of which the first and the last enclose `values`: a vertical axis.

    It begins at zero, unless the values are negative or vary by less than a quarter of the largest.
    """
    low, high = min(values), max(values)
    if low >= 0 and (high - low >= 0.25 * high or low == high):
        low = 0.0
    if low == high:
        low, high = (0.0, 1.0) if low == 0 else (low, 0.0)
    step = _step(low, high, count)
    return _multiples(step, math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9))


def _step(low: float, high: float, count: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least (high - low) / count."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))


def _multiples(step: float, first: int, last: int) -> list[float]:
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]
