"""What is known of a run beside its results."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from polymask.reporting.course import Course
from polymask.utils.text_tables import duration

UNKNOWN = "unknown"
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True, kw_only=True)
class Subset:
    """How much of the data set is in a subset: samples, groups, and samples of each class."""

    name: str
    num_samples: int
    num_groups: int
    class_counts: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What is known of a run. What is not known is empty, and shown as unknown.

    Attributes:
        name: Name of the run.
        config: Its configuration, values by dotted key.
        groups: The chosen option of each group of the configuration.
        class_names: Names of the classes.
        predicts: Words for what it predicts, such as `mask`.
        split_sha256: Hash of the split that it was trained on.
        data_name: Name of the folder of the data set.
        data_fingerprint: Hash of the data set.
        data_description: One line on its files.
        data_licence: Name and first line of a licence file in the folder of the data set.
        subsets: The subsets of the split that was tested.
        num_seen: Tested samples that the run was trained on.
        versions: Versions of the libraries that trained it.
        commit: Commit of the code that tested it.
        hardware: Names and values: on what it was tested.
        num_parameters: Of the network, None where that is not known.
        course: Course of the training.
        parent_run: The run of which it is a copy.
        members: The runs that were tested together, where it is no single one: of these, only what all share
            is known.
        out_of_fold: Whether each of these was tested on samples of its own, rather than all together.
        notes: Sentences on the test that a reader must know.
    """

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    class_names: Sequence[str] = ()
    predicts: Sequence[str] = ()
    split_sha256: str = ""
    data_name: str = ""
    data_fingerprint: str = ""
    data_description: str = ""
    data_licence: str = ""
    subsets: Sequence[Subset] = ()
    num_seen: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""
    hardware: Mapping[str, str] = field(default_factory=dict)
    num_parameters: int | None = None
    course: Course = field(default_factory=lambda: Course(history=[], best_epoch=0))
    parent_run: str = ""
    members: Sequence[str] = ()
    out_of_fold: bool = False
    notes: Sequence[str] = ()

    @property
    def training_time(self) -> str:
        """Return how long all epochs took together, as `0:12:30`."""
        seconds = [row["epoch_seconds"] for row in self.course.history if "epoch_seconds" in row]
        return duration(sum(seconds)) if seconds else UNKNOWN

    @property
    def epochs(self) -> str:
        """Return how many epochs there were, and which one was tested."""
        number, best = len(self.course.history), self.course.best_epoch
        return f"{number}, tested weights of epoch {best}" if number else UNKNOWN

    @property
    def option_text(self) -> str:
        """Return the chosen options as they are typed."""
        return ", ".join(f"{group}={option}" for group, option in self.groups.items() if option != "None")

    @property
    def version_text(self) -> str:
        """Return the libraries with their versions."""
        return ", ".join(f"{name} {version}" for name, version in self.versions.items() if version)

    def pairs(self) -> list[tuple[str, str]]:
        """Return names and values of how the run came about."""
        million = "" if self.num_parameters is None else f"{self.num_parameters / 1e6:.1f} million"
        found = {
            "Run": self.name,
            **({"Members": ", ".join(self.members)} if self.members else {}),
            "Chosen options": self.option_text,
            "Parameters": million,
            "Seed": str(self.config.get("seed", "")),
            "Epochs": self.epochs,
            "Training time": self.training_time,
            **({"Copy of": self.parent_run} if self.parent_run else {}),
            **self.hardware,
            "Code (commit) of the test": self.commit,
            "Trained with": self.version_text,
        }
        told = [(name, value or UNKNOWN) for name, value in found.items()]
        # Several runs have no one training of which something could be unknown.
        return [pair for pair in told if not self.members or pair[1] != UNKNOWN]

    def data_pairs(self) -> list[tuple[str, str]]:
        """Return names and values of what the run learned from."""
        found = {
            "Data set": self.data_name,
            "Files": self.data_description,
            "Licence of the data": self.data_licence,
            "Fingerprint of the data": self.data_fingerprint,
            "SHA-256 of the split": self.split_sha256,
        }
        return [(name, value or UNKNOWN) for name, value in found.items()]

    def config_pairs(self) -> list[tuple[str, str]]:
        """Return the configuration as text, without the credentials that an address may hold."""
        return [(key, _CREDENTIALS.sub("", str(value))) for key, value in self.config.items()]
