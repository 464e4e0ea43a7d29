"""What the files of a results folder are called on the page, and below which heading they stand."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

MORE = "More"


@dataclass(frozen=True, kw_only=True)
class Known:
    """A kind of file.

    Attributes:
        pattern: Of its name, with `*` for any text.
        topic: The heading below which it stands.
        title: What it is, "" to make it from its name.
        note: How it is read.
        folded: Whether a table is shown only when asked for.
    """

    pattern: str
    topic: str
    title: str = ""
    note: str = ""
    folded: bool = False


TOPICS = (
    "Comparison", "Summary", "Data set", "Classes", "Curves", "Calibration", "Operating points", "Subgroups",
    "Explanations", "Examples", "Training", MORE,
)  # fmt: skip
"""The headings in their order."""

_FILES = (
    Known(pattern="comparison.png", topic="Comparison", title="Differences of all metrics"),
    Known(
        pattern="comparison.csv",
        topic="Comparison",
        title="All metrics",
        note="Where an interval does not reach zero, the runs differ by more than the choice of samples.",
    ),
    Known(pattern="summary.png", topic="Summary", title="All metrics, drawn"),
    Known(
        pattern="summary.csv",
        topic="Summary",
        title="All metrics",
        note="Mean and standard deviation are over the folds; pooled takes the samples of all as one set.",
    ),
    Known(pattern="statistics.csv", topic="Data set", title="All numbers", folded=True),
    Known(pattern="image_sizes.png", topic="Data set", title="Sizes of the images"),
    Known(pattern="mask_areas.png", topic="Data set", title="Areas of the masks"),
    Known(pattern="mask_coverage.png", topic="Data set", title="Where masks lie in the image"),
    Known(pattern="classes.csv", topic="Classes", title="Labels of each class in each subset"),
    Known(pattern="classes.png", topic="Classes", title="Labels of each class"),
    Known(
        pattern="confusion_matrix.png",
        topic="Curves",
        title="Confusion matrix",
        note="Rows are the true classes. What lies off the diagonal was mistaken for another class.",
    ),
    Known(
        pattern="roc_curves.png",
        topic="Curves",
        title="ROC curves",
        note="The nearer a curve comes to the upper left corner, the better the class is told from the rest.",
    ),
    Known(
        pattern="pr_curves.png",
        topic="Curves",
        title="Precision-recall curves",
        note="How many of the finds are right, by how much of what there is was found.",
    ),
    Known(
        pattern="*calibration*",
        topic="Calibration",
        note="Probabilities can be trusted where the share of correct answers equals the stated confidence.",
    ),
    Known(pattern="*reliability*", topic="Calibration", title="Reliability diagram"),
    Known(
        pattern="operating_points.csv",
        topic="Operating points",
        title="What to expect at chosen thresholds",
        note="Thresholds were chosen on the validation subset, and are judged here on the test subset. "
        "“Exact”: the binomial interval, which has a width even where every sample was right.",
    ),
    Known(
        pattern="*decision*",
        topic="Operating points",
        note="Net benefit of acting on the model's word, beside acting always and never.",
    ),
    Known(
        pattern="*risk_coverage*",
        topic="Operating points",
        title="Risk and coverage",
        note="How often the model errs when it may stay silent where it is least sure.",
    ),
    Known(pattern="*operating*", topic="Operating points"),
    Known(pattern="*score_threshold*", topic="Operating points"),
    Known(
        pattern="subgroups.csv",
        topic="Subgroups",
        title="Metrics of each subgroup",
        note="Of small subgroups only the counts are shown.",
    ),
    Known(
        pattern="subgroup_metrics.csv",
        topic="Subgroups",
        title="All metrics of each subgroup",
        folded=True,
    ),
    Known(pattern="*subgroup*", topic="Subgroups"),
    Known(
        pattern="explanations.png",
        topic="Explanations",
        title="Where classes were seen",
        note="Bright places spoke most for the predicted class. The green line is the true outline.",
    ),
    Known(pattern="samples.png", topic="Examples", title="Random samples"),
    Known(
        pattern="augmentations.png",
        topic="Examples",
        title="Augmentations",
        note="Each row shows one training sample, first as it is, then as the first epochs see it.",
    ),
    Known(
        pattern="training_curves.png",
        topic="Training",
        title="Course of the training",
        note="The vertical line marks the epoch whose weights were tested.",
    ),
)


def known(name: str) -> Known:
    """Return what is known of a file by its name; of others a kind that stands below `More`."""
    return next(
        (entry for entry in _FILES if fnmatchcase(name, entry.pattern)), Known(pattern=name, topic=MORE)
    )


def place(name: str) -> tuple[int, str]:
    """Return what files are sorted by: their order above, then their names."""
    entry = known(name)
    return (_FILES.index(entry) if entry in _FILES else len(_FILES)), name
