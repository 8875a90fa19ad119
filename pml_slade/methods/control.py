"""The control: what as many more steps without a pool give."""

from .supervised import Supervised


class Control(Supervised):
    """The teacher trained on, on labeled images alone."""

    title = "Teacher trained on"
