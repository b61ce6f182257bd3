"""Random transforms of training images, small enough to leave a plausible chest X-ray."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F  # noqa: N812  torchvision's own abbreviation

from pneumonia.errors import check_setting

_UPPER_BOUNDS = {
    "degrees": 180,
    "translate": 1,
    "shear": 45,
    "brightness": 1,
    "contrast": 1,
    "horizontal_flip": 1,
}


@dataclass(frozen=True)
class Augmentation:
    """Random affine transform and intensity of a uint8 grey image, the same for the same seed.

    torchvision's transform classes would draw from the global random state, and take twice as long.

    Attributes:
        degrees: Largest rotation to either side, 0 to 180.
        translate: Largest shift, as a fraction of the side, 0 to 1.
        scale: Smallest and largest zoom, above 0.
        shear: Largest horizontal shear to either side, 0 to 45 degrees.
        brightness: Largest relative change of brightness, 0 to 1.
        contrast: Largest relative change of contrast, 0 to 1.
        horizontal_flip: Probability of a mirror image, 0 to 1. It mirrors the heart.

    Raises:
        ConfigError: If a value is out of range.
    """

    degrees: float = 10.0
    translate: float = 0.05
    scale: Sequence[float] = (0.9, 1.1)
    shear: float = 0.0
    brightness: float = 0.1
    contrast: float = 0.2
    horizontal_flip: float = 0.0

    def __post_init__(self) -> None:
        for name, bound in _UPPER_BOUNDS.items():
            value = getattr(self, name)
            check_setting(0 <= value <= bound, f"data.augmentation.{name}", value, f"0 to {bound}")
        scale = list(self.scale)
        ordered = len(scale) == 2 and 0 < scale[0] <= scale[1]  # noqa: PLR2004
        check_setting(ordered, "data.augmentation.scale", scale, "two ascending zooms above 0")

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        """Transform one image.

        Args:
            image: uint8 [1, H, W].
            seed: 0 or more.

        Returns:
            uint8 [1, H, W]; black where the image was moved away.
        """
        random = np.random.default_rng(seed)

        def symmetric(bound: float) -> float:
            return float(random.uniform(-bound, bound))

        height, width = image.shape[-2:]
        # Intensity first, so that the borders of the affine transform stay black.
        result: Tensor = F.adjust_brightness(image, 1 + symmetric(self.brightness))
        result = F.adjust_contrast(result, 1 + symmetric(self.contrast))
        result = F.affine(
            result,
            angle=symmetric(self.degrees),
            translate=[
                round(symmetric(self.translate * width)),
                round(symmetric(self.translate * height)),
            ],
            scale=float(random.uniform(self.scale[0], self.scale[1])),
            shear=[symmetric(self.shear), 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        if random.random() < self.horizontal_flip:
            result = F.horizontal_flip(result)
        return result
