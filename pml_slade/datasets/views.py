"""The images of a run as training and evaluation see them: splits, and the transforms that go with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .images import ImageDataset
from .splits import Splits
from .transforms import batch_transforms, transforms
from .trunk_input import TrunkInput


@dataclass(frozen=True)
class Views:
    """Splits and the views of their images.

    Attributes:
        splits: the images, without transforms.
        kind: of the images, "photo" or "small", see `transforms`.
        image_size: side in pixels.
        mode: "RGB" or "L".
        strength: "mild" or "strong": how much training augments.
        trunk_input: what the trunk expects of photographs; None: ImageNet's usual values.

    Examples:
        >>> import numpy as np
        >>> from pml_slade.datasets.splits import Splits
        >>> images = ImageDataset(np.zeros((4, 8, 8), np.uint8), [0, 0, 1, 1], mode="L")
        >>> views = Views(Splits(images, images.without_labels(), None, None, "toy"), "small", 8, "L")
        >>> views.plain(views.splits.labeled)[0][0].shape
        torch.Size([1, 8, 8])
    """

    splits: Splits
    kind: str
    image_size: int
    mode: str
    strength: str = "mild"
    trunk_input: TrunkInput | None = None

    def plain(self, images: ImageDataset) -> ImageDataset:
        """The images under the transform of evaluation, under which they are also clustered."""
        return images.with_transform(
            transforms(self.kind, self.image_size, self.mode, trunk_input=self.trunk_input)
        )

    def augmented(self, images: ImageDataset, views: int = 1) -> ImageDataset:
        """The images under the transform of training; `collate` has what it does to a whole batch.

        Args:
            images: to augment.
            views: of each image, 1 or 2; batches of two have all first views first.
        """
        return images.with_transform(self._training(views)[0])

    def collate(self, views: int = 1) -> Callable[[list[Any]], Any] | None:
        """What makes a training batch of items, or None for PyTorch's own."""
        return self._training(views)[1]

    def _training(self, views: int) -> tuple[Any, Callable[[list[Any]], Any] | None]:
        return batch_transforms(self.kind, self.image_size, self.mode, self.strength, views, self.trunk_input)
