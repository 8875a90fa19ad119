"""The control: what as many more steps without a pool give."""

from .supervised import Supervised


class Control(Supervised):
    """Continues the teacher's training on labeled images only."""

    title = "Control (labels only)"
