"""What a caller may catch. Every message says what came and what to do about it."""


class SladeError(Exception):
    """Base class of every error that this package raises on purpose."""


class ConfigError(SladeError, ValueError):
    """A setting is unknown, of the wrong type, or does not fit the others."""


class DataError(SladeError, ValueError):
    """Images, labels, pseudo-labels or embeddings cannot be used as they are."""


class DivergedError(SladeError, ArithmeticError):
    """Training has diverged: a loss or an embedding is not finite."""


class CheckpointError(SladeError, RuntimeError):
    """A checkpoint or weights file is missing, damaged, or belongs to something else."""


class MachineError(SladeError, RuntimeError):
    """The machine gave out: the disk, memory, permissions, or a process that reads images."""
