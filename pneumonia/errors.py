"""Exceptions for everything that a user can cause and correct.

A message names the file or key, what was found, what was expected and what to do. Entry points
print it and exit non-zero; any other exception is a bug and keeps its traceback.
"""

DAMAGED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Raised when values of an unexpected kind, as from a damaged file, are used."""


class PneumoniaError(Exception):
    """Base class."""


class ConfigError(PneumoniaError):
    """A setting is unknown, of the wrong type, or contradicts another."""


def check_setting(valid: bool, key: str, value: object, expected: str) -> None:
    """Refuse a value that is not valid, naming its key.

    Raises:
        ConfigError: If it is not.
    """
    if not valid:
        raise ConfigError(f"{key}={value!r}: expected {expected}.")


class DataError(PneumoniaError):
    """A folder, file or file name does not fit into a data set."""


class ModelError(PneumoniaError):
    """A backbone or a weights file cannot be used."""


class CheckpointError(PneumoniaError):
    """A checkpoint is missing, damaged or not of this project."""


class TrainingError(PneumoniaError):
    """A run cannot start, or ended without a usable model."""


class EvaluationError(PneumoniaError):
    """Labels and scores cannot be evaluated."""


class ExtraError(PneumoniaError):
    """What the user asked for needs an extra that is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra [{extra}]: pip install 'pneumonia[{extra}]'.")


def sentence(error: BaseException) -> str:
    """The message of an error on one printable line; its class name where it has none.

    A DataLoader worker passes its error on as the text of a traceback, whose last line holds the
    message after the name of the exception.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if lines[0].startswith("Caught ") and "DataLoader worker" in lines[0]:
        return printable(lines[-1].partition(": ")[2] or lines[-1])
    return printable(" ".join(lines))


def printable(text: str) -> str:
    """Escape control characters, which file names and metadata may contain."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def first_line(error: BaseException) -> str:
    """The first line of a library's error, at most 200 characters; its class name if empty."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
