"""What a family of tasks supplies, cut by who needs it. Read this page first.

A family is a folder beside this file. It says once what it learns from and how that is measured:

- `Family` knows the classes and the options, and no network. Whoever looks at finished runs (compare,
  summarize) needs no more.
- `Task` is the network with its losses: what the trainer optimises.
- `Scorer` turns the rows of an evaluation into numbers; training, test, compare and summarize share it.
- `Report` writes the tables and figures of a test.
- `Application` applies a trained task to new cases.

An evaluation runs through them so: a task's `evaluation_step` hands out predictions, which a report draws and
forgets, and keeps a row of a few numbers per sample, from which a scorer computes every metric.

Batches and predictions are the family's own: nobody else looks into them, but for a prediction's `id`.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from torch import Tensor, nn

from polymask.errors import UserError, choose
from polymask.metrics.rows import mean_losses
from polymask.reporting.course import Course
from polymask.structures.monitors import direction, parse_monitors
from polymask.structures.samples import Rows, TitledSample

if TYPE_CHECKING:
    from polymask.data.module import DataModule
    from polymask.data.records import Record
    from polymask.metrics.accumulator import Accumulator
    from polymask.models.encoder_file import EncoderFile

Batch = dict[str, Any]
"""What the samples' `collate` returns, its tensors on the task's device."""


class Prediction(Protocol):
    """What a network says of one sample."""

    @property
    def id(self) -> str:
        """Return the id of the sample."""


class Task(nn.Module, ABC):
    """A network with its losses. The trainer knows only what stands here.

    Attributes:
        monitor: Metric key, such as `val/loss`, that decides which checkpoint is the best.
        mode: `min` or `max`: which direction of `monitor` is better.
        has_fixed_shapes: Whether all batches of one size have the same shapes throughout the network, as they
            have not where the number of objects is one of them.
    """

    monitor: str
    mode: str
    has_fixed_shapes: ClassVar[bool] = True

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Run `training_step`; the name is what DistributedDataParallel calls."""
        return self.training_step(batch)

    @abstractmethod
    def start_epoch(self, epoch: int) -> None:
        """Prepare the network for training in `epoch`: training mode, frozen parts frozen."""

    @abstractmethod
    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters as `encoder` (may have its own learning rate) and `rest`."""

    def encoder_layers(self) -> list[list[nn.Parameter]]:
        """Return the parameters of each layer of `encoder`, for learning rates that fall from layer to layer.

        Raises:
            UserError: The encoder has no layers of one kind.
        """
        raise UserError(
            "optimizer.layer_decay needs an encoder of layers, which this network has not: use null."
        )

    @abstractmethod
    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Return scalars; `loss` is optimised, the others are logged under their names."""

    def training_rows(self) -> Rows:
        """Return the rows of the training batches since `start_epoch`; none unless a task keeps some.

        They are of augmented images and of weights that still moved, so their metrics lag behind an
        evaluation of the same samples. With several processes all must call it.
        """
        return {}

    @abstractmethod
    def evaluation_step(self, batch: Batch) -> Sequence[Prediction]:
        """Return one prediction per sample, and keep a row of each, its losses among them."""

    def compared(self, predictions: Sequence[Any], batch: Batch) -> dict[str, Any]:
        """Return the rows of `evaluation_step` but for losses, of what `Application.merge` returned."""
        raise NotImplementedError

    def exported_encoder(self) -> EncoderFile | None:
        """Return the encoder as a file that others may start from; None unless it is a vision transformer."""
        return None

    @cached_property
    def accumulator(self) -> Accumulator:
        """What `evaluation_step` puts its rows into."""
        return self.new_accumulator()

    def evaluation(self) -> Rows:
        """Return the rows since `reset`, sorted by id; with several processes all must call it."""
        return self.accumulator.compute()

    def reset(self) -> None:
        """Forget the rows of `evaluation_step`."""
        self.accumulator.reset()

    def new_accumulator(self, *, repeats: bool = False) -> Accumulator:
        """Return a place for rows; `repeats`: samples may come more than once, as in training."""
        # Late: its library takes more than a second, for which an inference need not wait.
        from polymask.metrics.accumulator import Accumulator

        return Accumulator(repeats=repeats).to(next(self.parameters()).device)


