from __future__ import annotations

import math
import statistics
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from polymask.errors import UserError
from polymask.studies.folds.gathering import FoldRun, as_fold, gather_folds, notes_on_all, shared_metrics

UNET = {
    "model._target_": "polymask.models.mask_class.unet_family.build_model",
    "model.model": "unet",
    "optimizer.learning_rate": 0.001,
    "data.num_folds": 3,
    "data.split_seed": 0,
    "data.data_dir": "/data",
}
HITS = {0: [4, 2], 1: [3, 0, 3], 2: [8]}
TOTALS = {0: [5, 4], 1: [4, 2, 3], 2: [10]}


def ratio_metrics(rows: dict[str, np.ndarray], weights: np.ndarray | None) -> dict[str, np.ndarray]:
    """The mean of the samples' ratios, and the ratio of their sums."""
    weights = np.ones((1, len(rows["ids"]))) if weights is None else weights
    means = weights @ (rows["hits"] / rows["totals"]) / weights.sum(axis=1)
    return {"ratio_image": means, "ratio_pooled": weights @ rows["hits"] / (weights @ rows["totals"])}


def run(fold: int = 0, prefix: str = "sample", **config: Any) -> FoldRun:
    ids = [f"{prefix}_{fold}_{number}" for number in range(len(HITS[fold]))]
    return FoldRun(
        name=f"run_{fold}",
        config=UNET | {"data.fold": fold, "run_name": f"run_{fold}"} | config,
        rows={"ids": np.array(ids), "hits": np.array(HITS[fold]), "totals": np.array(TOTALS[fold])},
        groups=ids,
        metrics=ratio_metrics,
        tracker_run_id=f"id_{fold}",
    )


def folds(name: str = "run", **config: Any) -> list[FoldRun]:
    return [replace(run(fold, **config), name=f"{name}_{fold}") for fold in (0, 1, 2)]


def test_folds_become_one_study_in_their_order_with_mean_deviation_and_pooled_value():
    (study,) = gather_folds([run(2), run(0), run(1)])
    assert [one.name for one in study.runs] == ["run_0", "run_1", "run_2"]
    assert study.name == "unet"
    assert (len(study.ids), study.num_groups, study.notes) == (6, 6, ())
    per_fold = [(4 / 5 + 2 / 4) / 2, (3 / 4 + 0 + 1) / 3, 8 / 10]
    image = study.metrics["ratio_image"]
    assert image.values == pytest.approx(per_fold)
    assert image.mean == pytest.approx(statistics.mean(per_fold))
    assert image.std == pytest.approx(statistics.stdev(per_fold))
    assert image.pooled == pytest.approx((4 / 5 + 2 / 4 + 3 / 4 + 0 + 1 + 8 / 10) / 6)
    pooled = study.metrics["ratio_pooled"]
    assert pooled.mean == pytest.approx((6 / 9 + 6 / 9 + 8 / 10) / 3)
    assert pooled.pooled == pytest.approx(20 / 28)
    assert image.low < image.pooled < image.high


def test_the_interval_is_that_of_samples_drawn_by_group():
    (study,) = gather_folds(folds(), num_replicates=4000)
    ratios = np.array([4 / 5, 2 / 4, 3 / 4, 0, 1, 8 / 10])
    draws = np.random.default_rng(3).choice(ratios, size=(100_000, 6)).mean(axis=1)
    expected = np.quantile(draws, [0.025, 0.975])
    metric = study.metrics["ratio_image"]
    np.testing.assert_allclose([metric.low, metric.high], expected, atol=0.02)
    one_group = [replace(own, groups=["all"] * len(own.groups)) for own in folds()]
    metric = gather_folds(one_group)[0].metrics["ratio_image"]
    assert metric.low == pytest.approx(metric.pooled)
    assert metric.high == pytest.approx(metric.pooled)


