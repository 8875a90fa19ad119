"""Two gloo processes, as torchrun starts them, that each do a job and hand their result back."""

import torch
from torch import distributed, multiprocessing


def in_two_processes(folder, job, *args):
    """Results of ``job(rank, *args)`` by rank; a job is a function of an importable module."""
    folder.mkdir(exist_ok=True)
    multiprocessing.spawn(_process, args=(folder, job, args), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def _process(rank, folder, job, args):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    try:
        torch.save(job(rank, *args), folder / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()