class Scorer(ABC):
    """Computes every metric from rows; needs no network.

    Each metric is a function of rows and weights of the samples: weights of one give the estimate, weights
    that say how often a sample was drawn its interval.

    Attributes:
        headline: The metrics that a person wants to see first; the first two in every epoch.
    """

    headline: ClassVar[Sequence[str]]

    @abstractmethod
    def metrics(
        self, rows: Rows, weights: np.ndarray | None = None, *, per_class: bool = False
    ) -> dict[str, np.ndarray]:
        """Compute the metrics.

        Args:
            rows: N samples.
            weights: (R, N) non-negative weights of the samples, None for the point estimate (R = 1).
            per_class: Also those of each class that are too many to be logged in every epoch.

        Returns:
            Metric name to (R,) values, NaN where undefined.
        """

    @abstractmethod
    def scores(self, rows: Rows) -> dict[str, np.ndarray]:
        """Return name to (N,) scores that tell how well each sample was predicted.

        Higher is better, NaN where a sample has no truth. The first name matters most.
        """

    @abstractmethod
    def truth(self, rows: Rows, *, same_grid: bool) -> dict[str, np.ndarray]:
        """Return what of the rows is the same for every model, such as `classes`: (N, ...) values by name.

        Args:
            rows: N samples.
            same_grid: Whether the runs that are compared scored masks on one grid, so that areas are the
                same, too.
        """

    def class_evidence(self, rows: Rows) -> tuple[np.ndarray, np.ndarray] | None:
        """Return what tells wrong classes from right ones, None unless each sample has one class.

        Returns:
            (N,) int given classes, -1 where unknown, and their (N, K) predicted probabilities.
        """
        return None

    def mask_evidence(self, rows: Rows) -> dict[str, np.ndarray]:
        """Return name to (N,) values that tell how much each sample's truth contradicts its prediction.

        Higher is more suspicious, NaN where a sample has no truth. The first name matters most; none unless a
        family has some.
        """
        return {}

    def counts(self, rows: Rows) -> dict[str, float]:
        """Return numbers to stand beside the metrics that have no interval; none unless a family has some."""
        return {}

    def point_estimates(self, rows: Rows) -> dict[str, float]:
        """Return mean losses, metrics and counts as numbers, keys without the `val/` or `test/` prefix."""
        metrics = {name: float(values[0]) for name, values in self.metrics(rows).items()}
        return mean_losses(rows) | metrics | self.counts(rows)


class Report(ABC):
    """Consumes a test run's predictions batch by batch, so that memory does not grow with the data."""

    @property
    def bulk_folders(self) -> Sequence[str]:
        """Return the folders with a file per sample, too many for a tracker."""
        return ()

    @abstractmethod
    def add(self, predictions: Sequence[Any]) -> None:
        """Take the predictions of one batch."""

    def complete(self, rows: Rows) -> Rows:
        """Return rows with columns `…_original` that only `add` could tell; older tests lack them."""
        return rows

    @abstractmethod
    def finish(self, rows: Rows, course: Course) -> list[str]:
        """Write tables and figures of everything taken; return the lines that a person wants to see first.

        Args:
            rows: The rows of the same samples, as `complete` returned them.
            course: Course of the training.
        """

    @abstractmethod
    def picture(self, id_: str) -> np.ndarray:
        """Draw the test sample `id_` beside its truth, also when an earlier process wrote the report.

        Returns:
            (H, W, 3) uint8 RGB, made from the files of the report's folder and the data set.
        """


RESULTS_NAME = "inference.json"
"""File that marks a folder of results of an inference; nothing in it is a case."""


class Application(ABC):
    """Applies a trained task to cases: to images, or to whatever else the family predicts as one.

    It holds no network and opens no file before it is asked to. The way of a case: `read` opens it, `collate`
    joins several, `predict` gets what was joined on the task's device, and `write` (for files) or `result`
    (for Python) makes of the prediction what a person wants. `read` runs in the loader's processes and
    `write` in threads; how much of a case is in memory at a time is the family's affair.

    Attributes:
        folders: Names of the folders that `write` fills.
        columns: Names of the values that `write` returns.
        settings: What was chosen for this inference rather than in training, by key of the configuration:
            results of different settings do not go into one folder.
        batch_size: Cases per pass through the network, unless the user gives another number.
    """

    folders: Sequence[str]
    columns: Sequence[str]
    settings: Mapping[str, Any]
    batch_size: int

    @abstractmethod
    def find(self, folder: Path) -> list[Path]:
        """Return the cases below a folder, relative to it and sorted; hidden ones and results are left out.

        Raises:
            UserError: There is none.
        """

    @abstractmethod
    def read(self, source: str | Path | np.ndarray, *, draw: bool = False) -> tuple[Any, Any]:
        """Open a case.

        Args:
            source: Its path, or what would be read from there.
            draw: Whether `write` shall draw the prediction on it.

        Returns:
            The network's input, for `collate`; and what `result` and `write` will have to know of the case.

        Raises:
            UserError: It cannot be read.
        """

    @abstractmethod
    def collate(self, ids: Sequence[str], inputs: Sequence[Any]) -> Batch:
        """Return the inputs of some cases as one batch for `predict`; tensors are moved to its device."""

    @abstractmethod
    def predict(self, task: Any, batch: Batch) -> Sequence[Any]:
        """Return one prediction per case; without gradients and in the caller's precision.

        Args:
            task: The family's task.
            batch: What `collate` returned.
        """

    def merge(self, predictions: Sequence[Any]) -> Any:
        """Return what several networks say of one case together; families without it have no ensembles."""
        raise NotImplementedError

    @abstractmethod
    def result(self, prediction: Any, case: Any) -> Any:
        """Return a prediction in plain containers, at the case's own size."""

    @abstractmethod
    def write(self, folder: Path, name: Path, prediction: Any, case: Any) -> dict[str, Any]:
        """Write the files of one case.

        Args:
            folder: Folder of the results.
            name: Of its files: a path below each of `folders`, without suffix.
            prediction: What `predict` returned for it.
            case: What `read` returned for it.

        Returns:
            Its row of `predictions.csv`.
        """

    @abstractmethod
    def finish(self, folder: Path) -> None:
        """Write what is about all cases, those of earlier runs into the same folder too."""

    def clear(self, folder: Path) -> None:
        """Remove what `write` left in a folder of results."""
        for name in self.folders:
            shutil.rmtree(folder / name, ignore_errors=True)


