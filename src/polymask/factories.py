"""From configuration to objects: the only place that knows Hydra's `instantiate`.

Everything below takes flat, typed arguments and never sees a DictConfig.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from polymask.errors import UserError, nearest
from polymask.fitting import target_of
from polymask.training.checkpoint import decisions_of, inference_weights, load_weights
from polymask.utils.paths import resolve

log = logging.getLogger(__name__)
# It writes what it raises, too; one line about a mistake is enough.
logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from polymask.data.module import DataModule
    from polymask.data.splits.split import Split
    from polymask.data.transforms import Augmentation
    from polymask.families.base import Family, Task
    from polymask.tracking.base import Tracker
    from polymask.training.distributed import Processes
    from polymask.training.schedulers import Schedule
    from polymask.training.trainer import Trainer


def build_data(cfg: DictConfig, *, split: Split | None = None, allow_absent: bool = False) -> DataModule:
    """Build the data set of a run.

    Args:
        cfg: The whole configuration; it takes up what was measured of metadata in the training samples.
        split: From a checkpoint, or None to make one as configured.
        allow_absent: Whether the data set may lack some of the classes, which a training needs all of.

    Raises:
        UserError: A key of `data` is unknown or its value not allowed, or the files are not sound.
    """
    from polymask.data.attributes import Attributes
    from polymask.data.corrections import read_corrections
    from polymask.data.loading import Loading
    from polymask.data.module import DataModule
    from polymask.data.splits.plan import SplitPlan

    parts = (SplitPlan, Loading, Attributes)
    general = ["corrections", *(field.name for part in parts for field in fields(part))]
    target_of(cfg.data, "data")
    _check_options(cfg.data, "data", besides=general)
    own: Any = OmegaConf.to_container(cfg.data, resolve=True)

    def taken(part: type[SplitPlan] | type[Loading] | type[Attributes]) -> dict[str, Any]:
        return {field.name: own.pop(field.name) for field in fields(part) if field.name in own}

    plan, loading = SplitPlan(**taken(SplitPlan)), Loading(**taken(Loading))
    attributes, file = Attributes(**taken(Attributes)), own.pop("corrections", None)
    _check_reader(cfg.data)
    # What is left says what the samples are.
    samples = _partial(OmegaConf.create(own))(allow_absent=allow_absent)
    augmentation = build_augmentation(cfg.transforms)
    data = DataModule(
        samples,
        plan,
        loading,
        attributes=attributes,
        split=split,
        corrections=read_corrections(resolve(file)) if file else None,
        augmentation=augmentation,
        seed=cfg.seed,
    )
    if data.metadata is not None:  # of the training samples: part of the model
        OmegaConf.update(cfg, "data.metadata_statistics", dict(data.metadata.statistics), force_add=True)
    return data


def _check_reader(data: DictConfig) -> None:
    """Raise UserError when the reader of a data set does not take what every reader must, or no crowds."""
    reader = data.get("reader")
    if not isinstance(reader, DictConfig):  # whatever builds the data set says so
        return
    names, open_ended = _options_of(target_of(reader, "data.reader"))
    if not open_ended and not {"classes", "allow_absent"}.issubset(names):
        raise UserError(
            f"data.reader._target_={reader._target_} does not take classes and allow_absent; a reader is "
            "called as `Reader` in polymask.data.records says."
        )
    if data.get("crowd") is not None and not open_ended and "crowd" not in names:
        raise UserError(f"data.crowd={data.crowd} is of no use to {reader._target_}; leave it out.")


def build_augmentation(cfg: DictConfig) -> Augmentation | None:
    """Build the augmentation from named albumentations transforms, in their order; None when there are none.

    Raises:
        UserError: A transform does not exist or an argument does not fit it.
    """
    from polymask.data.transforms import Augmentation

    transforms = []
    for name in map(str, cfg):
        key = f"transforms.{name}"
        with warnings.catch_warnings():
            # albumentations only warns of an argument it does not know, and goes on without it.
            warnings.simplefilter("error", UserWarning)
            try:
                transforms.append(_builder(cfg, name, key=key)())
            except (ValueError, TypeError, UserWarning) as error:
                reason = "; ".join(line.strip() for line in str(error).splitlines()[:3])
                raise UserError(f"{key} is not valid: {reason}") from error
    return Augmentation(transforms) if transforms else None


def build_family(cfg: DictConfig, class_names: Sequence[str]) -> Family:
    """Build the family of a task: its classes and options, no network.

    Raises:
        UserError: An option is unknown to it or not allowed.
    """
    for name in ("calibration", "explain"):
        if cfg.get(name) and not _takes(cfg.task, "task", name):
            value = str(cfg[name]).lower()
            raise UserError(f"{name}={value} is of no use to {cfg.task._target_}; leave it out.")
    family: Family = _builder(cfg, "task")(class_names=list(class_names))
    return family


def build_task(
    cfg: DictConfig, family: Family, *, class_counts: Sequence[int] | None = None, pretrained: bool
) -> Task:
    """Build the task with its model and losses.

    Args:
        cfg: The whole configuration.
        family: Its family.
        class_counts: Training images per class, None when the task will not be trained.
        pretrained: Load the configured encoder weights; False when a checkpoint's weights follow, so that
            nothing is downloaded in vain.
    """
    if pretrained and cfg.model.get("freeze_backbone") and cfg.model.get("encoder_weights", "") is None:
        log.warning(
            "model.freeze_backbone=true keeps random weights, since model.encoder_weights=null: the encoder "
            "will learn nothing; give it weights, or start from a run with init_from=."
        )
    build_model = _builder(cfg, "model")
    if _takes(cfg.model, "model", "pretrained"):  # code of one's own may know of none
        build_model = partial(build_model, pretrained=pretrained)
    task = family.build_task(
        build_model=build_model,
        build_loss=_loss_builder(cfg),
        class_counts=class_counts,
    )
    balancing = getattr(getattr(task, "loss", None), "balancing", "")
    if class_counts is not None and balancing and cfg.data.get("sampler") == "weighted":
        log.warning(
            "data.sampler=weighted and %s both balance the classes, so rare classes count twice over; set "
            "one of the two back (shuffle; none, 0).",
            balancing,
        )
    return task


def _loss_builder(cfg: DictConfig) -> Callable[..., Any]:
    """Return what builds the loss, also one that knows nothing of the number of images per class."""
    build = _builder(cfg, "loss")
    if _takes(cfg.loss, "loss", "class_counts"):
        return build
    return lambda class_counts=None, **of_classes: build(**of_classes)


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """What a checkpoint was written from.

    Attributes:
        cfg: Its configuration, with what was changed since.
        family: Its family.
        content: The checkpoint.
    """

    cfg: DictConfig
    family: Family
    content: Mapping[str, Any]

    def build_data(self, *, split: Split | None) -> DataModule:
        """Build its data set, which may lack some of its classes."""
        return build_data(self.cfg, split=split, allow_absent=True)

    def build_task(self, *, class_counts: Sequence[int] | None = None) -> Task:
        """Build its task with the weights to predict with.

        Raises:
            UserError: The weights do not fit.
        """
        task = build_task(self.cfg, self.family, class_counts=class_counts, pretrained=False)
        name = str(self.content["run_name"])
        load_weights(task, inference_weights(self.content), source=f"the checkpoint of {name}")
        return task


def rebuild(content: Mapping[str, Any], cfg: DictConfig | None = None) -> Rebuilt:
    """Return what a checkpoint was written from: the only way from its content to objects.

    Args:
        content: What `load_checkpoint` returned.
        cfg: Its configuration with changes, None for the stored one.
    """
    cfg = OmegaConf.create(content["config"]) if cfg is None else cfg
    family = build_family(cfg, content["class_names"])
    if content.get("decisions"):
        family.decide(decisions_of(content))
    return Rebuilt(cfg=cfg, family=family, content=content)


def build_optimizer(cfg: DictConfig, task: Task) -> Optimizer:
    """Build the optimizer over the task's parameters."""
    from polymask.training.optimizers import by_layer

    groups: Any = task.parameter_groups()
    if cfg.optimizer.get("layer_decay") is not None:
        groups = by_layer(groups, task.encoder_layers())
    with _values_of("optimizer"):
        optimizer: Optimizer = _builder(cfg, "optimizer")(groups)
    return optimizer


