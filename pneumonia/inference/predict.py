"""Many files -> rows on disk or on the screen, whatever is wrong with some of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter

from pneumonia.inference.prediction import Failure, Prediction
from pneumonia.inference.predictor import Predictor

Result = Prediction | Failure


@dataclass
class Tally:
    """What came of a list of files.

    Attributes:
        images: Answered.
        failed: Unreadable.
        pneumonia: Answered PNEUMONIA.
        uncertain: Answered within the band of abstention.
        unlike: Unlike the training's images.
        warned: With a warning of their quality.
        seconds: From the first file to the last, without loading the model.
    """

    images: int = 0
    failed: int = 0
    pneumonia: int = 0
    uncertain: int = 0
    unlike: int = 0
    warned: int = 0
    seconds: float = 0.0
    _start: float = field(default_factory=perf_counter, repr=False)

    def add(self, result: Result) -> None:
        """Count a result."""
        self.seconds = perf_counter() - self._start
        if isinstance(result, Failure):
            self.failed += 1
            return
        self.images += 1
        self.pneumonia += result.decision == "PNEUMONIA"
        self.uncertain += bool(result.uncertain)
        self.unlike += bool(result.unlike)
        self.warned += bool(result.warnings)

    def __str__(self) -> str:
        """Give one line for a person."""
        parts = [f"{self.pneumonia} PNEUMONIA, {self.images - self.pneumonia} NORMAL"]
        for count, name in (
            (self.uncertain, "uncertain"),
            (self.unlike, "unlike the training data"),
            (self.warned, "with a warning"),
            (self.failed, "unreadable"),
        ):
            if count:
                parts.append(f"{count} {name}")
        total = self.images + self.failed
        rate = f", {total / self.seconds:.1f} a second" if self.seconds > 0 else ""
        return f"{total} image{'s' * (total != 1)}{rate}: {'; '.join(parts)}"


def predict_files(
    predictor: Predictor,
    paths: Sequence[str],
    write: Callable[[list[Result]], None],
    batch_size: int,
) -> Tally:
    """Ask about files, and hand every batch of answers on before the next.

    Args:
        predictor: The model.
        paths: Files.
        write: Takes the answers of a batch, in order.
        batch_size: Images at once.
    """
    tally = Tally()
    results = predictor.stream(paths, batch_size)
    while some := list(islice(results, batch_size)):
        for result in some:
            tally.add(result)
        write(some)
    return tally
