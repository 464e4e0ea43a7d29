from __future__ import annotations

import numpy as np
import pytest

from polymask.errors import UserError
from polymask.structures.layers import check_size, number_objects, stack_masks

SIZE = (12, 20)


def box_mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def stack(masks, labels=None, crowd=None):
    labels = list(range(len(masks))) if labels is None else labels
    return stack_masks(masks, labels, [False] * len(masks) if crowd is None else crowd, SIZE)


def random_masks(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    return [rng.random(SIZE) < rng.choice([0.01, 0.2]) for _ in range(count)]


def box_of(mask: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_target_gives_back_overlapping_masks_and_the_boxes_around_them():
    rng = np.random.default_rng(0)
    for count in (0, 1, 2, 9):
        masks = random_masks(rng, count)
        labels, crowd = rng.integers(0, 3, count).tolist(), (rng.random(count) < 0.3).tolist()
        target = stack(masks, labels, crowd).to_target()
        kept = [index for index, mask in enumerate(masks) if mask.any()]
        np.testing.assert_array_equal(target["masks"], np.array(masks).reshape(-1, *SIZE)[kept])
        assert target["boxes"].tolist() == [box_of(masks[index]) for index in kept]
        assert target["labels"].tolist() == [labels[index] for index in kept]
        assert target["crowd"].tolist() == [crowd[index] for index in kept]


def test_target_without_objects_has_the_types_and_shapes_of_one_with_objects():
    for masks in ([], [box_mask(1, 1, 3, 3)]):
        target = stack(masks).to_target()
        count = len(masks)
        found = {name: (value.shape, value.dtype) for name, value in target.items()}
        assert found == {
            "boxes": ((count, 4), np.float32),
            "labels": ((count,), np.int64),
            "masks": ((count, *SIZE), np.uint8),
            "crowd": ((count,), np.bool_),
        }


def test_only_overlapping_objects_need_another_layer():
    apart = [box_mask(0, 0, 4, 4), box_mask(4, 0, 8, 4), box_mask(8, 8, 12, 12)]
    assert stack(apart).layers.shape == (*SIZE, 1)
    assert stack([*apart, box_mask(3, 3, 5, 5), box_mask(0, 10, 2, 12)]).layers.shape == (*SIZE, 2)


def test_masks_of_parts_stay_one_object():
    target = stack([box_mask(0, 0, 2, 2) | box_mask(10, 8, 13, 12)]).to_target()
    assert target["boxes"].tolist() == [[0, 0, 13, 12]]


def test_objects_that_the_layers_lost_vanish_from_the_target():
    instances = stack([box_mask(0, 0, 4, 4), box_mask(10, 0, 14, 4), box_mask(3, 3, 12, 6)])
    instances.layers[:, 10:] = 0
    target = instances.to_target()
    assert target["labels"].tolist() == [0, 2]
    assert target["boxes"].tolist() == [[0, 0, 4, 4], [3, 3, 10, 6]]


def brute_force_paint(masks, labels, crowd) -> np.ndarray:
    result = np.zeros(SIZE, np.uint8)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            here = [i for i, mask in enumerate(masks) if mask[y, x]]
            objects = [(masks[i].sum(), labels[i] + 1) for i in here if not crowd[i]]
            result[y, x] = min(objects)[1] if objects else (255 if here else 0)
    return result


def test_union_and_class_masks_put_small_objects_first_and_crowds_last():
    rng = np.random.default_rng(1)
    for _ in range(5):
        sizes = rng.choice(120, 6, replace=False)  # different areas, so that the smaller one is defined
        masks = []
        for area in sizes:
            mask = np.zeros(SIZE, bool)
            mask.ravel()[rng.permutation(mask.size)[:area]] = True
            masks.append(mask)
        labels, crowd = rng.integers(0, 200, 6).tolist(), [False, True, False, False, True, False]
        instances = stack(masks, labels, crowd)
        expected = brute_force_paint(masks, labels, crowd)
        np.testing.assert_array_equal(instances.class_mask(), expected)
        union = instances.union_mask()
        np.testing.assert_array_equal(union, brute_force_paint(masks, [0] * 6, crowd))
        assert union.dtype == expected.dtype == np.uint8


def test_class_masks_refuse_the_label_that_would_read_as_ignore():
    assert stack([box_mask(0, 0, 2, 2)], [253]).class_mask().max() == 254
    with pytest.raises(UserError, match=r"at most 254 classes, but a label is 254; .*data\.classes"):
        stack([box_mask(0, 0, 2, 2)], [254]).class_mask()


def test_label_map_numbers_may_have_gaps_and_any_size():
    label_map = np.zeros(SIZE, np.uint32)
    label_map[0:2, 0:3], label_map[5:9, 4:6], label_map[11, 19] = 4_000_000_000, 3, 70_000
    instances = number_objects(label_map)
    target = instances.to_target()
    assert (instances.layers.dtype, instances.layers.shape) == (np.uint16, (*SIZE, 1))
    assert target["boxes"].tolist() == [[4, 5, 6, 9], [19, 11, 20, 12], [0, 0, 3, 2]]
    for mask, number in zip(target["masks"], (3, 70_000, 4_000_000_000), strict=True):
        np.testing.assert_array_equal(mask, label_map == number)
    assert target["labels"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("label_map", [np.zeros(SIZE, np.uint8), np.full(SIZE, 5, np.uint16)])
def test_label_map_of_background_only_or_of_one_object_only(label_map):
    target = number_objects(label_map).to_target()
    assert len(target["masks"]) == (label_map.max() > 0)
    assert target["masks"].all()


def test_more_objects_than_numbers_is_a_user_error():
    label_map = np.arange(65_537, dtype=np.int32).reshape(1, -1)
    assert len(number_objects(label_map[:, :-1]).labels) == 65_535
    with pytest.raises(UserError, match=r"65536 objects, the most allowed is 65535"):
        number_objects(label_map)


def test_size_check_names_both_sizes_and_suspects_a_turned_image(tmp_path):
    check_size("a.png", (4, 6), tmp_path / "b.jpg", (4, 6))
    check_size("a.png", (4, 6), tmp_path / "b.jpg", None)
    with pytest.raises(UserError, match=r"a\.png are 6 x 4 pixels but their image b\.jpg is 7 x 4; [^.]*\.$"):
        check_size("a.png", (4, 6), tmp_path / "b.jpg", (4, 7))
    with pytest.raises(UserError, match="turned by its EXIF data"):
        check_size("a.png", (4, 6), tmp_path / "b.jpg", (6, 4))
