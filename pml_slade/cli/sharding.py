"""Embeddings in several files, of which a later call writes those that are missing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..exceptions import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from ..datasets import ImageDataset


def shard_name(output: Path, number: int) -> Path:
    """The file of a shard.

    Examples:
        >>> shard_name(Path("out/vectors.csv"), 12).as_posix()
        'out/vectors-00012.csv'
    """
    return output.with_name(f"{output.stem}-{number:05d}{output.suffix or '.npz'}")


def missing_shards(
    output: Path, images: ImageDataset, size: int, model: str | None
) -> list[tuple[Path, np.ndarray]]:
    """Return the shards that are not written yet, each with the positions of its images.

    What they are made of is written to `output` with the suffix .json, and compared where it is there.

    Args:
        output: name that those of the shards are made from.
        images: to embed.
        size: images in a shard.
        model: digest of the model file.

    Raises:
        ConfigError: shards of that name were made of other images, by another model or in another size.
    """
    import numpy as np

    from ..checkpoints import write_json_atomic

    record, now = output.with_suffix(".json"), _made_of(images, size, model)
    before = _read(record)
    if before is None:
        write_json_atomic(record, now)
    elif changed := [name for name in now if before.get(name) != now[name]]:
        raise ConfigError(
            f"output: the shards of {output} were made with other {' and '.join(changed)}, see {record}; "
            "delete them, or give another name."
        )
    starts = range(0, len(images), size)
    shards = [(shard_name(output, i), np.arange(s, min(s + size, len(images)))) for i, s in enumerate(starts)]
    return [(file, positions) for file, positions in shards if not file.exists()]


def _made_of(images: ImageDataset, size: int, model: str | None) -> dict[str, Any]:
    names = hashlib.sha256()
    for i in range(len(images)):
        names.update(images.name(i).encode("utf-8", "surrogateescape") + b"\0")
    return {"model": model, "images": len(images), "names": names.hexdigest(), "shard": size}


def _read(record: Path) -> dict[str, Any] | None:
    import json

    if not record.exists():
        return None
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"output: {record} is damaged ({error}); delete it and the shards.") from None
