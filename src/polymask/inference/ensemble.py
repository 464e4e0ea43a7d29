"""Several trained models as one: each sees a case in its own way, and their predictions are merged.

All networks are on the device at once. What takes memory there is what lies between the layers of the one
that computes, and it is there once; weights are few beside it. One after the other, each would have to see
all cases, which are then opened as often and whose predictions wait in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
from torch import nn

from polymask.data.decoded_once import decoded_once
from polymask.families.base import Application, Batch, Task


class EnsembleApplication(Application):
    """Applies the tasks of an `EnsembleTask` to cases.

    A batch is `ids` and `views`: what each member's network sees of the cases.

    Args:
        applications: One per member; what one of them alone must say, the first does.
    """

    def __init__(self, applications: Sequence[Application]) -> None:
        self.applications = list(applications)
        first = self.applications[0]
        self.folders, self.columns, self.settings = first.folders, first.columns, first.settings
        self.batch_size = min(application.batch_size for application in self.applications)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.applications))})"

    def find(self, folder: Path) -> list[Path]:
        """Return the cases below a folder."""
        return self.applications[0].find(folder)

    def read(self, source: str | Path | np.ndarray, *, draw: bool = False) -> tuple[list[Any], Any]:
        """Open a case, which is decoded once; return what the networks see of it, and what it was."""
        with decoded_once():
            opened = [
                application.read(source, draw=draw and not number)
                for number, application in enumerate(self.applications)
            ]
        return [seen for seen, _ in opened], opened[0][1]

    def collate(self, ids: Sequence[str], inputs: Sequence[list[Any]]) -> Batch:
        """Return `ids` and `views`."""
        seen = zip(*inputs, strict=True)
        views = [own.collate(ids, column) for own, column in zip(self.applications, seen, strict=True)]
        return {"ids": list(ids), "views": views}

    def predict(self, task: EnsembleTask, batch: Batch) -> list[Any]:
        """Return one prediction per case, merged from those of the members."""
        members = zip(self.applications, task.tasks, batch["views"], strict=True)
        found = [application.predict(member, view) for application, member, view in members]
        return [self.applications[0].merge(predictions) for predictions in zip(*found, strict=True)]

    def result(self, prediction: Any, case: Any) -> Any:
        """Return a merged prediction in plain containers, at the case's own size."""
        return self.applications[0].result(prediction, case)

    def write(self, folder: Path, name: Path, prediction: Any, case: Any) -> dict[str, Any]:
        """Write the files of one case; return its row of `predictions.csv`."""
        return self.applications[0].write(folder, name, prediction, case)

    def finish(self, folder: Path) -> None:
        """Write what is about all cases."""
        self.applications[0].finish(folder)

    def clear(self, folder: Path) -> None:
        """Remove what `write` left in a folder of results."""
        self.applications[0].clear(folder)


class EnsembleTask(Task):
    """The tasks of the members, to predict with and to be evaluated; it is not trained.

    Args:
        tasks: One per member.
        application: Merges what they predict.
    """

    has_fixed_shapes = False

    def __init__(self, tasks: Sequence[Task], application: EnsembleApplication) -> None:
        super().__init__()
        self.tasks = nn.ModuleList(tasks)
        self.application = application
        self.monitor, self.mode = tasks[0].monitor, tasks[0].mode

    @property
    def first(self) -> Task:
        """Return the task that compares what all predict together with the truth."""
        return cast("Task", self.tasks[0])

    def evaluation_step(self, batch: Batch) -> list[Any]:
        """Return the merged predictions of a batch of views, and keep their rows, in which are no losses."""
        predictions = self.application.predict(self, batch)
        self.accumulator.update(batch["ids"], **self.first.compared(predictions, batch["views"][0]))
        return predictions

    def start_epoch(self, epoch: int) -> NoReturn:
        """Refuse to be trained."""
        raise TypeError("an ensemble is not trained, its members were")

    def parameter_groups(self) -> NoReturn:
        """Refuse to be trained."""
        self.start_epoch(0)

    def training_step(self, batch: Mapping[str, Any]) -> NoReturn:
        """Refuse to be trained."""
        self.start_epoch(0)
