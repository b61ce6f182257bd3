"""The one exception family: what a user can cause and can mend.

Every message is a sentence that names the file or key, says what was found and what
was expected, and what to do next. Entry points print it and exit non-zero; anything
that is not a `PneumoniaError` is a bug and keeps its traceback.
"""

DAMAGED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What values of any kind raise when they are taken for what they should be."""


class PneumoniaError(Exception):
    """Base of all errors that the user can mend."""


class ConfigError(PneumoniaError):
    """A setting that is misspelt, of the wrong type, or contradicts another."""


class DataError(PneumoniaError):
    """A folder, file or name that is not what a data set must be."""


class ModelError(PneumoniaError):
    """A backbone or a weights file that cannot be used."""


class CheckpointError(PneumoniaError):
    """A checkpoint that is missing, damaged or not one of ours."""


class TrainingError(PneumoniaError):
    """A run that cannot start, or that ended without a usable model."""


class EvaluationError(PneumoniaError):
    """Labels and scores that cannot be evaluated."""


class ExtraError(PneumoniaError):
    """A part of the project whose libraries were not installed with it.

    Args:
        what: What the user asked for.
        extra: The extra that brings it.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra [{extra}]: pip install 'pneumonia[{extra}]'.")


def sentence(error: BaseException) -> str:
    """The one sentence to show for an error.

    A DataLoader worker hands its error over as a whole traceback text; the sentence is
    then the last line, behind the exception's name.

    Args:
        error: Any exception.

    Returns:
        Its message on one line, or its class name where it has none. What would steer a terminal
        is escaped: a message may quote a file.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if lines[0].startswith("Caught ") and "DataLoader worker" in lines[0]:
        return printable(lines[-1].partition(": ")[2] or lines[-1])
    return printable(" ".join(lines))


def printable(text: str) -> str:
    """Escape what would steer a terminal, as a file's name or a model's metadata may.

    Args:
        text: Any.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def first_line(error: BaseException) -> str:
    """What another library's error says, in the length that fits into a sentence of ours.

    Args:
        error: Any exception.

    Returns:
        The first line of its message, at most 200 characters; its class name where it has none.
    """
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
