"""Training metrics, scores per sample and pictures of the multi-task family."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from polymask.data.images import read_image
from polymask.data.sources import read_ham10000
from polymask.families.multitask.family import Family
from polymask.families.multitask.loss import Loss
from polymask.families.multitask.predictions import ImagePrediction
from polymask.families.multitask.task import Task
from polymask.losses.classification import CrossEntropyLoss as ClassCrossEntropy
from polymask.losses.segmentation import DiceLoss
from polymask.models.mask_class.smp import build_smp

CLASSES = ["MEL", "NV", "BKL"]
SCORER = Family(class_names=CLASSES).scorer


def make_task(**options) -> Task:
    torch.manual_seed(0)
    return Family(**{"class_names": CLASSES, **options}).build_task(
        build_model=partial(build_smp, model="unet", encoder_name="tu-test_resnet", encoder_weights=None),
        build_loss=partial(
            Loss,
            segmentation={"dice": {"weight": 1.0, "term": DiceLoss()}},
            classification={"ce": {"weight": 1.0, "term": ClassCrossEntropy()}},
        ),
        class_counts=None,
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
    found = {name: values[0] for name, values in SCORER.metrics(task.training_rows()).items()}
    for number, batch in enumerate(batches):
        task.evaluation_step({**batch, "ids": [f"{number}/{name}" for name in batch["ids"]]})
    expected = SCORER.point_estimates(task.evaluation())
    of_evaluations = ("loss", "ece_lesion", "brier_lesion")
    expected = {name: value for name, value in expected.items() if not name.startswith(of_evaluations)}
    assert found == pytest.approx(expected, nan_ok=True)
    wanted = {"dice_lesion_image", "iou_lesion_image", "pixel_accuracy_image", "balanced_accuracy"}
    assert wanted <= found.keys()


def test_training_metrics_begin_anew_with_every_epoch_and_cost_nothing_unless_wanted():
    task = make_task(training_metrics=True)
    task.start_epoch(0)
    task.training_step(make_batch())
    task.start_epoch(1)
    assert task.training_rows()["ids"].size == 0
    assert make_task().training_rows() == {}


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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"predict_masks": False},
        {"predict_classes": False},
        {"segmentation": "multiclass"},
        {"class_names": [], "predict_classes": False},
    ],
)
def test_mixed_images_teach_every_kind_of_task(options):
    task = make_task(mixing={"mixup": 0.5, "cutmix": 0.5}, **options)
    task.start_epoch(0)
    batch = {**make_batch(), "masked": [True] * 4, "labelled": [True] * 4}
    mixer, task.mixer = task.mixer, None
    task.eval()  # so that nothing but mixing makes a difference
    unmixed, task.mixer = task.training_step(batch)["loss"], mixer
    loss = task.training_step(batch)["loss"]
    loss.backward()
    assert loss.isfinite()
    assert loss != unmixed
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())


def test_number_of_empty_masks_stands_beside_the_scores_only_where_there_are_some():
    task, batch = make_task().eval(), make_batch()
    task.evaluation_step(batch)
    rows = task.evaluation()
    assert "num_empty_masks" not in SCORER.point_estimates(rows)
    assert SCORER.mask_counts(rows) == {"num_masks": 4, "num_empty_masks": 0}
    task.reset()
    batch["mask"][:2] = 0
    batch["mask"][3] = 255  # no mask at all
    task.evaluation_step({**batch, "mask_rows": torch.tensor([0, 1, 2])})
    rows = task.evaluation()
    assert SCORER.point_estimates(rows)["num_empty_masks"] == 2
    assert SCORER.mask_counts(rows) == {"num_masks": 3, "num_empty_masks": 2}


def test_family_needs_what_it_predicts():
    assert Family(class_names=CLASSES).needs == {"image", "mask", "label"}
    assert Family(class_names=CLASSES, predict_masks=False).needs == {"image", "label"}
    family = Family(class_names=[], predict_classes=False)
    assert (family.needs, family.predicts) == ({"image", "mask"}, {"mask"})


def test_evaluation_without_masks_counts_none():
    task = make_task(predict_masks=False)
    task.eval().evaluation_step(make_batch())
    rows = task.evaluation()
    assert "num_empty_masks" not in SCORER.point_estimates(rows)
    assert SCORER.mask_counts(rows) == {}


def test_scores_per_sample_by_hand():
    rows = {
        "ids": np.array(["a", "b"]),
        "confusion": np.array([[[5, 1, 1], [3, 1, 1]], [[0, 0, 0], [0, 0, 0]]]),
        "lesion_confusion": np.array([[3, 1, 1], [0, 0, 0]]),
        "class_probabilities": np.array([[0.2, 0.7, 0.1], [0.5, 0.3, 0.2]], np.float32),
        "label": np.array([1, -1]),
    }
    scores = SCORER.scores(rows)
    assert list(scores) == ["dice_lesion", "true_class_probability"]
    np.testing.assert_allclose(scores["dice_lesion"], [6 / 8, np.nan])
    np.testing.assert_allclose(scores["true_class_probability"], [0.7, np.nan], rtol=1e-6)


def test_picture_shows_prediction_and_truth_at_the_size_of_the_image(lesion_folder: Path):
    record = read_ham10000(lesion_folder, classes=CLASSES)[0][0]
    probabilities = torch.zeros(1, 64, 64)
    probabilities[:, 20:44, 20:44] = 1.0
    prediction = ImagePrediction(
        id=record.id, mask_probabilities=probabilities, class_probabilities=torch.tensor([0.1, 0.8, 0.1])
    )
    picture = Family(class_names=CLASSES).picture(prediction, record)
    height, width = read_image(record.image_path).shape[:2]
    assert picture.dtype == np.uint8
    assert picture.shape[1] >= 3 * width
    assert picture.shape[0] > height
    for colour in ((0, 255, 0), (255, 0, 255)):  # outlines of the truth and of the prediction
        assert (picture == colour).all(axis=-1).any()
