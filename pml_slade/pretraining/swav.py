"""SwAV as a PML trainer: views of one image predict each other's cluster assignments."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from pytorch_metric_learning.utils import common_functions as c_f
from torch import Tensor

from ..checks import check_int, check_map_style
from ..exceptions import ConfigError, DataError
from ..trainers import StatefulTrainer
from ..trainers.checks import check_optimizers

logger = logging.getLogger("pml_slade")

QUEUE_FROM_PASS, FROZEN_PASSES = 15, 1
"""As in the authors' script for small batches, `swav_200ep_bs256_pretrain.sh`: the queue from epoch 15 on,
and 5,005 iterations (one epoch of ImageNet) with frozen prototypes."""

MIN_EPSILON = 1 / 80
"""Sinkhorn starts from exp(cosine / epsilon), which float32 holds up to exp(88)."""

COLLAPSE_ENTROPY, COLLAPSE_STEPS = 0.1, 50
"""Our choice: over 50 iterations, healthy runs on Glyphs were above 0.4 and a collapsed one below 0.06. So
often they are looked at, for that waits for the device."""


class SwAVLoss(torch.nn.Module):
    """The swapped prediction loss of SwAV with its prototypes and its queue (Caron et al., Eqs. 1-3).

    Needs lightly, which brings Sinkhorn-Knopp and the prototypes.

    Args:
        num_prototypes: K; the paper has 3,000 for the 1,000 classes of ImageNet.
        embedding_size: size of the embeddings.
        temperature: tau of Eq. 2.
        epsilon: of Eq. 3; lower makes the assignments harder, which helps against collapse.
        sinkhorn_iterations: how often rows and columns are normalised.

    Attributes:
        prototypes: lightly's SwaVPrototypes, without bias. They need an optimizer.
        queue: buffer (2, n, embedding_size), past embeddings of either global view, newest first.
        assignment_entropy: entropy of the mean assignment to the nearest prototype, over log K: 0 where
            one prototype takes every image.
        prototypes_in_use: exponential of that entropy: how many prototypes equally used ones would be.

    Raises:
        ConfigError: an argument out of range; lightly is missing.
        DataError: see `forward`.

    Examples:
        >>> loss = SwAVLoss(num_prototypes=30, embedding_size=16)  # doctest: +SKIP
        >>> first, second = torch.randn(8, 16), torch.randn(8, 16)
        >>> loss([first, second]).shape  # doctest: +SKIP
        torch.Size([])
        >>> SwAVLoss(num_prototypes=1, embedding_size=16)
        Traceback (most recent call last):
        pml_slade.exceptions.ConfigError: num_prototypes must be an integer of at least 2, got 1.
    """

    queue: Tensor

    def __init__(
        self,
        num_prototypes: int,
        embedding_size: int,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        sinkhorn_iterations: int = 3,
    ) -> None:
        super().__init__()
        check_int("num_prototypes", num_prototypes, at_least=2)
        check_int("embedding_size", embedding_size, at_least=1)
        check_int("sinkhorn_iterations", sinkhorn_iterations, at_least=1)
        if not temperature > 0:
            raise ConfigError(f"temperature must be positive, got {temperature!r}.")
        if not epsilon >= MIN_EPSILON:
            raise ConfigError(
                f"epsilon must be at least {MIN_EPSILON}, got {epsilon!r}: below, Sinkhorn overflows."
            )
        prototypes_class, loss_class = _lightly()
        self.num_prototypes = num_prototypes
        self.embedding_size = embedding_size
        self.prototypes: Any = prototypes_class(embedding_size, num_prototypes)
        for head in self.prototypes.heads:
            head.bias = None  # lightly has one, the authors have not: scores are cosines
        self.prototypes.normalize()
        self.swav_loss: Any = loss_class(temperature, sinkhorn_iterations, epsilon)
        self.register_buffer("queue", torch.zeros(2, 0, embedding_size))
        self.entropy = torch.tensor(math.log(num_prototypes))
        c_f.add_to_recordable_attributes(self, list_of_names=["assignment_entropy", "prototypes_in_use"])

    def forward(
        self, global_views: Sequence[Tensor], local_views: Sequence[Tensor] = (), queue_length: int = 0
    ) -> Tensor:
        """Compute the loss; in training mode also normalise the prototypes and note who uses which.

        Args:
            global_views: embeddings of the two global views, each (N, embedding_size), of any length.
            local_views: embeddings of the local views, each (N, embedding_size).
            queue_length: embeddings of the queue that take part in the assignment of either view; fewer
                in the queue, and none does.

        Returns:
            The loss, a scalar.

        Raises:
            ConfigError: embeddings of another size.
            DataError: not two global views, views that differ in length, or fewer than 2 images.
        """
        self._check(global_views, local_views)
        if self.training:
            self.prototypes.normalize()
        scores = [self.prototypes(self._unit(view)) for view in (*global_views, *local_views)]
        queue_scores = None
        if 0 < queue_length <= self.queue.shape[1]:
            with torch.no_grad():
                queue_scores = [self.prototypes(view[:queue_length]) for view in self.queue]
        if self.training:
            self._note_assignment([*scores[:2], *(queue_scores or ())])
        loss: Tensor = self.swav_loss(scores[:2], scores[2:], queue_scores).squeeze()
        return loss

    @torch.no_grad()
    def enqueue(self, global_views: Sequence[Tensor], queue_length: int) -> None:
        """Put embeddings of the two global views into the queue; the oldest ones drop out.

        Args:
            global_views: as in `forward`.
            queue_length: how many stay, of either view.
        """
        new = torch.stack([self._unit(view) for view in global_views])
        self.queue = torch.cat([new, self.queue], dim=1)[:, :queue_length]

    @property
    def assignment_entropy(self) -> float:
        """See the class; to read it waits for the device, as for `prototypes_in_use`."""
        return float(self.entropy) / math.log(self.num_prototypes)

    @property
    def prototypes_in_use(self) -> float:
        """See the class."""
        return math.exp(float(self.entropy))

    def extra_repr(self) -> str:
        """The sizes, for `repr`."""
        return f"num_prototypes={self.num_prototypes}, embedding_size={self.embedding_size}"

    def _unit(self, embeddings: Tensor) -> Tensor:
        return torch.nn.functional.normalize(embeddings.to(self.queue.dtype), dim=1)

    @torch.no_grad()
    def _note_assignment(self, scores: list[Tensor]) -> None:
        # Not the mean of Sinkhorn's assignments, which is uniform by construction, collapsed or not.
        nearest = torch.cat(scores).argmax(dim=1)
        count = torch.zeros(self.num_prototypes, device=nearest.device)
        count.index_add_(0, nearest, torch.ones_like(nearest, dtype=count.dtype))
        self.entropy = torch.special.entr(count / len(nearest)).sum()

    def _check(self, global_views: Sequence[Tensor], local_views: Sequence[Tensor]) -> None:
        if len(global_views) != 2:
            raise DataError(f"global_views must be two tensors, got {len(global_views)}.")
        shapes = [tuple(view.shape) for view in (*global_views, *local_views)]
        if any(len(shape) != 2 or shape[0] != shapes[0][0] for shape in shapes) or shapes[0][0] < 2:
            raise DataError(
                f"views must be embeddings of shape (N, {self.embedding_size}) with the same N >= 2 for all, "
                f"got {shapes}."
            )
        for _, size in shapes:
            if size != self.embedding_size:
                raise ConfigError(
                    f"embeddings have size {size}, but metric_loss was made with embedding_size="
                    f"{self.embedding_size}: give SwAVLoss the size that the embedder puts out."
                )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}queue")
        if saved is not None and saved.shape[::2] == self.queue.shape[::2]:
            self.queue = self.queue.new_zeros(saved.shape)  # as long as it was when it was saved
        super()._load_from_state_dict(state_dict, prefix, *args)


class SwAVTrainer(StatefulTrainer):
    """Pretrains a trunk by SwAV on images without labels (Caron et al., NeurIPS 2020).

    The assignment of one view to the prototypes, balanced over batch and queue, is predicted from the
    other views. All else is PML's BaseTrainer: its hooks, samplers, schedulers, `freeze_these` and
    `data_and_label_getter`. A "pass" below is ``len(dataset) // batch_size`` iterations. It warns once
    where the assignments collapse.

    Args:
        models: ``trunk``, giving flat features, and ``embedder``, the projection head.
        optimizers: for the models, and ``metric_loss_optimizer`` for the prototypes.
        batch_size: images a step, 2 or more.
        loss_funcs: ``metric_loss``, a SwAVLoss.
        dataset: map-style, of ``(views, label)`` with views as MultiCrop makes them; labels are not read.
        mining_funcs: none.
        loss_weights: see BaseTrainer.
        queue_batches: past batches that take part in the assignment, 0 for none. Default: as many as make
            batch and queue together hold an image for each prototype, one pass at most; so none where the
            batch alone does. A queue longer than needed disturbs: it holds outdated embeddings.
        queue_from_iteration: fills the queue from this iteration on, and uses it once it is full.
            Default: after 15 passes, when embeddings change less.
        freeze_prototypes: the prototypes stay as they are for so many iterations. Default: one pass.
        kwargs: everything else that PML's BaseTrainer takes.

    Raises:
        ConfigError: losses, miners, optimizers or sizes that do not fit each other.
        DataError: a dataset that fills no batch, or whose items are no views.

    Examples:
        >>> from PIL import Image
        >>> from pml_slade.models import build_model
        >>> from pml_slade.pretraining import swav_views
        >>> views = swav_views("small", 28, "L")
        >>> images = [(views(Image.linear_gradient("L").rotate(9 * i)), -1) for i in range(32)]
        >>> models = build_model("convnet", embedding_size=16, in_channels=1)
        >>> losses = {"metric_loss": SwAVLoss(num_prototypes=8, embedding_size=16)}  # doctest: +SKIP
        >>> optimizers = {
        ...     f"{name}_optimizer": torch.optim.Adam(module.parameters())
        ...     for name, module in {**models, **losses}.items()
        ... }  # doctest: +SKIP
        >>> trainer = SwAVTrainer(
        ...     models, optimizers, 16, losses, images, dataloader_num_workers=0
        ... )  # doctest: +SKIP
        >>> trainer.train(num_epochs=1)  # doctest: +SKIP
    """

    dataloader_iter: Any

    def __init__(
        self,
        models: dict[str, torch.nn.Module],
        optimizers: dict[str, torch.optim.Optimizer],
        batch_size: int,
        loss_funcs: dict[str, torch.nn.Module],
        dataset: Any,
        *,
        mining_funcs: dict[str, Any] | None = None,
        loss_weights: dict[str, float] | None = None,
        queue_batches: int | None = None,
        queue_from_iteration: int | None = None,
        freeze_prototypes: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_int("batch_size", batch_size, at_least=2)
        loss = _checked_loss(models, loss_funcs, mining_funcs)
        steps = _steps_of_pass(dataset, batch_size)
        lacking = math.ceil(loss.num_prototypes / batch_size) - 1
        self.queue_batches = min(lacking, steps) if queue_batches is None else queue_batches
        self.queue_from_iteration = (
            QUEUE_FROM_PASS * steps if queue_from_iteration is None else queue_from_iteration
        )
        self.freeze_prototypes = FROZEN_PASSES * steps if freeze_prototypes is None else freeze_prototypes
        for name in ("queue_batches", "queue_from_iteration", "freeze_prototypes"):
            check_int(name, getattr(self, name), at_least=0)
        self._entropies: list[Tensor] = []
        self._warned = False
        super().__init__(
            models=dict(models),
            optimizers=optimizers,
            batch_size=batch_size,
            loss_funcs=dict(loss_funcs),
            dataset=dataset,
            mining_funcs=mining_funcs,
            loss_weights=loss_weights,
            **kwargs,
        )
        check_optimizers(self)
        self.swav_loss.to(self.data_device)

    @property
    def swav_loss(self) -> SwAVLoss:
        """The loss, ``loss_funcs["metric_loss"]``."""
        loss: SwAVLoss = self.loss_funcs["metric_loss"]
        return loss

    def get_batch(self) -> list[Tensor]:
        """Return the views of a batch; what stands for labels is not looked at."""
        self.dataloader_iter, batch = c_f.try_next_on_generator(self.dataloader_iter, self.dataloader)
        views = self.data_and_label_getter(batch)[0]
        _check_views(views)
        return list(views)

    def calculate_loss(self, curr_batch: list[Tensor]) -> None:
        """Compute the loss over all views, one forward pass per size of crop."""
        embeddings: list[Tensor] = []
        for _, group in groupby(curr_batch, key=lambda view: view.shape):
            views = list(group)
            own = self.compute_embeddings(torch.cat(views))
            embeddings += self.rows_of_all(own, self.batch_size).chunk(len(views))
        length = self.queue_batches * self.batch_size
        self.losses["metric_loss"] = self.swav_loss(embeddings[:2], embeddings[2:], length)
        if length and self.get_global_iteration() >= self.queue_from_iteration:
            self.swav_loss.enqueue(embeddings[:2], length)
        self._watch_collapse()

    def backward(self) -> None:
        """Backpropagate; at first, drop the gradients of the prototypes."""
        super().backward()
        if self.get_global_iteration() < self.freeze_prototypes:
            for parameter in self.swav_loss.prototypes.parameters():
                parameter.grad = None

    def metrics(self) -> dict[str, float | Tensor]:
        """Return ``prototypes_in_use``, see SwAVLoss."""
        return {"prototypes_in_use": self.swav_loss.entropy.exp()}

    def get_extra_state(self) -> dict[str, Any]:
        """What is watched for a collapse."""
        watched = {"entropies": list(self._entropies), "warned": self._warned}
        return {**super().get_extra_state(), **watched}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Go on watching."""
        super().set_extra_state(state)
        self._entropies = [entropy.to(self.data_device) for entropy in state["entropies"]]
        self._warned = state["warned"]

    def _watch_collapse(self) -> None:
        loss = self.swav_loss
        if self._warned or self.get_global_iteration() < self.freeze_prototypes:
            return
        self._entropies.append(loss.entropy)
        if len(self._entropies) < COLLAPSE_STEPS:
            return
        mean = float(torch.stack(self._entropies).mean()) / math.log(loss.num_prototypes)
        self._entropies.clear()
        if mean < COLLAPSE_ENTROPY:
            self._warned = True
            logger.warning(
                "SwAV has collapsed: for %d iterations nearly all images went to the same prototype (a batch "
                "uses %.1f of %d). Try a lower epsilon or learning rate, or a larger freeze_prototypes.",
                COLLAPSE_STEPS, loss.prototypes_in_use, loss.num_prototypes,
            )  # fmt: skip


