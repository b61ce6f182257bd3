"""What follows from counting images by label and call, for one count or thousands at once."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

PREVALENCES = (0.05, 0.2, 0.5)
"""Shares of PNEUMONIA for which predictive values are given: a screening, a ward, a referral."""


def predictive_name(value: str, prevalence: float) -> str:
    """Name a predictive value at a prevalence, such as `ppv_at_5_percent`.

    Args:
        value: `ppv` or `npv`.
        prevalence: In (0, 1).
    """
    return f"{value}_at_{prevalence:.0%}".replace("%", "_percent")


def rates(
    tp: ArrayLike, fp: ArrayLike, n_positive: ArrayLike, n_negative: ArrayLike
) -> dict[str, NDArray[np.float64]]:
    """Compute every metric of a threshold from counts, or from weighted counts.

    Predictive values at prevalence p follow Bayes' theorem, with Se sensitivity and Sp
    specificity (Altman and Bland, BMJ 309, 1994, 102): PPV = Se p / (Se p + (1 - Sp)(1 - p)), and
    NPV = Sp (1 - p) / (Sp (1 - p) + (1 - Se) p). MCC is the correlation of label and call
    (Matthews 1975), 0 where all calls are the same.

    Args:
        tp: PNEUMONIA images called PNEUMONIA; any shape.
        fp: NORMAL images called PNEUMONIA; the same shape.
        n_positive: PNEUMONIA images; positive, broadcastable.
        n_negative: NORMAL images; positive, broadcastable.

    Returns:
        By name, arrays of the common shape; recall is sensitivity and precision is ppv under its
        other name. Predictive values are NaN where no image was called so.
    """
    tp, fp, pos, neg = (np.asarray(x, np.float64) for x in (tp, fp, n_positive, n_negative))
    fn, tn = pos - tp, neg - fp
    sensitivity, specificity, false_alarm = tp / pos, tn / neg, fp / neg
    ppv = _ratio(tp, tp + fp)
    spread = np.sqrt(tp + fp) * np.sqrt(tn + fn) * np.sqrt(pos) * np.sqrt(neg)
    found = {
        "sensitivity": sensitivity,
        "recall": sensitivity,
        "specificity": specificity,
        "ppv": ppv,
        "precision": ppv,
        "npv": _ratio(tn, tn + fn),
        "accuracy": (tp + tn) / (pos + neg),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "f1": 2 * tp / (pos + tp + fp),
        "mcc": np.nan_to_num(_ratio(tp * tn - fp * fn, spread), nan=0.0),
    }
    for p in PREVALENCES:
        hits, alarms = sensitivity * p, false_alarm * (1 - p)
        cleared, misses = specificity * (1 - p), fn / pos * p
        found[predictive_name("ppv", p)] = _ratio(hits, hits + alarms)
        found[predictive_name("npv", p)] = _ratio(cleared, cleared + misses)
    return found


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide, with NaN where there is nothing to divide by."""
    shares = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares
