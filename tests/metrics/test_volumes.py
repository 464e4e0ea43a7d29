from __future__ import annotations

import numpy as np
import pytest
from instance_scenes import coco_evaluation, make_prediction, make_truth, write_coco
from volume_files import draw_balls, write_stack

from polymask.metrics.volumes import match_volume, slice_rows, volume_metrics
from polymask.structures.volumes import FoundVolume

SHAPE = (6, 24, 30)


def random_truth(rng, shape=SHAPE, count=6):
    """Ellipsoids that cover one another in part, with numbers that leave out some."""
    balls = np.column_stack(
        [rng.uniform(0, side, count) for side in shape]
        + [rng.uniform(side / 8, side / 4, count) for side in shape]
    )
    labels = draw_balls(shape, balls)
    return (3 * labels).astype(np.uint16)


def blurred_truth(rng, truth):
    """What may be found of it: moved, with some objects lost, some joined, some new; numbers 1 to N."""
    found = np.roll(truth, rng.integers(-1, 2, 2), (1, 2))
    numbers = np.unique(found)[1:]
    lookup = np.arange(found.max() + 1)
    for number in numbers:
        lookup[number] = rng.choice([number, number, number, 0, rng.choice(numbers)])
    found = lookup[found]
    extra = random_truth(rng, truth.shape, 2)
    found = np.where((extra > 0) & (found == 0), extra + found.max() + 1, found)
    return np.unique(found, return_inverse=True)[1].reshape(truth.shape).astype(np.uint16)


def found_volume(labels, scores=None, id_="01/t000"):
    count = int(labels.max())
    scores = np.linspace(0.9, 0.5, count) if scores is None else scores
    return FoundVolume(
        id=id_, labels=labels, scores=np.array(scores, np.float32), classes=np.zeros(count, np.int64)
    )


def make_row(labels, truth, annotated=None, scores=None, sections=None):
    """Return the row of a volume; without sections, as if nothing had been found in single slices."""
    annotated = np.ones(len(truth), bool) if annotated is None else np.asarray(annotated)
    nothing = make_prediction("z", truth.shape[1:], [], [], [])
    return {
        **match_volume(found_volume(labels, scores), truth, annotated, places=20),
        **slice_rows(sections or [nothing] * len(truth), truth, annotated, places=50),
    }


def stacked(rows):
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def measure(*rows, weights=None):
    """Return the metrics of some rows as numbers."""
    weights = None if weights is None else np.array([weights], np.float64)
    return {name: value[0] for name, value in volume_metrics(stacked(rows), weights).items()}


def block(*ranges, shape=SHAPE, number=1):
    labels = np.zeros(shape, np.uint16)
    labels[tuple(slice(*ends) for ends in ranges)] = number
    return labels


def official(folder, pairs):
    """Return SEG and DET of py-ctcmetrics for a sequence of (found, true) volumes."""
    from ctc_metrics.scripts.evaluate import evaluate_sequence

    for part in ("GT/SEG", "GT/TRA", "RES"):
        (folder / part).mkdir(parents=True)
    last = len(pairs) - 1
    for frame, (found, truth) in enumerate(pairs):
        write_stack(folder / f"GT/SEG/man_seg{frame:03}.tif", truth)
        write_stack(folder / f"GT/TRA/man_track{frame:03}.tif", truth)
        write_stack(folder / f"RES/mask{frame:03}.tif", found)
    for path, index in ((folder / "GT/TRA/man_track.txt", 1), (folder / "RES/res_track.txt", 0)):
        numbers = [set(np.unique(pair[index])) - {0} for pair in pairs]
        lines = [
            f"{number} {min(frames)} {max(frames)} 0\n"
            for number in sorted(set.union(*numbers))
            if (frames := [frame for frame in range(last + 1) if number in numbers[frame]])
        ]
        path.write_text("".join(lines))
    results = evaluate_sequence(str(folder / "RES"), str(folder / "GT"), ["SEG", "DET"], threads=1)
    return results["SEG"], results["DET"]


