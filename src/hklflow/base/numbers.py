"""Write numbers with their errors, for sentences, pages and labels."""

import math

RAISED = str.maketrans("0123456789-+", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺")
"""Digits and signs of an exponent."""

_MOST_DECIMALS = 5  # zeros that are still easy to count
_LARGEST = 6  # numbers from 10⁶ on have a power of ten


def decimals(sigma: float) -> int:
    """Return the decimals for an error with one digit, or two from 10 to 19."""
    return max(-_last_place(sigma), 0) if sigma > 0 and math.isfinite(sigma) else 2


def plus_minus(value: float, sigma: float, sign: str = "") -> str:
    """Write a number with its standard deviation.

    Numbers with many zeros have a common power of ten: ``0.20 ± 0.03``, but
    ``(6.1 ± 0.3) × 10⁻¹⁰``. The standard deviation has one digit, or two digits from 10 to 19.

    Parameters
    ----------
    value, sigma : float
    sign : str
        "+": positive values have a sign.
    """
    power = _power(value, sigma)
    value, sigma = value / 10.0**power, sigma / 10.0**power
    n = decimals(sigma)
    text = f"{value:{sign}.{n}f} ± {sigma:.{n}f}".replace("-", "−")
    return f"({text}) × 10{_raised(power)}" if power else text


def in_brackets(value: float | None, sigma: float | None, digits: int = 6) -> str:
    """Write a number with its standard uncertainty in the form of crystallography: 1.234(5).

    The uncertainty has one digit, or two digits from 10 to 19 (rule of the IUCr journals). Without
    an uncertainty (None, or 0: fixed by symmetry) the number has ``digits`` digits. Numbers with
    many zeros have a power of ten: 6.1(3) × 10⁻¹⁰.
    """
    if value is None or not math.isfinite(value):
        return "–"
    if sigma is None or not math.isfinite(sigma) or sigma <= 0:
        return rounded(value, digits)
    power = _power(value, sigma)
    value, sigma = value / 10.0**power, sigma / 10.0**power
    last = _last_place(sigma)
    error = round(sigma / 10.0**last)
    if last > 0:
        number, error = f"{round(value, -last):.0f}", error * 10**last
    else:
        number = f"{value:.{-last}f}"
    text = f"{number}({error})".replace("-", "−")
    return f"{text} × 10{_raised(power)}" if power else text


def rounded(value: float, digits: int = 2) -> str:
    """Write a number with some significant digits: ``0.061`` and ``6100``, ``6.1 × 10⁻¹⁰``."""
    text = f"{value:.{digits}g}"
    if "e" in text and 1 <= abs(value) < 10**_LARGEST:
        text = f"{float(text):.0f}"
    return with_power(text)


def with_power(text: str) -> str:
    """Write the exponent of a formatted number as a power of ten: ``6.1e-10`` as 6.1 × 10⁻¹⁰."""
    mantissa, _, exponent = text.replace("-", "−").partition("e")
    if not exponent:
        return mantissa
    return f"{mantissa} × 10{_raised(int(exponent.replace('−', '-')))}"


def _last_place(sigma: float) -> int:
    """Return the power of ten of the last digit of an error."""
    last = math.floor(math.log10(sigma))
    return last - 1 if round(sigma / 10.0 ** (last - 1)) < 20 else last


def _power(value: float, sigma: float) -> int:
    """Return the power of ten that a number with an error is written with; 0 for none."""
    size = max(abs(value), sigma)
    if not size > 0 or not math.isfinite(size):
        return 0
    power = math.floor(math.log10(size))
    places = decimals(sigma) if sigma > 0 else 1 - power
    return power if (power < -3 and places > _MOST_DECIMALS) or power >= _LARGEST else 0


def _raised(power: int) -> str:
    return str(power).translate(RAISED)
