"""SwAV on images without labels, so that the teacher starts from a trunk that knows their kind."""

from .swav import SwAVLoss, SwAVTrainer, lars
from .views import MultiCrop, swav_views

__all__ = ["MultiCrop", "SwAVLoss", "SwAVTrainer", "lars", "swav_views"]
