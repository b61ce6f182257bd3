"""Training-only changes to an image: small ones, which leave a possible chest X-ray."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torchvision.transforms import v2

from pneumonia.errors import ConfigError


@dataclass
class Augmentation:
    """Random affine pose and intensity of a uint8 grey image, the same for the same seed.

    Attributes:
        degrees: Largest rotation to either side, degrees.
        translate: Largest shift, as a fraction of the side.
        scale: Smallest and largest zoom.
        shear: Largest shear, degrees.
        brightness: Largest relative change of brightness, 0 to 1.
        contrast: Largest relative change of contrast, 0 to 1.
        horizontal_flip: Probability of a mirror image, 0 to 1. It mirrors the heart: off
            unless a recipe asks for it.
    """

    degrees: float = 10.0
    translate: float = 0.05
    scale: Sequence[float] = (0.9, 1.1)
    shear: float = 0.0
    brightness: float = 0.2
    contrast: float = 0.2
    horizontal_flip: float = 0.0
    _transform: v2.Compose = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            transforms: list[v2.Transform] = [
                v2.RandomAffine(
                    self.degrees,
                    translate=(self.translate, self.translate),
                    scale=tuple(self.scale),
                    shear=self.shear or None,
                    interpolation=v2.InterpolationMode.BILINEAR,
                ),
                v2.ColorJitter(brightness=self.brightness, contrast=self.contrast),
            ]
            if self.horizontal_flip:
                transforms.append(v2.RandomHorizontalFlip(self.horizontal_flip))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"data.augmentation: {error}.") from error
        self._transform = v2.Compose(transforms)

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        """Change one image.

        Args:
            image: uint8 [1, H, W].
            seed: All that the change depends on; the global random state is left alone.

        Returns:
            uint8 [1, H, W].
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            changed: Tensor = self._transform(image)
        return changed