class Family(ABC):
    """The classes and options of a task. A node of `config/task` names it; it is light: no network is built.

    What fits what is decided by words. A data set gives `image`, and some of `mask`, `label`, `objects`; a
    network and a loss give some of the latter three. All that a family needs must be given.

    Args:
        class_names: Names of the classes.
        monitor: Metric key that decides which checkpoint is the best.
        mode: `min`, `max`, or `auto`: min for losses and errors, else max.
        monitors: Further metrics, each with a best checkpoint of its own; kept with their directions.

    Attributes:
        needs: What a data set must give.
        validation: What `decide` was given.
        options: Keys of an inference's configuration that `application` takes.
        scorer: Computes the metrics.
        encoder_path: Where a training leaves the encoder of its best checkpoint, for families that train it
            for others; None for no such file.
    """

    encoder_path: ClassVar[str | None] = None
    options: ClassVar[Sequence[str]] = ()
    needs: frozenset[str]
    scorer: Scorer

    def __init__(
        self, *, class_names: Sequence[str], monitor: str, mode: str, monitors: Sequence[str] = ()
    ) -> None:
        self.class_names, self.monitor = list(class_names), monitor
        self.validation: Rows = {}
        choose("task.mode", mode, ("auto", "min", "max"))
        self.mode = mode if mode != "auto" else direction(monitor)
        self.monitors = parse_monitors(monitors, besides=monitor)

    @property
    def predicts(self) -> frozenset[str]:
        """What a network and a loss must give: all that is needed but for the image itself."""
        return self.needs - {"image"}

    @property
    def answers(self) -> dict[str, str]:
        """What is predicted, by the words for it: the members of an ensemble must agree in all."""
        predicts, classes = (", ".join(names) for names in (sorted(self.predicts), self.class_names))
        return {"what they predict": predicts, "classes": classes or "none", "family": type(self).__module__}

    @abstractmethod
    def build_task(
        self,
        *,
        build_model: Callable[..., Any],
        build_loss: Callable[..., Any],
        class_counts: Sequence[int] | None,
    ) -> Task:
        """Build network and losses.

        Args:
            build_model: The configured network, to be called with what the family knows of its outputs.
            build_loss: The configured loss, likewise.
            class_counts: Training images per class, None when the task will not be trained.
        """

    @property
    def undecided(self) -> str:
        """Return what was asked for and has yet to be decided on validation samples, as key=value, or ""."""
        return ""

    def decisions(self, rows: Rows) -> Rows:
        """Return what the best checkpoint keeps of its validation rows: what thresholds follow from."""
        return {}

    def decide(self, validation: Rows, task: Task | None = None) -> None:
        """Decide by what `decisions` returned; `task` is tested next, where it was built before."""
        self.validation = validation

    def decided(self, rows: Rows) -> Rows:
        """Return the rows of a test with what was decided."""
        return rows

    @abstractmethod
    def report(self, folder: Path, data: DataModule) -> Report:
        """Return the writer of a test run's tables and figures.

        Args:
            folder: Where to write; for `picture` alone, where an earlier report lies.
            data: The data set, with the tested samples as its test subset.
        """

    @abstractmethod
    def picture(self, prediction: Any, record: Record) -> np.ndarray:
        """Draw one prediction beside the truth: (H, W, 3) uint8 RGB."""

    def training_samples(self, data: DataModule, num_images: int) -> list[TitledSample]:
        """Return training images as the network gets them, where augmented items do not show that already."""
        return []

    def application(self, data: Mapping[str, Any], chosen: Mapping[str, Any]) -> Application | None:
        """Return what applies a trained task to new cases, None where there is nothing to apply.

        Args:
            data: The `data` section of the stored configuration.
            chosen: Values of the keys of `options` that take the place of those of training.

        Raises:
            UserError: A value is not allowed.
        """
        return None