def test_runs_without_folds_are_studies_of_their_own():
    single = {"data.num_folds": None}
    studies = gather_folds([run(0, **single), replace(run(1, **single), name="other")])
    assert [study.name for study in studies] == ["unet (run_0)", "unet (other)"]
    metric = studies[0].metrics["ratio_image"]
    assert metric.values == (pytest.approx(0.65),)
    assert metric.mean == metric.pooled == pytest.approx(0.65)
    assert math.isnan(metric.std)


def test_names_paths_and_machinery_do_not_part_folds_but_settings_do():
    same = [
        run(0, **{"local_save_dir": "/a", "trainer.device": "cpu", "tracker._target_": "x"}),
        run(1, **{"local_save_dir": "/b", "trainer.device": "cuda", "tracker._target_": "y"}),
        run(2, **{"preview_epochs": 5}),
    ]
    assert len(gather_folds(same)) == 1
    for setting in ({"data.num_folds": 4}, {"data.split_seed": 1}, {"seed": 1}, {"model.norm": "batch"}):
        changed = [*folds(), *folds(name="again", **setting)]
        studies = gather_folds(changed)
        assert [len(study.runs) for study in studies] == [3, 3]
        assert len({study.name for study in studies}) == 2


def test_names_tell_model_and_encoder_and_what_differs():
    mask_rcnn = {
        "model._target_": "polymask.models.mask_rcnn.build_model",
        "model.model": None,
        "model.backbone": "resnet50_fpn",
    }
    smp = {"model.encoder_name": "resnet18"}
    runs = [
        *folds(name="a"),
        *folds(name="b", **mask_rcnn),
        *folds(name="c", **smp),
        *folds(name="d", **smp, **{"optimizer.learning_rate": 0.01}),
        *folds(name="e", **smp, **{"seed": 1}),
    ]
    assert [study.name for study in gather_folds(runs, num_replicates=2)] == [
        "unet",
        "mask_rcnn resnet50_fpn",
        "unet resnet18 seed=null optimizer.learning_rate=0.001",
        "unet resnet18 seed=null optimizer.learning_rate=0.01",
        "unet resnet18 seed=1 optimizer.learning_rate=0.001",
    ]


def test_names_hold_paths_only_where_file_names_are_alike():
    files = ("/a/mae.pth", "/b/moco.pth", None)
    runs = [replace(run(0, **{"model.weights": file}), name=str(file)) for file in files]
    names = [study.name for study in gather_folds(runs, num_replicates=2)]
    assert names == ["unet weights=mae.pth", "unet weights=moco.pth", "unet weights=null"]
    runs = [replace(run(0, **{"model.weights": file}), name=file) for file in ("/a/x.pth", "/b/x.pth")]
    names = [study.name for study in gather_folds(runs, num_replicates=2)]
    assert names == ["unet weights=/a/x.pth", "unet weights=/b/x.pth"]


def test_a_missing_fold_and_data_of_two_places_are_noted():
    (study,) = gather_folds([run(0), run(2, **{"data.data_dir": "/elsewhere"})])
    assert "fold 1 is missing (data.num_folds=3)" in study.notes[0]
    assert "different places: /data, /elsewhere" in study.notes[1]
    (study,) = gather_folds([run(1)])
    assert "folds 0, 2 are missing" in study.notes[0]
    assert math.isnan(study.metrics["ratio_image"].std)


def test_best_epochs_by_another_metric_are_a_study_of_their_own():
    scorer = SimpleNamespace(metrics=ratio_metrics, headline=("ratio_image",))

    def tested(fold: int, by: str) -> FoldRun:
        config = {"data": {"num_folds": 3, "fold": fold}, "run_name": f"run_{fold}"}
        content = {"config": config, "corrections_sha256": "", "tracker_run_id": ""}
        own = SimpleNamespace(content=content, family=SimpleNamespace(scorer=scorer))
        found = run(fold)
        return as_fold(SimpleNamespace(name=f"run_{fold}{by}", run=own, rows=found.rows, groups=found.groups))

    studies = gather_folds([tested(fold, by) for by in ("", "@auroc_macro") for fold in (0, 1, 2)])
    assert [[each.name for each in study.runs] for study in studies] == [
        ["run_0", "run_1", "run_2"],
        ["run_0@auroc_macro", "run_1@auroc_macro", "run_2@auroc_macro"],
    ]
    assert "auroc_macro" in studies[1].name
    assert studies[0].name != studies[1].name