@pytest.mark.parametrize("seed", range(6))
def test_seg_and_det_equal_py_ctcmetrics(tmp_path, seed):
    rng = np.random.default_rng(seed)
    truths = [random_truth(rng) for _ in range(2)]
    pairs = [(blurred_truth(rng, truth), truth) for truth in truths]
    found = measure(*(make_row(*pair) for pair in pairs))
    assert (found["seg"], found["det"]) == pytest.approx(official(tmp_path, pairs), abs=1e-12)
    assert found["op_csb"] == (found["seg"] + found["det"]) / 2
    assert 0.05 < found["seg"] < 0.95


def test_equality_holds_with_splits_to_make(tmp_path):
    """One found object over two true ones, and one true one in two parts, as in a table of known answers."""
    truth = block((1, 4), (0, 8), (0, 8)) + block((1, 4), (0, 8), (8, 16), number=2)
    both = (truth > 0).astype(np.uint16)
    halves = block((1, 4), (0, 3), (0, 8)) + 2 * block((1, 4), (3, 8), (0, 8))
    pairs = [(both, truth), (halves, truth)]
    found = measure(*(make_row(*pair) for pair in pairs))
    # Frame 1: J = 1/2 twice, one split. Frame 2: J = 5/8 and 0, one missed, one false.
    assert found["seg"] == pytest.approx((0.5 + 0.5 + 0.625) / 4)
    assert found["det"] == pytest.approx(1 - (5 + 10 + 1) / 40)
    assert (found["seg"], found["det"]) == pytest.approx(official(tmp_path, pairs), abs=1e-12)


# Where py-ctcmetrics fails, or says something else than the definition.


def test_one_volume_is_enough():
    truth = block((0, 3), (0, 8), (0, 8))
    found = measure(make_row(block((0, 3), (0, 8), (2, 10)), truth))
    assert (found["seg"], found["det"]) == (pytest.approx(6 / 10), 1.0)


def test_nothing_found():
    truth = block((0, 3), (0, 8), (0, 8))
    found = measure(make_row(np.zeros_like(truth), truth))
    assert (found["seg"], found["det"], found["op_csb"], found["volume_ap50"]) == (0, 0, 0, 0)
    assert (found["count_error"], found["count_bias"]) == (1, -1)
    assert np.isnan(found["volume_error"])


def test_nothing_to_find():
    nothing = np.zeros(SHAPE, np.uint16)
    found = measure(make_row(nothing, nothing))
    assert np.isnan([found["seg"], found["op_csb"], found["volume_ap50"], found["slice_mask_ap50"]]).all()
    assert (found["det"], found["count_error"]) == (1, 0)
    assert measure(make_row(block((0, 3), (0, 8), (0, 8)), nothing))["det"] == 0


def test_numbers_up_to_the_largest():
    truth = block((0, 3), (0, 8), (0, 8), number=65_535) + block((0, 3), (10, 18), (0, 8), number=65_534)
    labels = np.where(truth == 65_535, 1, np.where(truth == 65_534, 2, 0)).astype(np.uint16)
    found = measure(make_row(labels, truth))
    assert (found["seg"], found["det"], found["volume_ap50"]) == (1, 1, pytest.approx(1))


def test_found_numbers_of_8_bits_beside_true_ones_of_16():
    truth = block((0, 3), (0, 8), (0, 8), number=300)
    found = measure(make_row((truth > 0).astype(np.uint8), truth))
    assert (found["seg"], found["det"]) == (1, 1)


def test_no_background():
    truth = np.ones(SHAPE, np.uint16)
    truth[:, :, 15:] = 2
    found = measure(make_row(truth, truth))
    assert (found["seg"], found["det"], found["count_error"]) == (1, 1, 0)


def test_exactly_half_is_no_match():
    truth = block((0, 2), (0, 8), (0, 8))
    half, more = block((0, 2), (0, 4), (0, 8)), block((0, 2), (0, 4), (0, 8))
    more[0, 4, 0] = 1
    assert [measure(make_row(labels, truth))["seg"] for labels in (half, more)] == [0, 65 / 128]
    assert [measure(make_row(labels, truth))["det"] for labels in (half, more)] == [0, 1]