def build_schedule(cfg: DictConfig, optimizer: Optimizer, *, steps_per_epoch: int, mode: str) -> Schedule:
    """Build the course of the learning rate over all epochs."""
    build = _builder(cfg, "scheduler")
    with _values_of("scheduler"):
        schedule: Schedule = build(optimizer, steps_per_epoch=steps_per_epoch, epochs=cfg.epochs, mode=mode)
    return schedule


def build_trainer(cfg: DictConfig, *, processes: Processes | None = None) -> Trainer:
    """Build the trainer."""
    build = _builder(cfg, "trainer")
    trainer: Trainer = build(epochs=cfg.epochs, seed=cfg.seed, processes=processes)
    return trainer


def build_tracker(cfg: DictConfig) -> Tracker:
    """Build the tracker."""
    tracker: Tracker = _builder(cfg, "tracker")()
    return tracker


@contextmanager
def _values_of(key: str) -> Iterator[None]:
    """Report what a small builder says of its values as a mistake of the user."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UserError(f"a value of {key} is not valid: {' '.join(str(error).split())}") from error


def _builder(parent: Any, name: str, *, key: str | None = None) -> Callable[..., Any]:
    """Return the target of a configuration node with the node's own values filled in.

    Raises:
        UserError: The target does not exist, or does not take one of the values.
    """
    node, key = parent[name], key or name
    target_of(node, key)
    _check_options(node, key)
    return _partial(node)


def _partial(node: DictConfig) -> Callable[..., Any]:
    """Return the target of a checked node with the node's own values filled in."""
    build: Callable[..., Any] = instantiate(node, _partial_=True, _convert_="all")
    return build


