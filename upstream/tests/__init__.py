import os

import torch
from pytorch_metric_learning.utils import common_functions as c_f

# What PML's own tests/__init__.py gives its tests.
TEST_DTYPES = [torch.float16, torch.float32, torch.float64]
TEST_DEVICE = torch.device(os.environ.get("TEST_DEVICE", "cuda" if torch.cuda.is_available() else "cpu"))
WITH_COLLECT_STATS = os.environ.get("WITH_COLLECT_STATS", "false") == "true"
c_f.COLLECT_STATS = WITH_COLLECT_STATS