def test_single_slices_are_images_of_their_own():
    """The table's case: of an object in two slices, one section is found whole and one in part."""
    truth = block((1, 2), (0, 8), (0, 8)) + block((3, 4), (0, 8), (0, 8))
    labels = block((1, 2), (0, 8), (0, 8)) + block((3, 4), (0, 3), (0, 8)) + block((5, 6), (0, 8), (0, 8))
    annotated = [False, True, False, True, False, False]
    found = measure(make_row(labels, truth, annotated))
    assert found["seg"] == pytest.approx((1 + 0) / 2)
    assert found["det"] == pytest.approx(1 - (10 + 1) / 20)
    # As one volume, the object would be found: 88 of 128 voxels.
    assert measure(make_row(labels, truth))["seg"] == pytest.approx(88 / (128 + 64))
    # Nothing is known of whole objects.
    unknown = ("volume_ap", "volume_ap50", "volume_ap75", "count_error", "count_bias", "volume_error")
    assert np.isnan([found[name] for name in unknown]).all()


def test_slices_without_truth_say_nothing():
    truth, nothing = block((1, 2), (0, 8), (0, 8)), np.zeros(SHAPE, bool)
    alone = measure(make_row(truth, truth, nothing[:, 0, 0]))
    assert all(np.isnan(value) for value in alone.values())
    beside = measure(make_row(truth, truth, nothing[:, 0, 0]), make_row(truth, truth))
    assert beside == pytest.approx(measure(make_row(truth, truth)), nan_ok=True)