def _check_options(node: Any, key: str, *, besides: Sequence[str] = ()) -> None:
    """Check that every target below a node exists and takes the values that stand beside it.

    Args:
        node: The node.
        key: Its key, for messages.
        besides: Values beside the target that are somebody else's.

    Raises:
        UserError: A target does not exist, or does not take one of the values.
    """
    for name, value in node.items():
        if isinstance(value, DictConfig):
            _check_options(value, f"{key}.{name}")
    target = str(node.get("_target_") or "")
    if not target:
        return
    own, open_ended = _options_of(target_of(node, key))
    names = [*own, *besides]
    for option in node:
        if not open_ended and not str(option).startswith("_") and option not in names:
            raise UserError(
                f"{key}.{option} is unknown to {target}.{nearest(str(option), names)} "
                f"Allowed: {', '.join(names)}."
            )


def _takes(node: DictConfig, key: str, option: str) -> bool:
    """Return whether what a node names has an argument of that name."""
    return option in _options_of(target_of(node, key))[0]


def _options_of(target: Any) -> tuple[list[str], bool]:
    """Return the names of a target's arguments, and whether it takes any others."""
    names: list[str] = []
    # A class that takes **options hands them on to its base.
    callables = (
        [vars(parent)["__init__"] for parent in inspect.getmro(target) if "__init__" in vars(parent)]
        if inspect.isclass(target)
        else [target]
    )
    for function in callables:
        parameters = inspect.signature(function).parameters.values()
        named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        names += [name for name in named if name != "self"]
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return names, False
    return names, True
