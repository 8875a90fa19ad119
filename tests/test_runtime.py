"""What the runtime chooses by itself."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from pml_slade.runtime import Runtime, keep_freed_memory

FAULTS = """
import resource, torch
from pml_slade.runtime import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = keep_freed_memory()
faults()
print(kept, faults())
"""


@pytest.mark.once
def test_a_tensor_takes_the_memory_of_the_one_before():
    printed = subprocess.run([sys.executable, "-c", FAULTS], stdout=subprocess.PIPE, text=True, check=True)
    kept, faults = printed.stdout.split()
    if kept == "False":
        pytest.skip("this system's C library decides by itself")
    assert int(faults) < 1000  # 64 MiB have 16,384 pages


def test_the_memory_is_kept_where_cpus_compute(monkeypatch):
    asked = []
    monkeypatch.setattr("pml_slade.runtime.keep_freed_memory", lambda: asked.append(True))
    Runtime.find("meta")
    assert not asked
    Runtime.find("cpu")
    assert asked


def test_another_system_keeps_its_ways(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


def test_cpus_embed_few_images_at_once():
    sizes = []

    class Trunk(torch.nn.Module):
        def forward(self, images):
            sizes.append(len(images))
            return images

    runtime, images = Runtime.find("cpu"), [torch.ones(3)] * 150
    runtime.embed(images, Trunk())
    runtime.embed(images, Trunk(), batch_size=100)
    assert sizes == [64, 64, 22, 100, 50]