def test_counts_and_volumes():
    truth = block((0, 3), (0, 8), (0, 8)) + block((0, 3), (10, 18), (0, 8), number=2)
    small = block((0, 3), (0, 8), (0, 6)) + block((0, 3), (10, 18), (0, 10), number=2)
    extra = truth + block((0, 3), (0, 8), (20, 24), number=3) + block((4, 6), (0, 8), (20, 24), number=4)
    found = measure(make_row(small, truth), make_row(np.zeros_like(truth), truth), make_row(extra, truth))
    assert found["count_error"] == pytest.approx((0 + 2 + 2) / 3)
    assert found["count_bias"] == pytest.approx((0 - 2 + 2) / 3)
    assert found["volume_error"] == pytest.approx((0.25 + 0.25 + 0 + 0) / 4)
    assert found["volume_bias"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_average_precision_of_volumes_equals_pycocotools(tmp_path, tied):
    """An image of all slices below each other has the areas and overlaps of the volume."""
    rng = np.random.default_rng(4)
    rows, scenes = [], []
    for index in range(5):
        truth = random_truth(rng, count=9)
        labels = blurred_truth(rng, truth)
        scores = rng.choice([0.3, 0.6, 0.9], labels.max()) if tied else rng.random(labels.max())
        rows.append(make_row(labels, truth, scores=scores))
        masks = [
            [of_all.reshape(-1, SHAPE[2]) == number for number in np.unique(of_all)[1:]]
            for of_all in (labels, truth)
        ]
        size = (SHAPE[0] * SHAPE[1], SHAPE[2])
        zeros = [np.zeros(len(of_all), int) for of_all in masks]
        scenes.append(
            (
                make_prediction(f"{index}", size, masks[0], zeros[0], scores),
                make_truth(size, masks[1], zeros[1]),
            )
        )
    write_coco(tmp_path, scenes, 1)
    expected = coco_evaluation(tmp_path, "mask", (1, 10, 100)).stats[:3]
    found = measure(*rows)
    assert [found[f"volume_ap{part}"] for part in ("", "50", "75")] == pytest.approx(expected, abs=1e-12)
    assert 0.1 < expected[1] < 0.9


def test_average_precision_of_sections_equals_pycocotools(tmp_path):
    """Masks of one slice may overlap; slices without a truth are left out."""
    rng = np.random.default_rng(5)
    truth = random_truth(rng, count=9)
    sections, scenes = [], []
    annotated = np.array([True, True, False, True, True, True])
    for z, of_slice in enumerate(truth):
        true = [of_slice == number for number in np.unique(of_slice)[1:]]
        found = [
            np.roll(mask, rng.integers(-2, 3, 2), (0, 1)) for mask in true for _ in range(rng.integers(0, 3))
        ]
        scores = rng.random(len(found)).round(1)
        sections.append(make_prediction(f"z{z}", SHAPE[1:], found, np.zeros(len(found), int), scores))
        if annotated[z]:
            scenes.append((sections[-1], make_truth(SHAPE[1:], true, np.zeros(len(true), int))))
    write_coco(tmp_path, scenes, 1)
    expected = coco_evaluation(tmp_path, "mask", (1, 10, 100)).stats[:3]
    found = measure(make_row(np.zeros_like(truth), truth, annotated, sections=sections))
    assert [found[f"slice_mask_ap{part}"] for part in ("", "50", "75")] == pytest.approx(expected, abs=1e-12)
    assert 0.1 < expected[1] < 0.9


def test_only_the_best_have_a_place():
    truth = np.zeros((1, 4, 60), np.uint16)
    truth[0, :, ::2] = np.arange(1, 31)
    row = make_row(truth, truth, scores=np.linspace(0.1, 1, 30))
    np.testing.assert_allclose(row["volume_scores"], np.linspace(0.1, 1, 30)[:9:-1], rtol=1e-6)
    assert (row["volume_hits"] == 2**10 - 1).all()
    assert row["num_found"] == 30
    few = make_row(block((0, 3), (0, 8), (0, 8)), block((0, 3), (0, 8), (0, 8)), scores=[0.5])
    assert few["volume_scores"].tolist() == [0.5] + [-1] * 19


def test_weights_count_volumes():
    rng = np.random.default_rng(6)
    truths = [random_truth(rng) for _ in range(3)]
    rows = [make_row(blurred_truth(rng, truth), truth) for truth in truths]
    assert measure(*rows, weights=[2, 0, 1]) == pytest.approx(measure(rows[0], rows[0], rows[2]), nan_ok=True)
    both = volume_metrics(stacked(rows), np.array([[1.0, 1, 1], [0, 1, 0]]))
    for name, values in both.items():
        expected = [measure(*rows)[name], measure(rows[1])[name]]
        np.testing.assert_allclose(values, expected, err_msg=name)


class OnDisk:
    """A volume of which only single slices may be asked for."""

    def __init__(self, volume):
        self.volume, self.shape = volume, volume.shape

    def __len__(self):
        return len(self.volume)

    def __getitem__(self, z):
        assert isinstance(z, int)
        return self.volume[z]


def test_volumes_are_read_slice_by_slice():
    rng = np.random.default_rng(7)
    truth = random_truth(rng)
    labels = blurred_truth(rng, truth)
    for annotated in (np.ones(6, bool), np.arange(6) % 2 == 0):
        lazy = match_volume(found_volume(labels), truth, annotated)
        for name, value in match_volume(
            FoundVolume(
                id="01/t000",
                labels=OnDisk(labels),
                scores=np.linspace(0.9, 0.5, labels.max()).astype(np.float32),
                classes=np.zeros(labels.max(), np.int64),
            ),
            OnDisk(truth),
            annotated,
        ).items():
            np.testing.assert_array_equal(value, lazy[name])


def test_shapes_and_types_do_not_depend_on_the_volume():
    rng = np.random.default_rng(8)
    truth = random_truth(rng)
    labels, nothing = blurred_truth(rng, truth), np.zeros_like(truth)
    section = make_prediction("z", SHAPE[1:], [truth[2] > 0], [0], [0.5])
    rows = [
        make_row(labels, truth, sections=[section] * 6),
        make_row(nothing, nothing),
        make_row(labels, truth, annotated=[True] + [False] * 5),
        make_row(labels, truth, annotated=[False] * 6),
    ]
    layouts = [{name: (value.shape, value.dtype) for name, value in row.items()} for row in rows]
    assert layouts[1:] == layouts[:1] * 3


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"01/t000: .* \(\(6, 24, 30\), \(5, 24, 30\), \(5,\)"):
        make_row(np.zeros(SHAPE, np.uint16), np.zeros((5, 24, 30), np.uint16))
    with pytest.raises(ValueError, match="sections of 1 slices, truth of 6"):
        slice_rows([make_prediction("z", (24, 30), [], [], [])], np.zeros(SHAPE, np.uint16), np.ones(6, bool))
