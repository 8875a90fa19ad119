"""SwAV on images without labels, so that the teacher starts from a trunk that knows their kind."""

from .swav import MultiCrop, SwAVLoss, SwAVTrainer

__all__ = ["MultiCrop", "SwAVLoss", "SwAVTrainer"]
