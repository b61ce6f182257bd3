"""Training-only changes to an image: small ones, which leave a possible chest X-ray."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transform

from pneumonia.errors import ConfigError


@dataclass(frozen=True)
class Augmentation:
    """Random affine pose and intensity of a uint8 grey image, the same for the same seed.

    The numbers are drawn here and handed to torchvision's functions: its random transform
    classes would draw them from the global state, and take twice as long. One image of 224
    pixels costs 0.6 to 0.8 ms of a core, so 2 cores feed 2,500 images/s
    (tests/benchmarks/test_benchmark_data.py).

    Attributes:
        degrees: Largest rotation to either side, degrees.
        translate: Largest shift, as a fraction of the side, 0 to 1.
        scale: Smallest and largest zoom, above 0.
        shear: Largest horizontal shear to either side, degrees.
        brightness: Largest relative change of brightness, 0 to 1.
        contrast: Largest relative change of contrast, 0 to 1.
        horizontal_flip: Probability of a mirror image, 0 to 1. It mirrors the heart: off
            unless a recipe asks for it.
    """

    degrees: float = 10.0
    translate: float = 0.05
    scale: Sequence[float] = (0.9, 1.1)
    shear: float = 0.0
    brightness: float = 0.1
    contrast: float = 0.2
    horizontal_flip: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (
            ("degrees", 180),
            ("translate", 1),
            ("shear", 45),
            ("brightness", 1),
            ("contrast", 1),
            ("horizontal_flip", 1),
        ):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise ConfigError(f"data.augmentation.{name}={value} must lie in 0 to {most}.")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:  # noqa: PLR2004
            raise ConfigError(
                f"data.augmentation.scale={list(self.scale)} must be a smallest and a largest zoom,"
                " both above 0, such as [0.9, 1.1]."
            )

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        """Change one image.

        Args:
            image: uint8 [1, H, W].
            seed: All that the change depends on, 0 or more; the global random state is left
                alone.

        Returns:
            uint8 [1, H, W]; black where the image was moved away.
        """
        random = np.random.default_rng(seed)

        def either_side(most: float) -> float:
            return float(random.uniform(-most, most))

        height, width = image.shape[-2:]
        # Intensity first: what the affine change moves in stays black.
        changed: Tensor = transform.adjust_brightness(image, 1 + either_side(self.brightness))
        changed = transform.adjust_contrast(changed, 1 + either_side(self.contrast))
        changed = transform.affine(
            changed,
            angle=either_side(self.degrees),
            translate=[
                round(either_side(self.translate * width)),
                round(either_side(self.translate * height)),
            ],
            scale=float(random.uniform(self.scale[0], self.scale[1])),
            shear=[either_side(self.shear), 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        if random.random() < self.horizontal_flip:
            changed = transform.horizontal_flip(changed)
        return changed
