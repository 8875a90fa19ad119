"""What all rows of a run share: its images as models see them, and its models as they are kept."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from .. import processes
from ..checkpoints import file_digest
from ..clustering import suggest_num_clusters
from ..datasets.features import FeatureViews
from ..datasets.fingerprints import digest
from ..datasets.images import ImageDataset
from ..datasets.splits import Splits, shared_labels
from ..datasets.views import Views
from ..evaluation import map_at_r_by_class
from ..methods import Job, Method
from ..models import load_model, save_model
from . import data, pretraining
from .frozen import build_feature_views, join, split
from .models import build_models, embedding_model, identity_embedder, model_meta, starts_principal
from .pool import PoolFacts, look_at_pool, pool_learned_from
from .rows import list_parts
from .settings import Config
from .stages import Metrics, Validation
from .tracking import Tracking

FEW_PASSES = 3
"""Over labeled images, after which a teacher's neighbours among them are about as good as elsewhere."""
Models = dict[str, torch.nn.Module]


class Workshop:
    """The images, models and devices of a run.

    Args:
        config: all settings.
        splits: the images.
        progress: show progress bars.
        tracking: where what is measured goes.

    Attributes:
        folder: of the run.
        views: of the images.
        lists: the images of each part, a line each.
        reading: to read images with.
        is_frozen: whether a part of the trunk is.
        runtime: to train and embed with: images, or what the frozen part of the trunk gives of them.
    """

    def __init__(self, config: Config, splits: Splits, progress: bool, tracking: Tracking) -> None:
        self.config, self.tracking = config, tracking
        self.folder = Path(config.output)
        self.views = data.build_views(config, splits)
        self.lists = list_parts(splits)
        self.reading = data.build_runtime(config, progress)
        self.is_frozen = config.model.train != "all"
        # What a frozen part gives is read from mapped files: faster than other processes would send it.
        self.runtime = replace(self.reading, workers=0) if self.is_frozen else self.reading

    @property
    def splits(self) -> Splits:
        """The images."""
        return self.views.splits

    @property
    def images(self) -> Views:
        """The images, or what the frozen part of the trunk makes of them."""
        return self.feature_views if self.is_frozen else self.views

    @cached_property
    def feature_views(self) -> FeatureViews:
        """What the frozen part of the trunk makes of the images."""
        return build_feature_views(self.config, self.views, split(self.config, self.trunk), self.reading)

    @cached_property
    def trunk(self) -> torch.nn.Module:
        """The trunk that nothing trains here, as it came."""
        models = build_models(self.config, self.pretrained())
        return self.runtime.place(models["trunk"]).eval()

    @cached_property
    def learned(self) -> Views:
        """What is learned from: of the pool, images that are like the labeled ones."""
        views = self.images
        if not self.config.data.leave_out_unlike:
            return views
        trunk = split(self.config, self.trunk).last if self.is_frozen else self.trunk
        fewest = self.config.student.unlabeled_batch_size
        trunk = self.runtime.place(trunk).eval()
        pool = pool_learned_from(self.folder, self._of_pool, views, trunk, self.runtime, fewest)
        return replace(views, splits=replace(views.splits, unlabeled=pool))

    @property
    def pool(self) -> ImageDataset:
        """The images of the pool that are learned from."""
        return self.learned.splits.unlabeled

    @property
    def pretraining_images(self) -> pretraining.Images:
        """What SwAV learns from."""
        return {"labeled": self.splits.labeled, "unlabeled": self.splits.unlabeled}

    def pretrained(self) -> Path | None:
        """The file of the pretrained trunk, where the run has that stage; trained if it is not there."""
        config, validation = self.config, self.splits.validation
        if not config.pretraining.steps:
            return None

        def validate(trunk: torch.nn.Module) -> Metrics:
            assert validation is not None
            vectors = self.reading.quiet.embed(self.views.plain(validation), trunk)
            return self.runtime.evaluate(vectors, validation.known_labels())

        measured = None if validation is None else validate
        return pretraining.pretrain(config, self.pretraining_images, self.reading, self.tracking, measured)

    def job(self, method: Method, images: Views | None = None) -> Job:
        """What a method works with here.

        Args:
            method: of a row.
            images: what it learns from; None: all, as they are.
        """
        config, views = self.config, images or self.views
        facts = processes.once(lambda: PoolFacts.read(self.folder))
        labeled, pool = views.splits.labeled, views.splits.unlabeled
        suggested = suggest_num_clusters(len(pool), len(labeled) / labeled.num_classes)
        return Job(
            teacher=config.teacher,
            student=config.student,
            own=config.own(method),
            num_classes=labeled.num_classes,
            num_clusters=config.student.num_clusters or suggested,
            embedding_size=config.model.embedding_size,
            runtime=self.runtime,
            images=views,
            freeze_batchnorm=bool(config.model.freeze_batchnorm),
            knows_photographs=config.knows_photographs,
            epoch_steps=config.epoch_steps,
            seed=config.seed,
            trust=None if facts is None else facts.neighbours_right / 100,
        )

    def look_at_pool(self, teacher: Path) -> None:
        """Say, once, how far neighbours in the pool can be trusted.

        Args:
            teacher: its file; its embeddings are looked at.
        """
        of = processes.once(lambda: digest([self._of_pool, file_digest(teacher)]))
        if processes.once(lambda: PoolFacts.read(self.folder, of)) is not None:
            return
        model, known = self.load(teacher), self._hardly_learned()
        pool, labeled = (self.embed(model, part.without_labels()) for part in (self.pool, known))
        how = {"whitening": self.config.student.whitening, "device": self.runtime.device}
        count, labels = len(self.splits.unlabeled), known.known_labels()
        processes.once(lambda: look_at_pool(self.folder, of, count, pool, labeled, labels, **how))

    def fresh(self, pretrained: Path | None) -> Models:
        """Models that nothing has trained here; the embedder may start at principal components.

        Args:
            pretrained: file that the trunk starts from, in place of `model.weights`.
        """
        models = build_models(self.config, pretrained)
        if self.is_frozen:
            models["trunk"] = self.runtime.place(split(self.config, models["trunk"]).last)
        if starts_principal(self.config):
            views = self.learned
            parts = (views.splits.labeled, views.splits.unlabeled.without_labels())
            found = [self.runtime.embed(views.plain(part), models["trunk"]) for part in parts]
            embedder = models["embedder"].to("cpu")
            features = torch.from_numpy(np.concatenate(found))
            embedder.start_from(features, self.config.model.embedder_whitening)  # type: ignore[operator]
        return models

    def load(self, file: Path) -> Models:
        """Read a model as it is trained: of a frozen trunk the part that is not."""
        model = load_model(file, device=self.runtime.device)
        trunk = split(self.config, model.trunk).last if self.is_frozen else model.trunk
        return {"trunk": trunk, "embedder": model.embedder}

    def save(self, file: Path, models: Models) -> None:
        """Write a model as users load it: with what is frozen in its place."""
        whole = join(self.trunk, models["trunk"]) if self.is_frozen else models["trunk"]
        meta = model_meta(self.config)
        processes.once(lambda: save_model(file, {**models, "trunk": whole}, meta))

    def save_untrained(self, file: Path) -> None:
        """Write the trunk as it came, its features as embeddings."""
        size = int(self.trunk.output_size)  # type: ignore[arg-type]
        models = {"trunk": self.trunk, "embedder": identity_embedder(size)}
        meta = model_meta(self.config) | {"embedding_size": size, "hidden_sizes": []}
        processes.once(lambda: save_model(file, models, meta))

    def embed(self, models: Models, images: ImageDataset) -> np.ndarray:
        """Return embeddings of images of the splits, (N, d)."""
        return self.runtime.quiet.embed(self.images.plain(images), embedding_model(models))

    def test(self, models: Models) -> Metrics | None:
        """Figures on the test images, which may look for others than themselves; None: there are none."""
        queries, gallery = self.splits.test, self.splits.gallery
        if queries is None:
            return None
        if gallery is None:
            return self.runtime.evaluate(self.embed(models, queries), queries.known_labels())
        labels, gallery_labels = shared_labels(queries, gallery)
        found = self.embed(models, queries), labels, self.embed(models, gallery), gallery_labels
        return self.runtime.evaluate(*found)

    def validate(self, models: Models) -> Validation:
        """Figures on the validation classes, and MAP@R of each of them."""
        validation = self.splits.validation
        assert validation is not None
        embeddings, labels = self.embed(models, validation), validation.known_labels()
        device = self.runtime.device
        by_class = processes.once(lambda: map_at_r_by_class(embeddings, labels, device=device))
        return self.runtime.evaluate(embeddings, labels), by_class.round(4).tolist()

    @cached_property
    def _of_pool(self) -> str:
        """Stands for the images that may be learned from, and for what sees them."""
        settings = self.config.model.model_dump_json(exclude={"features"}), str(self.config.data.image_size)
        leaves_out = str(self.config.data.leave_out_unlike)
        return digest([*settings, leaves_out, *self.lists["labeled"], *self.lists["unlabeled"]])

    def _hardly_learned(self) -> ImageDataset:
        """Images with labels that the teacher was not long trained on: there its neighbours are no better."""
        labeled, validation, stage = self.splits.labeled, self.splits.validation, self.config.teacher
        if validation is None or stage.steps * stage.batch_size <= FEW_PASSES * len(labeled):
            return labeled
        return validation
