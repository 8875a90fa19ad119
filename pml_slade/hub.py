"""A run as a repository of the Hugging Face Hub: model.safetensors, config.json and the model card."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

from .api import Images, load
from .checkpoints import write_atomic, write_json_atomic
from .exceptions import CheckpointError, ConfigError, MachineError
from .exporting import TOLERANCE, describe_input, example_inputs
from .models import load_model
from .running.cards import BEGIN

logger = logging.getLogger("pml_slade")

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def export_hub(
    run: str | os.PathLike[str], folder: str | os.PathLike[str], images: Images | None = None
) -> float:
    """Write a run into a folder as huggingface_hub lays out a model; nothing is sent.

    Args:
        run: its folder, which has the model and its card.
        folder: to write to. `pml_slade.load(folder)` reads it.
        images: what the written model is checked on; None: images of random pixels.

    Returns:
        The largest difference between its embeddings and the original's.

    Raises:
        CheckpointError: the run has no model, or a damaged one, or no model card.
        ConfigError: the embeddings of the written model are not those of the original.
    """
    run, folder = Path(run), Path(folder)
    card = run / CARD
    if not card.is_file() or BEGIN not in card.read_text(encoding="utf-8"):
        raise CheckpointError(f"{run} has no model card {CARD}: give the folder of a run that is done.")
    trained = load(run, "cpu", workers=0)
    write_atomic(folder / WEIGHTS, (run / WEIGHTS).read_bytes())
    write_atomic(folder / CARD, card.read_bytes())
    about = describe_input(trained)
    write_json_atomic(folder / CONFIG, {"library_name": "pml-slade", **about, "model": trained.model.meta})
    inputs = example_inputs(trained, images)
    with torch.no_grad():
        difference = float((load_model(folder)(inputs) - trained.model(inputs)).abs().max())
    if not difference <= TOLERANCE:
        raise ConfigError(f"to=hub: the written model's embeddings differ by {difference:.1e}.")
    if "license: unknown" in card.read_text(encoding="utf-8"):
        logger.warning("%s: license is unknown; fill in the card's first lines before you publish it.", card)
    return difference


def upload(folder: str | os.PathLike[str], repo: str) -> str:
    """Send what `export_hub` wrote to the Hub; a repository that is not there is made, private.

    Args:
        folder: to send.
        repo: its name there, such as "me/birds".

    Returns:
        The address of the commit.

    Raises:
        MachineError: it could not be sent: no network, no login, no permission.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import HfHubHTTPError

    hub = HfApi()
    try:
        hub.create_repo(repo, private=True, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repo, folder_path=Path(folder), allow_patterns=[WEIGHTS, CONFIG, CARD]
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise MachineError(
            f"repo: {repo} could not be written ({' '.join(str(error).split())[:200]}). Log in with `hf auth "
            f"login`, and try again; {folder} is complete."
        ) from None
    return str(commit.commit_url)
