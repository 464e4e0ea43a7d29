"""The family of docs/new_family.md, built and run from the page as a reader would."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from polymask import cli
from polymask.errors import UserError
from polymask.utils import paths

PAGE = Path(__file__).parents[1] / "docs" / "new_family.md"
FILE = re.compile(r"^`([\w/]+\.(?:py|yaml))`\n\n```(?:python|yaml)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMANDS = re.compile(r"^```bash\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TRACKED = ("train", "test", "compare", "summarize")


def page_commands() -> list[list[str]]:
    """The words of every command of the page that starts polymask."""
    (block,) = COMMANDS.findall(PAGE.read_text(encoding="utf-8"))
    lines = [shlex.split(line) for line in block.splitlines()]
    return [words[1:] for words in lines if words[:1] == ["polymask"]]


def run(words: list[str]) -> None:
    """Run a command of the page, without its half minute of MLflow."""
    name, *rest = words
    cli.run(name, [*rest, *(["tracker=none"] if name in TRACKED else [])])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A reader's own folder with the files of the page, all its commands done there."""
    folder = tmp_path_factory.mktemp("reader")
    for name, text in FILE.findall(PAGE.read_text(encoding="utf-8")):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(paths, "PROJECT_ROOT", folder)
        patch.syspath_prepend(folder)
        patch.setenv("POLYMASK_TRUSTED", "pointer")
        for words in page_commands():
            run(words)
        yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "pointer"]:
        del sys.modules[name]


def true_middle(mask: Path) -> np.ndarray:
    """(2,) row and column of the middle of a lesion, from 0 to 1."""
    pixels = cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE) > 0
    return (np.argwhere(pixels).mean(axis=0) + 0.5) / pixels.shape


def test_every_block_of_the_page_is_a_file_or_the_commands() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(FILE.findall(text)) + len(COMMANDS.findall(text)) == len(re.findall(r"^```\w+$", text, re.M))


def test_it_learns_what_the_page_says(place: Path) -> None:
    metrics = json.loads((place / "results" / "test" / "point_16" / "metrics.json").read_text())["metrics"]
    middles = np.array([true_middle(path) for path in (place / "data" / "demo" / "masks").glob("*.png")])
    blind = np.linalg.norm(middles - middles.mean(axis=0), axis=1).mean()  # the same point for all images
    assert metrics["distance"]["value"] < blind / 2
    assert metrics["distance"]["low"] < metrics["distance"]["value"] < metrics["distance"]["high"]
    assert metrics["hit"]["value"] > 0.9


def test_inference_points_at_the_lesions(place: Path) -> None:
    table = pd.read_csv(place / "results" / "inference" / "point_16" / "predictions.csv")
    images, masks = place / "data" / "demo" / "images", place / "data" / "demo" / "masks"
    assert sorted(table["file"]) == sorted(path.name for path in images.iterdir())
    masks_of = [
        cv2.imread(str(masks / f"{Path(name).stem}_segmentation.png"), cv2.IMREAD_GRAYSCALE)
        for name in table["file"]
    ]
    points = table[["row", "column"]].astype(int).to_numpy()
    assert np.mean([mask[tuple(point)] > 0 for mask, point in zip(masks_of, points, strict=True)]) > 0.9


def test_runs_are_compared_and_summarized(place: Path) -> None:
    comparison = place / "results" / "comparison" / "point_16_vs_point_2"
    assert re.search(r"^distance .*\nhit ", (comparison / "comparison.txt").read_text(), re.MULTILINE)
    assert list((comparison / "pictures").iterdir())
    summary = (place / "results" / "summary" / "summary" / "summary.txt").read_text()
    assert "score_map channels=16: one run, 17 test samples" in summary


def test_a_checkpoint_with_code_that_is_not_trusted_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POLYMASK_TRUSTED")
    with pytest.raises(UserError, match="set POLYMASK_TRUSTED=pointer"):
        run(["test", "run_name=point_16"])


def test_mistakes_are_told_with_the_readers_own_options_and_keys(place: Path) -> None:
    words = ["train", "--config-dir", "conf", "experiment=pointer", "run_name=wrong"]
    with pytest.raises(UserError, match="the network gives label and mask: use model=score_map"):
        run([*words, "model=smp"])
    with pytest.raises(UserError, match=r"loss=square is unknown\. Did you mean 'squares'"):
        run([*words, "loss=square"])
    with pytest.raises(UserError, match=r"Did you mean 'model\.channels'"):
        run([*words, "model.chanels=4"])