def test_a_fold_given_twice_stops():
    with pytest.raises(UserError, match="'run_1' and 'again' are both fold 1"):
        gather_folds([*folds(), replace(run(1), name="again")])
    with pytest.raises(UserError, match="'run_1' is given twice"):
        gather_folds([run(1), run(1)])
    with pytest.raises(UserError, match="no run to sum up"):
        gather_folds([])


def test_folds_that_test_some_of_the_same_samples_stop():
    rows = run(1).rows | {"ids": np.array(["sample_0_1", "x", "y"])}
    with pytest.raises(UserError, match=r"folds 0 \(run_0\) and 1 \(run_1\).*1 samples, e\.g\. sample_0_1"):
        gather_folds([run(0), replace(run(1), rows=rows), run(2)])


def test_a_test_subset_that_all_folds_share_is_noted_and_drawn_by_sample():
    shared = run(1)
    runs = [replace(shared, name=f"run_{k}", config=run(k).config) for k in (0, 1, 2)]
    runs[2] = replace(runs[2], rows=shared.rows | {"hits": np.array([4, 2, 3])})
    (study,) = gather_folds(runs, num_replicates=4000)
    assert "all folds were tested on the same samples" in study.notes[0]
    assert len(study.ids) == 3
    metric = study.metrics["ratio_image"]
    assert metric.pooled == pytest.approx(metric.mean)
    # The mean over the models of each sample is what a replicate draws.
    samples = np.array([(3 / 4 + 3 / 4 + 1) / 3, (0 + 0 + 1) / 3, 1])
    draws = np.random.default_rng(3).choice(samples, size=(100_000, 3)).mean(axis=1)
    np.testing.assert_allclose([metric.low, metric.high], np.quantile(draws, [0.025, 0.975]), atol=0.01)


def test_a_metric_that_is_undefined_in_a_fold_is_left_out_of_the_mean():
    def sometimes(rows: dict[str, np.ndarray], weights: np.ndarray | None) -> dict[str, np.ndarray]:
        values = ratio_metrics(rows, weights)
        small = len(rows["ids"]) < 2
        return {"auroc": values["ratio_image"] * (np.nan if small else 1)} | ({} if small else values)

    (study,) = gather_folds([replace(own, metrics=sometimes) for own in folds()])
    metric = study.metrics["auroc"]
    assert math.isnan(metric.values[2])
    assert metric.mean == pytest.approx(statistics.mean([0.65, 1.75 / 3]))
    assert metric.std == pytest.approx(statistics.stdev([0.65, 1.75 / 3]))
    assert math.isnan(study.metrics["ratio_pooled"].values[2])
    assert study.metrics["ratio_pooled"].pooled == pytest.approx(20 / 28)


def test_studies_of_different_samples_or_metrics_are_told():
    other = folds(name="other", **{"model.model": "attention_unet"})
    same = gather_folds([*folds(), *other])
    assert notes_on_all(same) == []
    assert shared_metrics(same) == ["ratio_image", "ratio_pooled"]

    def other_metrics(rows: dict[str, np.ndarray], weights: np.ndarray | None) -> dict[str, np.ndarray]:
        values = ratio_metrics(rows, weights)
        return {"mask_ap": values["ratio_image"], "ratio_pooled": values["ratio_pooled"]}

    other = [replace(own, metrics=other_metrics) for own in other[:2]]
    studies = gather_folds([*folds(), *other])
    assert shared_metrics(studies) == ["ratio_pooled"]
    (note,) = notes_on_all(studies)
    assert "6 of unet, 5 of attention_unet; 5 in common" in note