def _lightly() -> tuple[Any, Any]:
    """SwaVPrototypes and SwaVLoss."""
    with _needs_lightly():
        from lightly.loss import SwaVLoss
        from lightly.models.modules import SwaVPrototypes
    return SwaVPrototypes, SwaVLoss


def lars() -> type[torch.optim.Optimizer]:
    """The optimizer of the authors of SwAV, from lightly.

    Raises:
        ConfigError: lightly is missing.
    """
    with _needs_lightly():
        from lightly.utils.lars import LARS
    kind: type[torch.optim.Optimizer] = LARS
    return kind


@contextmanager
def _needs_lightly() -> Iterator[None]:
    """Around its imports, which come late, because it is optional and takes seconds."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "lightly":
            raise
        raise ConfigError('SwAV needs lightly: pip install "pml-slade[pretraining]".') from error


def _checked_loss(
    models: dict[str, torch.nn.Module],
    loss_funcs: dict[str, torch.nn.Module],
    mining_funcs: dict[str, Any] | None,
) -> SwAVLoss:
    """The loss, where the parts fit each other."""
    loss = loss_funcs.get("metric_loss")
    if not isinstance(loss, SwAVLoss) or len(loss_funcs) > 1:
        raise ConfigError(
            'loss_funcs must be {"metric_loss": SwAVLoss(...)}, got '
            f"{ {name: type(part).__name__ for name, part in loss_funcs.items()} }."
        )
    if mining_funcs:
        raise ConfigError(
            f"mining_funcs: SwAV has no pairs to mine, got {sorted(mining_funcs)}; leave it out."
        )
    size = getattr(models.get("embedder"), "embedding_size", None)
    if isinstance(size, int) and size != loss.embedding_size:
        raise ConfigError(
            f"embedder puts out {size} values, but metric_loss was made with embedding_size="
            f"{loss.embedding_size}."
        )
    return loss


def _steps_of_pass(dataset: Any, batch_size: int) -> int:
    check_map_style("dataset", dataset)
    if len(dataset) < batch_size:
        raise DataError(
            f"dataset has {len(dataset)} items, fewer than one batch of {batch_size}: lower batch_size."
        )
    return len(dataset) // batch_size


def _check_views(views: Any) -> None:
    """Checks a batch of views as the loader puts it together."""
    if not isinstance(views, (list, tuple)) or not all(isinstance(view, Tensor) for view in views):
        raise DataError(
            "dataset: items must be (views, label) with views a list of tensors, as MultiCrop makes it; the "
            f"batch has {type(views).__name__} for views. Where items look otherwise, give "
            "data_and_label_getter."
        )
    if len(views) < 2:
        raise DataError(f"dataset: SwAV compares views of an image, got {len(views)}; give 2 or more.")
    if views[0].shape != views[1].shape:
        raise DataError(
            f"dataset: the first two views must have one size, got {tuple(views[0].shape)} and "
            f"{tuple(views[1].shape)}."
        )
