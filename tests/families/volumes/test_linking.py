from __future__ import annotations

import numpy as np
import pytest
from volume_files import draw_balls

from polymask.errors import UserError
from polymask.families.volumes.linking import Linker, Linking, apply_links
from polymask.utils.options import options_of

SIZE = (24, 40)


def section(rows, columns):
    mask = np.zeros(SIZE, bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def square(side, column=0, row=0):
    return section((row, row + side), (column, column + side))


def stack(slices):
    """Label volume of slices of masks; the sections of a slice are numbered in their order."""
    labels = np.zeros((len(slices), *SIZE), np.uint16)
    for of_slice, masks in zip(labels, slices, strict=True):
        for number, mask in enumerate(masks, start=1):
            of_slice[mask & (of_slice == 0)] = number
    return labels


def link(labels, *, scores=None, classes=None, embeddings=None, **options):
    """Return the links of a label volume and, as lists, the object numbers of each slice's sections."""
    linker = Linker(Linking(**options), labels.shape[1:])
    for z, of_slice in enumerate(labels):
        count = int(of_slice.max())
        linker.add(
            of_slice,
            np.full(count, 0.5) if scores is None else np.array(scores[z]),
            np.zeros(count, int) if classes is None else np.array(classes[z], int),
            None if embeddings is None else np.reshape(embeddings[z], (count, 1 if not count else -1)),
        )
    links = linker.finish()
    return links, [numbers[1:].tolist() for numbers in links.numbers]


def numbers_of(slices, **options):
    return link(stack(slices), **options)[1]


def test_neighbours_that_overlap_are_one_object():
    left, right = square(8), square(8, 20)
    assert numbers_of([[right, left], [left, right], [right]]) == [[1, 2], [2, 1], [1]]


def test_sections_that_hardly_overlap_are_two():
    # 8 x 8 pixels moved by 6: IoU 16 / 112.
    slices = [[square(8)], [square(8, 6)]]
    assert numbers_of(slices) == [[1], [1]]
    assert numbers_of(slices, min_iou=0.2) == [[1], [2]]


def test_a_missing_section_is_bridged():
    slices = [[square(8)], [], [square(8)], []]
    assert numbers_of(slices, min_slices=1) == [[1], [], [1], []]
    assert numbers_of(slices, min_slices=1, gap=0) == [[1], [], [2], []]
    assert numbers_of([[square(8)], [], [square(8, 4)], []], min_slices=1) == [[1], [], [2], []]  # IoU 1 / 3


def test_a_gap_has_a_length():
    slices = [[square(8)], [], [], [square(8)]]
    assert numbers_of(slices) == [[1], [], [], [2]]
    assert numbers_of(slices, gap=2) == [[1], [], [], [1]]


def test_a_neighbour_comes_before_a_gap():
    wide = section((0, 8), (0, 16))
    assert numbers_of([[square(8)], [wide], [square(8)]], convex=False) == [[1], [1], [1]]


def test_merge_and_split_keep_the_number_of_the_larger_overlap():
    large, small = section((0, 8), (0, 12)), section((0, 8), (12, 18))
    both = large | small
    merged = numbers_of([[large, small], [large, small], [both], [both], [both]])
    assert merged == [[1, 2], [1, 2], [1], [1], [1]]
    split = numbers_of([[both], [both], [small, large], [small, large]], convex=False)
    assert split == [[1], [1], [2, 1], [2, 1]]


def test_an_object_resumes_behind_a_merge():
    large, small = section((0, 8), (0, 12)), section((0, 8), (12, 18))
    slices = [[large, small], [large | small], [large, small]]
    assert numbers_of(slices, convex=False) == [[1, 2], [1], [1, 2]]


def test_what_shrinks_does_not_grow_again():
    # Areas 100, 36, 100: two cells on top of each other.
    slices = [[square(side)] for side in (6, 10, 10, 6, 10, 10)]
    assert numbers_of(slices) == [[1], [1], [1], [1], [2], [2]]
    assert numbers_of(slices, convex=False) == [[1]] * 6
    assert numbers_of(slices, convex_ratio=0.3) == [[1]] * 6  # 36 is not below 30
    # Growing by less than 1 / 0.8 is noise: 36, 42.
    almost = [[square(10)], [square(6)], [section((0, 6), (0, 7))]]
    assert numbers_of(almost) == [[1]] * 3


def test_shrinking_is_remembered_over_a_gap():
    slices = [[square(10)], [square(7)], [], [square(10)], [square(10)]]
    assert numbers_of(slices) == [[1], [1], [], [2], [2]]
    assert numbers_of(slices, convex=False) == [[1], [1], [], [1], [1]]


def test_short_objects_are_dropped_but_at_the_ends():
    first, middle, last = square(6), square(6, 10), square(6, 20)
    slices = [[first], [middle], [middle, last], [last], [last]]
    assert numbers_of(slices) == [[1], [2], [2, 3], [3], [3]]
    assert numbers_of(slices, min_slices=3) == [[1], [0], [0, 2], [2], [2]]
    assert numbers_of([[], [first], []]) == [[], [0], []]
    assert numbers_of([[], [], [first]]) == [[], [], [1]]


def test_unsure_objects_are_dropped():
    left, right = square(8), square(8, 20)
    labels = stack([[left, right]] * 2)
    links, numbers = link(labels, scores=[[0.9, 0.4], [0.1, 0.8]], min_score=0.55)
    assert numbers == [[0, 1], [0, 1]]
    assert links.scores.tolist() == [np.float32(0.6)]
    assert link(labels, scores=[[0.9, 0.4], [0.1, 0.8]])[0].scores.tolist() == [0.5, np.float32(0.6)]


def test_class_of_an_object_has_the_highest_sum():
    labels = stack([[square(8)]] * 3)
    links, _ = link(labels, scores=[[0.5], [0.4], [0.3]], classes=[[0], [2], [2]])
    assert links.classes.tolist() == [2]


def test_nothing_at_all():
    links, numbers = link(np.zeros((3, *SIZE), np.uint16))
    assert numbers == [[], [], []]
    assert links.scores.shape == links.classes.shape == (0,)
    labels = np.zeros((3, *SIZE), np.uint16)
    apply_links(labels, links)
    assert not labels.any()
    assert Linker(Linking(), SIZE).finish().numbers == []


def test_empty_slices_do_not_restart_the_numbers():
    slices = [[square(8)], [square(8)], [], [], [square(8, 20)], [square(8, 20)]]
    assert numbers_of(slices) == [[1], [1], [], [], [2], [2]]


def test_a_covered_section_is_no_object():
    linker = Linker(Linking(), SIZE)
    for _ in range(2):
        linker.add(square(8).astype(np.uint16) * 2, np.array([0.9, 0.3]), np.array([1, 0]))
    links = linker.finish()
    assert [numbers.tolist() for numbers in links.numbers] == [[0, 0, 1]] * 2
    assert (links.scores.tolist(), links.classes.tolist()) == ([np.float32(0.3)], [0])


def test_scrambled_sections_of_ellipsoids_are_put_together():
    balls = np.array([[4, 8, 8, 3.5, 6, 6], [8, 14, 17, 4.4, 6, 6], [11, 7, 29, 3.5, 6, 7]])
    truth = draw_balls((16, *SIZE), balls)
    rng = np.random.default_rng(0)
    labels = truth.copy()
    for of_slice in labels:
        present = np.unique(of_slice[of_slice > 0])
        lookup = np.zeros(4, np.uint16)
        lookup[present] = 1 + rng.permutation(len(present))
        of_slice[:] = lookup[of_slice]
    assert not np.array_equal(labels, truth)
    links, _ = link(labels)
    apply_links(labels, links)
    np.testing.assert_array_equal(labels, truth)


def naive_links(labels, options):
    """The rules as they are told, with masks and loops; returns object of each section, None for none."""
    sections = [[of_slice == number for number in range(1, of_slice.max() + 1)] for of_slice in labels]
    objects = [[None] * len(masks) for masks in sections]
    histories, continued = [], set()

    def fits(z, a, later, b):
        first, second = sections[z][a], sections[later][b]
        iou = (first & second).sum() / (first | second).sum()
        areas = [sections[at][place].sum() for at, place in histories[objects[z][a]]]
        top = len(areas) - 1 - int(np.argmax(areas[::-1]))
        shrunk, ratio = min(areas[top:]), options.convex_ratio
        grows = options.convex and shrunk < ratio * areas[top] and second.sum() > shrunk / ratio
        enough = iou >= (options.min_iou if later == z + 1 else options.gap_iou)
        return iou if enough and not grows else 0

    for z, masks in enumerate(sections):
        for distance in range(1, min(z, options.gap + 1) + 1):
            old = z - distance
            free = [a for a in range(len(sections[old])) if (old, a) not in continued]
            new = [b for b in range(len(masks)) if objects[z][b] is None]
            table = {(a, b): fits(old, a, z, b) for a in free for b in new}
            for (a, b), value in table.items():
                rivals = [other for pair, other in table.items() if (pair[0] == a) != (pair[1] == b)]
                if value > max([0, *rivals]):
                    objects[z][b] = objects[old][a]
                    histories[objects[old][a]].append((z, b))
                    continued.add((old, a))
        for b in range(len(masks)):
            if objects[z][b] is None:
                objects[z][b] = len(histories)
                histories.append([(z, b)])
    return objects


@pytest.mark.parametrize(
    "options", [{}, {"gap": 2, "gap_iou": 0.2}, {"convex": False, "min_iou": 0.3}], ids=str
)
def test_rules_equal_loops_over_masks(options):
    rng = np.random.default_rng(3)
    centres = rng.uniform([3, 3], [21, 37], (7, 2))
    labels = np.zeros((12, *SIZE), np.uint16)
    rows, columns = np.indices(SIZE)
    for of_slice in labels:
        radii = rng.uniform(2.5, 6, len(centres)) * (rng.random(len(centres)) < 0.8)
        shown = [
            (rows - row) ** 2 + (columns - column) ** 2 < radius**2
            for (row, column), radius in zip(centres + rng.normal(0, 1, centres.shape), radii, strict=True)
        ]
        for mask in shown:
            visible = mask & (of_slice == 0)
            if visible.any():
                of_slice[visible] = of_slice.max() + 1
    expected = naive_links(labels, Linking(**options))
    _, found = link(labels, min_slices=1, **options)
    assert found == [[number + 1 for number in numbers] for numbers in expected]
    # Objects of several slices, and more than there would be if all overlaps were linked.
    assert 12 < max(map(max, found)) < sum(map(len, found)) / 2


def test_only_few_slices_are_held():
    linker = Linker(Linking(gap=2), SIZE)
    for _ in range(20):
        linker.add(square(8).astype(np.uint16), np.ones(1), np.zeros(1, int))
    assert len(linker._recent) == 3


def test_more_objects_than_16_bits_are_refused():
    size = (200, 200)
    dots = np.arange(1, 40_001, dtype=np.uint16).reshape(size)
    linker = Linker(Linking(min_slices=1, gap=0), size)
    for labels in (dots, np.zeros(size, np.uint16), dots):
        linker.add(labels, np.ones(labels.max()), np.zeros(labels.max(), int))
    with pytest.raises(UserError, match=r"80,000 objects .* \(65,535\); raise task\.score_threshold"):
        linker.finish()


LEFT, RIGHT = section((0, 8), (0, 12)), section((0, 8), (8, 20))


def test_embeddings_decide_before_overlaps():
    labels = stack([[LEFT & ~RIGHT, RIGHT], [section((0, 8), (0, 6)), section((0, 8), (6, 20))]])
    alike = [[[3, 0], [0, 3]], [[0, 3], [3, 0]]]
    options = {"name": "embedding", "min_iou": 0.0, "convex": False}
    assert link(labels)[1] == [[1, 2], [1, 2]]
    # The first new section touches only the first old one, which is not the same by its embedding.
    assert link(labels, embeddings=alike, iou_weight=0.0, **options)[1] == [[1, 2], [3, 1]]
    assert link(labels, embeddings=alike, iou_weight=50.0, **options)[1] == [[1, 2], [1, 2]]


def test_rather_new_than_the_same():
    labels = stack([[square(8)], [square(8)]])
    embeddings = [[[1.0, 0.0]], [[-0.5, 0.0]]]
    assert link(labels, embeddings=embeddings, name="embedding", iou_weight=0.0)[1] == [[1], [2]]
    assert link(labels, embeddings=embeddings, name="embedding", iou_weight=0.6)[1] == [[1], [1]]


def test_probability_of_the_same_is_a_softmax_with_new():
    # The wide old section is nearest to both new ones in plain products; as a probability, the second new
    # one is surer of it, because the first has another old one that it resembles nearly as much.
    wide, side = section((0, 8), (0, 16)), section((0, 8), (16, 24))
    labels = stack([[wide, side], [section((0, 8), (8, 24)), section((0, 8), (0, 8))]])
    embeddings = [[[1, 0, 0], [0, 1, 0]], [[4.0, 3.9, 0], [3.0, 0, 0]]]
    softmax = [np.exp(4.0) / (np.exp(4.0) + np.exp(3.9) + 1), np.exp(3.0) / (np.exp(3.0) + 1)]
    assert softmax[0] < softmax[1]
    _, numbers = link(
        labels, embeddings=embeddings, name="embedding", iou_weight=0.0, min_iou=0.0, convex=False
    )
    assert numbers == [[1, 2], [3, 1]]


def test_the_other_rules_hold_for_embeddings():
    same = {"name": "embedding"}
    far = stack([[square(8)], [square(8, 12)]])
    assert link(far, embeddings=[[[9.0]], [[9.0]]], **same)[1] == [[1], [2]]
    gap = stack([[square(8)], [], [square(8)]])
    assert link(gap, embeddings=[[[1.0]], [], [[1.0]]], **same)[1] == [[1], [], [1]]
    assert link(gap, embeddings=[[[1.0]], [], [[1.0]]], gap=0, **same)[1] == [[1], [], [2]]
    grown = stack([[square(10)], [square(6)], [square(10)]])
    assert link(grown, embeddings=[[[1.0]]] * 3, **same)[1] == [[1], [1], [2]]


def test_embeddings_are_needed():
    with pytest.raises(UserError, match=r"set model\.embedding=true, or task\.linking\.name=overlap"):
        link(stack([[square(8)]]), name="embedding")


def test_labels_must_fit():
    linker = Linker(Linking(), SIZE)
    with pytest.raises(ValueError, match=r"size \(4, 4\) up to 0, expected \(24, 40\) and 0 sections"):
        linker.add(np.zeros((4, 4), np.uint16), np.zeros(0), np.zeros(0, int))
    with pytest.raises(ValueError, match=r"up to 1, expected .* and 0 sections"):
        linker.add(square(4).astype(np.uint16), np.zeros(0), np.zeros(0, int))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "overlaps"}, r"task\.linking\.name='overlaps' is unknown\. Did you mean 'overlap'\?"),
        ({"min_iou": 1.5}, r"task\.linking\.min_iou=1\.5 .* at least 0 and at most 1"),
        ({"gap_iou": "0.4"}, r"task\.linking\.gap_iou='0\.4'"),
        ({"min_score": -1}, r"task\.linking\.min_score=-1"),
        ({"gap": -1}, r"task\.linking\.gap=-1 .* whole number of at least 0"),
        ({"gap": 0.5}, r"task\.linking\.gap=0\.5"),
        ({"min_slices": 0}, r"task\.linking\.min_slices=0 .* at least 1"),
        ({"convex_ratio": 0}, r"task\.linking\.convex_ratio=0 .* above 0 and at most 1"),
        ({"convex": "yes"}, r"task\.linking\.convex='yes' is not valid; give true or false"),
        ({"fill_gaps": 1}, r"task\.linking\.fill_gaps=1"),
        ({"iou_weight": -2}, r"task\.linking\.iou_weight=-2"),
        ({"gaps": 1}, r"task\.linking\.gaps is unknown\. Did you mean 'gap'\?"),
    ],
)
def test_mistakes_are_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        options_of(Linking, options, "task.linking")
    assert "\n" not in str(error.value)


def test_options_that_are_not_given_have_defaults():
    assert options_of(Linking, {"gap": 2}, "task.linking") == Linking(gap=2)
