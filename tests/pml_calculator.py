"""PML's own figures of retrieval, an oracle in both of its generations."""

import faiss
import torch

from pml_slade.compat import LEGACY  # first: PML 0.9.92 needs what it mends

from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator  # isort: skip

METRICS = {"MAP@R": "mean_average_precision_at_r", "RP": "r_precision", "P@1": "precision_at_1"}


def retrieval(query, labels, gallery=None, gallery_labels=None):
    """MAP@R, R-precision and P@1 in percent of float32 rows of unit length with integer labels."""
    if not torch.cuda.is_available():
        faiss.get_num_gpus = lambda: 0  # PML asks for it, and faiss-gpu 1.7 aborts where there is no driver
    if LEGACY:
        calculator = AccuracyCalculator(include=tuple(METRICS.values()))
        searched = (query, labels) if gallery is None else (gallery, gallery_labels)
        found = calculator.get_accuracy(query, searched[0], labels, searched[1], gallery is None)
    else:
        calculator = AccuracyCalculator(include=tuple(METRICS.values()), k="max_bin_count")
        found = calculator.get_accuracy(query, labels, gallery, gallery_labels)
    return {short: 100 * float(found[name]) for short, name in METRICS.items()}
