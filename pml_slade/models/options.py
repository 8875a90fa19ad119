"""Options of a trunk: what they may say, whoever says it."""

import difflib
import re
from collections.abc import Mapping
from typing import Any

from pml_slade.exceptions import ConfigError

LARGEST: dict[str, int] = {
    # the images that it takes, in pixels
    **dict.fromkeys(("img_size", "image_size"), 4096),
    **dict.fromkeys(("patch_size", "window_size"), 64),
    **dict.fromkeys(("dynamic_img_size", "dynamic_img_pad", "strict_img_size", "output_stride"), 64),
    # how large the network is
    **dict.fromkeys(("depth", "depths", "layers"), 1024),
    **dict.fromkeys(("width", "width_mult", "base_width", "cardinality", "growth_rate", "channels"), 16384),
    **dict.fromkeys(("embed_dim", "embed_dims", "dims", "stem_width", "reg_tokens", "num_reg_tokens"), 16384),
    **dict.fromkeys(("num_heads", "head_dim", "mlp_ratio", "mlp_ratios", "expand_ratio"), 1024),
    # how it is wired
    **dict.fromkeys(("global_pool", "class_token", "no_embed_class", "pool_include_prefix"), 1),
    **dict.fromkeys(("pre_norm", "final_norm", "fc_norm", "qkv_bias", "qk_norm", "init_values"), 1),
    # how it is regularised in training
    **dict.fromkeys(("drop_rate", "drop_path_rate", "attn_drop_rate", "proj_drop_rate"), 1),
    **dict.fromkeys(("pos_drop_rate", "patch_drop_rate", "drop_block_rate"), 1),
    **dict.fromkeys(("dropout", "attention_dropout", "stochastic_depth_prob"), 1),
}
"""The options that are let through, and the largest number of each.

A model's file names options, too, and such a file is a stranger's. So here stands what says how a network
looks, and nothing that names a file, an address, a cache, a class or another config.
"""

COUNTS = ("depth", "depths", "layers")
"""Of these, a network has at least as many tensors as they say."""

_WORD = re.compile(r"[a-z0-9_]{0,16}")
_LONGEST = 64


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options of a trunk that are not on the list, or whose values are no plain ones.

    Args:
        options: by name; a value is a number, a boolean, a word, None, or a flat list of these.

    Raises:
        ConfigError: the message names the option.

    Examples:
        >>> check_options({"img_size": 112, "depths": [2, 2, 6, 2], "global_pool": "avg"})
        >>> check_options({"checkpoint_path": "weights.pth"})
        Traceback (most recent call last):
        ...
        pml_slade.exceptions.ConfigError: trunk_options: 'checkpoint_path' is not let through: ...
    """
    for name, value in options.items():
        if name not in LARGEST:
            near = difflib.get_close_matches(str(name)[:40], LARGEST, n=1)
            raise ConfigError(
                f"trunk_options: {str(name)[:40]!r} is not let through: only what says how a network looks is"
                f"{f'; did you mean {near[0]}?' if near else ''}. There are {', '.join(LARGEST)}."
            )
        values = value if isinstance(value, list | tuple) else [value]
        if len(values) > _LONGEST or not all(_is_plain(each, LARGEST[name]) for each in values):
            raise ConfigError(
                f"trunk_options: {name} is {str(value)[:80]!r}; pass a number from 0 to {LARGEST[name]}, a "
                f"boolean, a word of up to 16 letters, or a list of up to {_LONGEST} of these."
            )


def count_of(options: Mapping[str, Any]) -> int:
    """Number of layers or blocks that the options ask for."""
    asked = [options.get(name) or 0 for name in COUNTS]
    return max(sum(each) if isinstance(each, list | tuple) else each for each in asked)


def _is_plain(value: Any, largest: int) -> bool:
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    if isinstance(value, bool) or value is None:
        return True
    return isinstance(value, int | float) and 0 <= value <= largest
