"""Runs a checkpoint with torch."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from pneumonia.errors import DAMAGED, CheckpointError, ConfigError, first_line
from pneumonia.inference.metadata import ModelMetadata
from pneumonia.inference.types import ModelOutput, Pixels
from pneumonia.model.checkpoint import read_checkpoint
from pneumonia.model.network import Ensemble, PneumoniaNetwork, build_network
from pneumonia.model.ood_detector import OODDetector

_PREFIX = "network."
_IMAGES_AT_ONCE = 4


class TorchBackend:
    """A network on a device in full precision, and its OOD detector on the CPU in double.

    On a CPU each core runs the network alone on a few images at a time, which stay in its cache.
    Cores that shared every layer would wait for each other after each one, and for image loading.
    """

    def __init__(
        self,
        network: PneumoniaNetwork | Ensemble,
        detector: OODDetector | None,
        device: torch.device,
    ) -> None:
        self.network = network.eval().to(device)
        self.detector = detector.eval() if detector is not None else None

    def __call__(self, images: Pixels) -> ModelOutput:
        """Run network and OOD detector on a batch; see `Backend`.

        Raises:
            CheckpointError: If the detector belongs to another network.
        """
        cores = torch.get_num_threads()
        if self.network.device.type != "cpu" or not 1 < cores <= len(images):
            return self._run(images)
        parts = np.array_split(images, cores * math.ceil(len(images) / (cores * _IMAGES_AT_ONCE)))
        try:
            with ThreadPoolExecutor(
                cores, initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                outputs = list(pool.map(self._run, parts))
        finally:
            torch.set_num_threads(cores)  # parts of torch keep one number for all threads
        scores = [output.ood_score for output in outputs if output.ood_score is not None]
        return ModelOutput(
            np.concatenate([output.logits for output in outputs]),
            np.concatenate(scores) if scores else None,
        )

    def _run(self, images: Pixels) -> ModelOutput:
        batch = torch.from_numpy(images).unsqueeze(1)
        with torch.inference_mode():
            logits, embedding = self.network.embed(batch.to(self.network.device))
            scores = None
            if self.detector is not None:
                sizes = (self.detector.image_size, self.detector.embedding_size)
                if sizes != (batch.shape[-1], embedding.shape[1]):
                    raise CheckpointError(
                        "The OOD detector in the checkpoint belongs to another network; use"
                        " another checkpoint."
                    )
                scores = self.detector(batch, embedding.cpu()).numpy()
        return ModelOutput(logits.cpu().numpy().astype(np.float64), scores)


def open_checkpoint(path: str | Path, device: str) -> tuple[TorchBackend, ModelMetadata]:
    """Open a `.ckpt` file of this project on a device; no code in it is run.

    Raises:
        CheckpointError: If the file is not a checkpoint, or is damaged.
        ConfigError: If the device is not available.
    """
    chosen = choose_device(device)
    checkpoint = read_checkpoint(path)
    state, values = (checkpoint.pop(key, None) for key in ("state_dict", "ood_detector"))
    metadata = ModelMetadata.read(checkpoint, path)
    try:
        network = build_network(checkpoint["hyper_parameters"])
        network.load_state_dict(
            {k.removeprefix(_PREFIX): v for k, v in state.items() if k.startswith(_PREFIX)}
        )
    except (ConfigError, *DAMAGED) as error:
        raise CheckpointError(
            f"{path} has no backbone with fitting weights ({first_line(error)}); name the"
            " best.ckpt of a run."
        ) from error
    detector = None if values is None else OODDetector.from_dict(values)
    return TorchBackend(network, detector, chosen), metadata


def choose_device(name: str) -> torch.device:
    """Find a device: `cpu`, `cuda`, `cuda:1`, `mps`, or `auto` for CUDA if available, else CPU.

    Raises:
        ConfigError: If it is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"device {name} is not available ({first_line(error)}); choose auto, cpu, cuda, cuda:1"
            " or mps."
        ) from error
    return device
