"""The settings of clustering alone, which commands read without numpy."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..checks import check_int
from ..exceptions import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

Method = Literal["kmeans", "ward"]
MOST_SEED = (1 << 31) - 1
"""That faiss takes."""


@dataclass(frozen=True)
class ClusteringSettings:
    """See `Clustering`, which adds what is done with them."""

    method: Method = "ward"
    whitening: float = 0.5
    smooth: bool = True
    num_neighbours: int | None = None
    min_cluster_size: int = 2
    seed: int = 0
    niter: int = 25
    nredo: int = 1
    normalize: bool = True
    max_points_per_centroid: int | None = None
    max_ward_points: int | None = None
    device: str = "cpu"

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """Refuse a setting that does not exist, which a dataclass itself does by a bare TypeError."""
        names = [field.name for field in fields(cls)]
        unknown = [name for name in settings if name not in names]
        if unknown:
            raise ConfigError(f"clustering has no setting {', '.join(unknown)}; it has {', '.join(names)}.")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ConfigError(f"method must be one of {', '.join(get_args(Method))}, got {self.method!r}.")
        if isinstance(self.whitening, str) or not 0 <= self.whitening <= 1:
            raise ConfigError(f"whitening must be a power in [0, 1], got {self.whitening!r}.")
        for name, least in (("min_cluster_size", 1), ("seed", 0), ("niter", 1), ("nredo", 1)):
            check_int(name, getattr(self, name), at_least=least)
        if self.seed > MOST_SEED:
            raise ConfigError(f"seed must be at most {MOST_SEED}, got {self.seed}.")
        for name in ("num_neighbours", "max_points_per_centroid", "max_ward_points"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), at_least=1)
        for name in ("smooth", "normalize"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, got {getattr(self, name)!r}.")
        if not isinstance(self.device, str):
            raise ConfigError(f"device must be a name such as cpu or cuda, got {self.device!r}.")
        if self.num_neighbours is not None and not self.smooth:
            raise ConfigError(f"num_neighbours={self.num_neighbours} is of smoothing: give smooth=True, too.")

    @classmethod
    def plain(cls, **settings: Any) -> Self:
        """The settings of `cluster`: k-means, neither whitened nor smoothed, all points kept, unless given.

        Args:
            settings: those of the constructor; `num_neighbours` alone smooths.

        Raises:
            ConfigError: as the constructor.

        Examples:
            >>> ClusteringSettings.plain(min_cluster_size=3).method
            'kmeans'
        """
        smooth = settings.get("num_neighbours") is not None
        plain = {"method": "kmeans", "whitening": 0.0, "smooth": smooth, "min_cluster_size": 1}
        return cls(**{**plain, **settings})
