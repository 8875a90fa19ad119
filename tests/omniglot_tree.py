"""Small trees in Omniglot's official layout."""

import numpy as np
from PIL import Image


def write_omniglot(root, background, evaluation=0, characters=5, drawings=4):
    """Alphabets Back0, Back1, ... and Eval0, ...; each character a pattern, each drawing a noisy one."""
    rng = np.random.default_rng(0)
    for part, name, alphabets in (("background", "Back", background), ("evaluation", "Eval", evaluation)):
        (root / f"images_{part}").mkdir()
        for alphabet, character in np.ndindex(alphabets, characters):
            folder = root / f"images_{part}" / f"{name}{alphabet}" / f"character{character}"
            folder.mkdir(parents=True)
            pattern = rng.random((7, 7)) > 0.2
            for drawing in range(drawings):
                noisy = pattern ^ (rng.random((7, 7)) > 0.95)
                Image.fromarray(noisy.repeat(4, 0).repeat(4, 1)).save(folder / f"{drawing}.png")
    return root
