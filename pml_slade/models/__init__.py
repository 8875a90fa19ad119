"""Trunks and embedders, the weights they start from, and the file they end in."""

from pml_slade.models.convnet import ConvNet
from pml_slade.models.embedder import Embedder, principal_start
from pml_slade.models.inputs import check_forward, trunk_input
from pml_slade.models.options import check_options
from pml_slade.models.saving import LoadedModel, load_model, save_model
from pml_slade.models.splitting import SplitTrunk, split_trunk
from pml_slade.models.swav_checkpoint import (
    SwAVCheckpoint,
    load_swav_checkpoint,
    save_swav_checkpoint,
    swav_head,
)
from pml_slade.models.trunks import build_model, build_trunk, named_trunk, resolve_trunk_name, trunk_names
from pml_slade.models.weights import LoadReport, load_state, load_trunk_weights

__all__ = [
    "ConvNet",
    "Embedder",
    "LoadReport",
    "LoadedModel",
    "SplitTrunk",
    "SwAVCheckpoint",
    "build_model",
    "build_trunk",
    "check_forward",
    "check_options",
    "load_model",
    "load_state",
    "load_swav_checkpoint",
    "load_trunk_weights",
    "named_trunk",
    "principal_start",
    "resolve_trunk_name",
    "save_model",
    "save_swav_checkpoint",
    "split_trunk",
    "swav_head",
    "trunk_input",
    "trunk_names",
]
