"""Several processes of one run, as torchrun starts them.

All of them run the same program, and hold the same models, losses, labels and figures. Each reads and embeds
its share of every batch, and of every pass over images. What is decided by the run's folder, computed by
clustering or written, is so by the first one alone, see `once`. In one process all of this does nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import groupby
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

from .exceptions import ConfigError

PATIENCE = timedelta(days=7)
"""How long a process waits for the others: the first may cluster for hours. If one dies, that is noticed."""
LAST_WORDS, ENDED = 3.0, "ended early"
"""How many seconds the first process waits for others that end, too; the key by which they are counted."""
CPU = torch.device("cpu")
T = TypeVar("T")


class _Here:
    """This process among the others, see `joined`."""

    rank, size, joined = 0, 1, False


def rank() -> int:
    """Number of this process, from 0."""
    return _Here.rank


def size() -> int:
    """How many processes share the work."""
    return _Here.size


def is_first() -> bool:
    """Whether it is this process that writes and speaks."""
    return _Here.rank == 0


def launched() -> int:
    """How many processes were started together, whether they share work yet or not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_joined() -> None:
    """Refuse what would be done by each of several processes that were started together.

    Raises:
        ConfigError: they do not share the work.
    """
    if launched() > 1 and not _Here.joined:
        raise ConfigError(f"WORLD_SIZE={launched()}: this is done in one process; start it without torchrun.")


def on_machine() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def place() -> int:
    """Number of this process among those on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def joined() -> Iterator[None]:
    """Share the work of the block with the processes that torchrun started beside this one, if any.

    An error that ends the block has the attribute `untold`: whether no other process was ended by one before.
    What follows in the other processes only says that this one is gone: there, it becomes a `SystemExit`.

    Examples:
        >>> with joined():
        ...     rank(), size()
        (0, 1)
    """
    if launched() == 1 or _Here.joined:
        yield
        return
    store, number, count = next(iter(rendezvous("env://")))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=number, world_size=count, timeout=PATIENCE)
    _Here.rank, _Here.size, _Here.joined = number, count, True
    try:
        yield
    except BaseException as error:
        error.untold = _is_untold(store)  # type: ignore[attr-defined]
        if error.untold:  # type: ignore[attr-defined]
            raise
        raise SystemExit(1) from None
    finally:
        _Here.rank, _Here.size, _Here.joined = 0, 1, False
        distributed.destroy_process_group()


@contextmanager
def alone() -> Iterator[None]:
    """Do the work of the block in this process, whatever the others do."""
    before = _Here.rank, _Here.size
    _Here.rank, _Here.size = 0, 1
    try:
        yield
    finally:
        _Here.rank, _Here.size = before


def once(work: Callable[[], T]) -> T:
    """Let the first process do something alone; all return what came out, and only when it is done.

    Args:
        work: what it returns can be pickled, and is not on a GPU.

    Examples:
        >>> once(lambda: 1 + 1)
        2
    """
    if size() == 1:
        return work()
    found: list[Any] = [None]
    if is_first():
        with alone():
            found = [work()]
    distributed.broadcast_object_list(found, src=0, device=CPU)
    result: T = found[0]
    return result


def most(*numbers: int) -> list[int]:
    """The largest of each number among all processes."""
    if size() == 1:
        return list(numbers)
    found = torch.tensor(numbers)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    largest: list[int] = found.tolist()
    return largest


def wait() -> None:
    """Go on when all processes have come as far."""
    most(0)


def shares(count: int, batch: int) -> list[slice]:
    """Which of so many items each process takes, in whole batches, so that these are those of one process.

    Examples:
        >>> shares(1000, batch=128)
        [slice(0, 1000, None)]
    """
    each = -(-count // (batch * size())) * batch
    return [slice(min(i * each, count), min((i + 1) * each, count)) for i in range(size())]


def check_batch(name: str, count: int) -> None:
    """Refuse a batch that cannot be shared evenly.

    Raises:
        ConfigError: says which sizes can.
    """
    if count % size():
        raise ConfigError(
            f"{name}: {size()} processes cannot share a batch of {count} images evenly; give a multiple of "
            f"{size()}, or start another number of processes."
        )


def gathered(own: Tensor, items: int) -> Tensor:
    """Rows of all processes, in the order in which one process would have them; gradients reach one's own.

    Args:
        own: rows of this process's share of a batch: of all its items, or of all views of them, all first
            ones first.
        items: in that share.
    """
    if size() == 1:
        return own
    parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(size())]
    distributed.all_gather(parts, own.detach().contiguous())
    parts[rank()] = own
    views = torch.stack(parts).unflatten(1, (-1, items))
    return views.transpose(0, 1).flatten(0, 2)


def fill(rows: Tensor, parts: Sequence[slice]) -> None:
    """Let all processes have all rows, each of which one process has.

    Args:
        rows: of all.
        parts: by process, the rows that it has.
    """
    for source, part in enumerate(parts):
        if len(rows[part]):
            distributed.broadcast(rows[part], source)


def add_gradients(shared: Iterable[Tensor], known: Iterable[Tensor]) -> None:
    """Give the gradients of all processes' rows to all, in one exchange.

    Args:
        shared: parameters whose gradients come from this process's rows.
        known: parameters of which each process has the whole gradient; they are kept the same to the last
            bit.
    """
    if size() == 1:
        return
    own, whole = ([p.grad for p in dict.fromkeys(part) if p.grad is not None] for part in (shared, known))
    for gradient in whole:
        gradient.div_(size())
    for _, group in groupby(sorted([*own, *whole], key=_kind), _kind):
        gradients = list(group)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients])):
            gradient.copy_(total.view(gradient.shape))


@torch.no_grad()
def copy_first(modules: Iterable[torch.nn.Module]) -> None:
    """Let all processes have the weights of the first one, however other machines round."""
    if size() == 1:
        return
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            firsts = tensor.detach().contiguous()
            distributed.broadcast(firsts, 0)
            tensor.copy_(firsts)


@contextmanager
def own_draws(device: torch.device) -> Iterator[None]:
    """Let models draw, for dropout, what no other process draws; what all draw alike is not moved on."""
    if size() == 1:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if not is_first():
            torch.manual_seed(torch.initial_seed() + rank())
        yield


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tensor.device}"


def _is_untold(store: Any) -> bool:
    """Whether this process is the first one to end early; others that end, too, may ask before it goes."""
    try:
        first: bool = store.add(ENDED, 1) == 1
        until = time.monotonic() + LAST_WORDS
        while is_first() and store.add(ENDED, 0) < size() and time.monotonic() < until:
            time.sleep(0.05)  # it may be this process that keeps count, and others may be ending, too
    except RuntimeError:  # the process that kept count is gone
        return True
    return first
