"""After the fit: what the hold-out looks like, so that the model can refuse what is unlike it."""

import logging

import torch
from torch.utils.data import DataLoader

from pneumonia.data.dataset import Radiographs
from pneumonia.errors import EvaluationError
from pneumonia.model.classifier import PneumoniaClassifier
from pneumonia.model.detector import Detector

log = logging.getLogger(__name__)


def fit_detector(
    checkpoint: str, holdout: Radiographs, device: torch.device, batch_size: int
) -> Detector | None:
    """Fit the detector of unlike images to the hold-out, in one process.

    Args:
        checkpoint: A `.ckpt` file of this project.
        holdout: Its images and patients, not augmented.
        device: Where the network runs.
        batch_size: Images at once.

    Returns:
        None if the hold-out is too small for one; that is logged.
    """
    model = PneumoniaClassifier.load_from_checkpoint(
        checkpoint, map_location=device, weights_only=True
    )
    network = model.network.eval()
    loader = DataLoader(holdout, batch_size)
    with torch.inference_mode():
        found = [network.embed(batch["image"].to(device))[1].cpu() for batch in loader]
    try:
        detector = Detector.fit(
            (batch["image"] for batch in loader), torch.cat(found), holdout.samples.patients
        )
    except EvaluationError as error:
        log.warning("The model will not tell images that are unlike its training's: %s", error)
        return None
    log.info(
        "unlike the training data: a score above %.3f, as of %.1f%% of images like the hold-out's",
        detector.threshold,
        100 * detector.share,
    )
    return detector
