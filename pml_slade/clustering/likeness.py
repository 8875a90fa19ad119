"""How like labeled images the images of a pool are: much of what people have shows other things."""

from __future__ import annotations

import numpy as np
import torch

from .embedding import checked_embeddings, unit_rows
from .neighbours import Neighbours

NEAREST = 5
"""Labeled images that an image is compared with: those that are nearest to it."""
QUERIES = 1024
"""Labeled images that are compared with all others at once."""


class Likeness:
    """How near images are to labeled ones, measured by how near these are to other classes than their own.

    A pool of the same kind shows further classes. So each labeled image tells how near an image of a class
    that is not labeled may be: it is compared with all classes but its own. An image of the pool counts as
    like the labeled ones if it is nearer to them than the furthest `share` of these are to each other. No
    label of the pool is read, and nothing is trained.

    Args:
        features: of the labeled images, (N, d), as a pretrained trunk gives them. Only their directions
            count. They should not be centred: what pictures of one kind share tells them apart from others.
        labels: their classes, (N,), two or more.
        share: of the labeled images that would themselves be left out.
        device: where images are compared.

    Attributes:
        floor: nearness, a mean cosine, from which on an image is like the labeled ones.

    Raises:
        DataError: bad shape, values that are not finite.
        ValueError: fewer than two classes, or `share` is not in [0, 1).

    Examples:
        >>> birds = np.array([[1.0, 0.2, 0.0], [1.0, 0.1, 0.0], [1.0, 0.0, 0.2], [1.0, 0.0, 0.1]])
        >>> likeness = Likeness(birds, np.array([0, 0, 1, 1]))
        >>> likeness.nearness(np.array([[1.0, 0.1, 0.1], [0.0, 0.0, 1.0]])).round(2)
        array([0.99, 0.07], dtype=float32)
        >>> bool(0.9 < likeness.floor < 0.99)
        True
    """

    def __init__(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        share: float = 0.05,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"share must be in [0, 1), got {share!r}.")
        classes = np.unique(labels)
        if len(labels) != len(features) or len(classes) < 2:
            raise ValueError(
                f"labels must be one for each of the {len(features)} features, of two classes or more, got "
                f"{len(labels)} of {len(classes)}."
            )
        self._labeled = Neighbours(unit_rows(checked_embeddings(features)), device)
        self.floor = float(np.quantile(self._to_other_classes(np.asarray(labels)), share))

    def nearness(self, features: np.ndarray) -> np.ndarray:
        """Return the mean cosine of images to the labeled ones that are nearest to each, (n,) float32.

        Args:
            features: of the images, (n, d).

        Raises:
            DataError: bad shape, values that are not finite.
        """
        labeled, x = self._labeled, unit_rows(checked_embeddings(features))
        k = min(NEAREST, len(labeled))
        rows = labeled.rows(k)
        found = [labeled.search(x[i : i + rows], k)[0].mean(axis=1) for i in range(0, len(x), rows)]
        return np.concatenate(found)

    def _to_other_classes(self, labels: np.ndarray) -> np.ndarray:
        """Of each labeled image to those of other classes, (N,) float32."""
        x = torch.from_numpy(self._labeled.vectors).to(self._labeled.device)
        of = torch.from_numpy(labels.astype(np.int64)).to(x.device)
        others = len(labels) - int(np.unique(labels, return_counts=True)[1].max())
        found = []
        for rows in torch.arange(len(x), device=x.device).split(QUERIES):
            cosines = (x[rows] @ x.T).masked_fill(of[rows, None] == of, -torch.inf)
            found.append(cosines.topk(min(NEAREST, others)).values.mean(dim=1))
        return torch.cat(found).cpu().numpy()
