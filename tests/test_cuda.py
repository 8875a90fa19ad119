"""On a GPU, where there is one: rows train, go on after a stop, and their models embed as on the CPU."""

import pytest
import torch
from images import BEST, small_config, splits

from pml_slade import ClusterBasisLoss, FeatureBasisLoss
from pml_slade.losses import NeighbourLoss
from pml_slade.methods import METHODS
from pml_slade.models import load_model
from pml_slade.running import stages
from pml_slade.running.run import Run
from pml_slade.runtime import Runtime

pytestmark = [pytest.mark.once, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
NOWHERE = {"labeled": "nowhere", "unlabeled": "nowhere"}
POOL_ROWS = sorted(key for key, method in METHODS.items() if method.uses_pool and key != "basis")


@pytest.fixture
def run(tmp_path):
    def run(*settings, output="run"):
        config = small_config(NOWHERE, tmp_path / output, *BEST, "device=cuda", *settings)
        return {r.row: r for r in Run(config, progress=False, splits=splits()).run()}

    return run


@pytest.mark.parametrize("row", ["start", "control", *POOL_ROWS])
def test_every_row_trains_there_and_its_model_embeds_alike_on_the_cpu(run, tmp_path, row):
    run(f"rows=[teacher, {row}]")
    images = torch.rand(16, 1, 16, 16)
    there, here = (load_model(tmp_path / "run" / row, device=device) for device in ("cuda", "cpu"))
    with torch.no_grad():
        found = there.embedder(there.trunk(images.cuda())).cpu()
        assert torch.allclose(found, here.embedder(here.trunk(images)), atol=1e-3)


@pytest.mark.parametrize("train", ["head", "all"])
@pytest.mark.parametrize("soup", ["true", "false"])
def test_what_photographs_have_by_default_trains_there(run, tmp_path, train, soup):
    results = run(
        "rows=[start, teacher, control, slade]", f"model.train={train}", f"student.soup={soup}",
        "methods.slade.neighbours=true", f"model.features={tmp_path / 'features'}",
    )  # fmt: skip
    assert all(0 <= result.test["MAP@R"] <= 100 for result in results.values())


def test_a_stopped_run_goes_on(run, monkeypatch):
    save = stages.Checkpoints.save

    def stopping(self, *arguments):
        save(self, *arguments)
        if self.folder.parent.name == "slade":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages.Checkpoints, "save", stopping)
        with pytest.raises(KeyboardInterrupt):
            run("rows=[teacher, slade]")
    assert "slade" in run("rows=[teacher, slade]")


def basis(**settings):
    return FeatureBasisLoss(num_classes=4, embedding_size=8, **settings)


def clusters():
    loss = ClusterBasisLoss(basis(logit_scale=16.0), num_clusters=4)
    loss.start_from(torch.eye(4, 8))
    return loss


def neighbours():
    loss = NeighbourLoss(num_neighbours=3)
    pool = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
    near = (torch.arange(16)[:, None] + torch.arange(1, 4)) % 16
    loss.remember(pool, near, torch.ones(16, 3))
    return loss


@pytest.mark.parametrize(
    ("build", "labels"),
    [
        (basis, torch.arange(16) % 4),
        (lambda: basis(regularizer=None, logit_scale=16.0), torch.arange(16) % 4),
        (clusters, 4 + torch.arange(16) % 4),
        (neighbours, torch.arange(16)),
    ],
)
def test_losses_have_the_cpus_values_and_gradients(build, labels):
    embeddings = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    values = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        loss = build().to(device)
        if isinstance(loss, ClusterBasisLoss):
            loss.basis.to(device)
        if isinstance(loss, NeighbourLoss):
            loss.memory = {name: part.to(device) for name, part in loss.memory.items()}
        x = embeddings.detach().to(device).requires_grad_(True)
        value = loss(x, labels.to(device))
        value.backward()
        values.append((value.detach().cpu(), x.grad.cpu()))
    for here, there in zip(*values):
        assert torch.allclose(here, there, atol=1e-4)


def test_images_are_embedded_alike():
    trunk = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 8))
    images = list(torch.rand(16, 1, 16, 16))
    found = [Runtime(device=torch.device(d)).embed(images, trunk.to(d)) for d in ("cuda", "cpu")]
    assert torch.allclose(*map(torch.from_numpy, found), atol=1e-4)
