"""Training metrics, scores per sample and pictures of the multi-task family."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from polymask.data.ham10000 import read_records
from polymask.data.images import read_image
from polymask.losses.classification import CrossEntropyLoss as ClassCrossEntropy
from polymask.losses.multitask import MultitaskLoss
from polymask.losses.segmentation import DiceLoss
from polymask.models.smp_models import build_model
from polymask.tasks.multitask import MultitaskTask, build_task
from polymask.tasks.predictions import ImagePrediction

CLASSES = ["MEL", "NV", "BKL"]


def make_task(**options) -> MultitaskTask:
    torch.manual_seed(0)
    return build_task(
        build_model=partial(build_model, model="unet", encoder_name="tu-test_resnet", encoder_weights=None),
        build_loss=partial(
            MultitaskLoss,
            segmentation={"dice": {"weight": 1.0, "term": DiceLoss()}},
            classification={"ce": {"weight": 1.0, "term": ClassCrossEntropy()}},
        ),
        class_names=CLASSES,
        **options,
    )


def make_batch(size: int = 4, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "ids": [f"{seed}-{index}" for index in range(size)],
        "image": torch.from_numpy(rng.integers(0, 256, (size, 64, 64, 3), dtype=np.uint8)),
        "mask": torch.from_numpy(rng.integers(0, 2, (size, 64, 64), dtype=np.uint8)),
        "label": torch.from_numpy(rng.integers(0, 3, size)),
        "mask_rows": None,
        "label_rows": None,
    }


def test_training_metrics_are_those_of_an_evaluation_with_the_same_forward_pass():
    task = make_task(training_metrics=True)
    task.start_epoch(0)
    task.eval()  # so that both passes give the same outputs
    batches = [make_batch(seed=0), make_batch(seed=1), make_batch(seed=0)]  # one drawn twice
    for batch in batches:
        task.training_step(batch)
    found = task.training_metrics()
    for number, batch in enumerate(batches):
        task.evaluation_step({**batch, "ids": [f"{number}/{name}" for name in batch["ids"]]})
    expected = {k: v for k, v in task.compute_metrics().items() if not k.startswith("loss")}
    assert found == pytest.approx(expected, nan_ok=True)
    wanted = {"dice_lesion_image", "iou_lesion_image", "pixel_accuracy_image", "balanced_accuracy"}
    assert wanted <= found.keys()


def test_training_metrics_begin_anew_with_every_epoch_and_cost_nothing_unless_wanted():
    task = make_task(training_metrics=True)
    task.start_epoch(0)
    task.training_step(make_batch())
    task.start_epoch(1)
    assert task.training_rows is not None
    assert task.training_rows.compute()["ids"].size == 0
    assert make_task().training_metrics() == {}


def test_collecting_training_metrics_leaves_loss_and_gradients_as_they_are():
    losses, gradients = [], []
    for wanted in (False, True):
        task = make_task(training_metrics=wanted)
        task.start_epoch(0)
        torch.manual_seed(1)
        loss = task.training_step(make_batch())["loss"]
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in task.parameters() if p.grad is not None]))
    assert losses[0] == losses[1]
    assert torch.equal(*gradients)


def test_number_of_empty_masks_stands_beside_the_scores_only_where_there_are_some():
    task, batch = make_task().eval(), make_batch()
    task.evaluation_step(batch)
    assert "num_empty_masks" not in task.compute_metrics()
    assert task.mask_counts() == {"num_masks": 4, "num_empty_masks": 0}
    task.reset_metrics()
    batch["mask"][:2] = 0
    batch["mask"][3] = 255  # no mask at all
    task.evaluation_step({**batch, "mask_rows": torch.tensor([0, 1, 2])})
    assert task.compute_metrics()["num_empty_masks"] == 2
    assert task.mask_counts() == {"num_masks": 3, "num_empty_masks": 2}


def test_task_without_masks_does_not_ask_for_them():
    assert make_task().learns_masks
    task = make_task(predict_masks=False)
    assert not task.learns_masks
    task.eval().evaluation_step(make_batch())
    assert "num_empty_masks" not in task.compute_metrics()
    assert task.mask_counts() == {}


def test_scores_per_sample_by_hand():
    rows = {
        "ids": np.array(["a", "b"]),
        "confusion": np.array([[[5, 1, 1], [3, 1, 1]], [[0, 0, 0], [0, 0, 0]]]),
        "lesion_confusion": np.array([[3, 1, 1], [0, 0, 0]]),
        "class_probabilities": np.array([[0.2, 0.7, 0.1], [0.5, 0.3, 0.2]], np.float32),
        "label": np.array([1, -1]),
    }
    scores = make_task().sample_scores(rows)
    assert list(scores) == ["dice_lesion", "true_class_probability"]
    np.testing.assert_allclose(scores["dice_lesion"], [6 / 8, np.nan])
    np.testing.assert_allclose(scores["true_class_probability"], [0.7, np.nan], rtol=1e-6)


def test_picture_shows_prediction_and_truth_at_the_size_of_the_image(lesion_folder: Path):
    record = read_records(lesion_folder, CLASSES)[0]
    probabilities = torch.zeros(1, 64, 64)
    probabilities[:, 20:44, 20:44] = 1.0
    prediction = ImagePrediction(
        id=record.id, mask_probabilities=probabilities, class_probabilities=torch.tensor([0.1, 0.8, 0.1])
    )
    picture = make_task().picture(prediction, record)
    height, width = read_image(record.image_path).shape[:2]
    assert picture.dtype == np.uint8
    assert picture.shape[1] >= 3 * width
    assert picture.shape[0] > height
    for colour in ((0, 255, 0), (255, 0, 255)):  # outlines of the truth and of the prediction
        assert (picture == colour).all(axis=-1).any()


@pytest.mark.parametrize("override", ["model=mask_rcnn", "loss=mask_rcnn"])
def test_parts_of_the_instance_family_are_refused_in_one_line(
    override: str, lesion_folder: Path, project: Path, capsys: pytest.CaptureFixture[str]
):
    from polymask import cli

    with pytest.raises(SystemExit) as ended:
        cli.main(["train", f"data.data_dir={lesion_folder}", "data.classes=[MEL,NV,BKL]", override])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert "those of task=instance" in printed
    assert printed.count("\n") == 1
