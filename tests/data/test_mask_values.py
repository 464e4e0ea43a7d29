from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from polymask.data.inspection import look_at_mask
from polymask.data.mask_values import MaskRule, check_option, decide
from polymask.errors import UserError

TRUE = np.zeros((24, 32), bool)
TRUE[6:16, 8:24] = True
SMALL = np.zeros((24, 32), bool)
SMALL[2:9, 20:30] = True


def levels(mask: np.ndarray, high: int, dtype: type = np.uint8) -> Image.Image:
    return Image.fromarray(np.where(mask, high, 0).astype(dtype))


def palette(mask: np.ndarray, colours: list[int]) -> Image.Image:
    image = levels(mask, 1)
    result = Image.new("P", image.size)
    result.putdata(np.asarray(image).ravel().tolist())
    result.putpalette(colours)
    return result


def in_alpha(mask: np.ndarray, grey: int = 255) -> Image.Image:
    return Image.fromarray(
        np.dstack([np.full((*mask.shape, 3), grey), np.where(mask, 255, 0)]).astype(np.uint8)
    )


def coloured(mask: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    return Image.fromarray((mask[..., None] * np.uint8(colour)).astype(np.uint8))


def write(folder: Path, *images: Image.Image, suffix: str = ".png", **options: object) -> list[Path]:
    paths = []
    for number, image in enumerate(images):
        paths.append(folder / f"mask{number}{suffix}")
        image.save(paths[-1], **options)
    return paths


def rule_of(paths: list[Path], option: object = "auto") -> MaskRule:
    return decide([look_at_mask(path) for path in paths], option, where=Path("/set"))


def check(paths: list[Path], expected: list[np.ndarray], option: object = "auto") -> MaskRule:
    rule = rule_of(paths, option)
    for path, mask in zip(paths, expected, strict=True):
        found = rule.read(path)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, mask.astype(np.uint8))
        assert rule.foreground(look_at_mask(path)) == (mask.sum(), mask.size)
    return rule


@pytest.mark.parametrize("high", [1, 2, 7, 128, 200, 255])
def test_any_single_value_beside_0_is_the_foreground(tmp_path, high):
    none = np.zeros_like(TRUE)
    rule = check(write(tmp_path, *(levels(m, high) for m in (TRUE, SMALL, none))), [TRUE, SMALL, none])
    assert rule.words == f"0 and {high}"


@pytest.mark.parametrize("high", [1, 256, 4095, 65535])
def test_16_bit_masks(tmp_path, high):
    paths = write(tmp_path, levels(TRUE, high, np.uint16), levels(SMALL, high, np.uint16))
    assert check(paths, [TRUE, SMALL]).words == f"0 and {high}"


def test_1_bit_masks(tmp_path):
    check(write(tmp_path, Image.fromarray(TRUE), Image.fromarray(SMALL)), [TRUE, SMALL])


def test_grey_with_alpha_whose_opacity_is_constant(tmp_path):
    paths = write(tmp_path, *(levels(m, 255).convert("LA") for m in (TRUE, SMALL)))
    assert not check(paths, [TRUE, SMALL]).alpha


@pytest.mark.parametrize("suffix", [".tif", ".bmp"])
def test_other_formats(tmp_path, suffix):
    check(write(tmp_path, levels(TRUE, 255), levels(SMALL, 255), suffix=suffix), [TRUE, SMALL])


@pytest.mark.parametrize("quality", [50, 75, 95, 100])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_fringes_of_jpeg_are_cut_at_half(tmp_path, quality, mode):
    paths = write(
        tmp_path, *(levels(m, 255).convert(mode) for m in (TRUE, SMALL)), suffix=".jpg", quality=quality
    )
    decoded = [np.asarray(Image.open(path).convert("L")) for path in paths]
    top = max(int(values.max()) for values in decoded)
    rule = check(paths, [values > top / 2 for values in decoded])
    assert rule.above == top / 2
    for path, mask in zip(paths, (TRUE, SMALL), strict=True):
        assert (rule.read(path) != mask).mean() < 0.01


@pytest.mark.parametrize("interpolation", [cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA])
@pytest.mark.parametrize("factor", [0.55, 3.0, 8.0])
def test_fringes_of_resampling_are_cut_at_half(tmp_path, interpolation, factor):
    big = [cv2.resize(np.where(m, 255, 0).astype(np.uint8), (256, 192), interpolation=cv2.INTER_NEAREST)
           for m in (TRUE, SMALL)]  # fmt: skip
    grey = [cv2.resize(m, None, fx=factor, fy=factor, interpolation=interpolation) for m in big]
    check(write(tmp_path, *map(Image.fromarray, grey)), [values > 127 for values in grey])


def test_16_bit_fringes_are_cut_at_half(tmp_path):
    grey = [cv2.GaussianBlur(np.where(m, 65535.0, 0), (0, 0), 0.7).astype(np.uint16) for m in (TRUE, SMALL)]
    rule = rule_of(write(tmp_path, *map(Image.fromarray, grey)))
    assert 32000 < rule.above < 32768
    np.testing.assert_array_equal(rule.read(tmp_path / "mask0.png"), grey[0] > rule.above)


def test_index_of_a_coloured_palette_counts_however_dark_its_colour(tmp_path):
    paths = write(tmp_path, *(palette(m, [0, 0, 0, 3, 0, 0]) for m in (TRUE, SMALL)))
    assert check(paths, [TRUE, SMALL]).words == "0 and 1"


def test_grey_of_a_grey_palette_counts(tmp_path):
    black_is_foreground = [255, 255, 255, 0, 0, 0]
    paths = write(tmp_path, *(palette(m, black_is_foreground) for m in (TRUE, SMALL)))
    assert check(paths, [~TRUE, ~SMALL]).words == "0 and 255"


def test_one_colour_on_black_is_the_foreground(tmp_path):
    check(write(tmp_path, coloured(TRUE, (0, 90, 0)), coloured(SMALL, (0, 90, 0))), [TRUE, SMALL])


@pytest.mark.parametrize("grey", [0, 255])
def test_alpha_that_varies_over_constant_colours_is_the_mask(tmp_path, grey):
    none = np.zeros_like(TRUE)
    rule = check(write(tmp_path, *(in_alpha(m, grey) for m in (TRUE, none, SMALL))), [TRUE, none, SMALL])
    assert rule.alpha
    assert rule.words == "in the alpha channel 0 and 255"


def test_opacity_beside_a_mask_in_colours_is_not_the_mask(tmp_path):
    frame = np.ones_like(TRUE)
    frame[:3] = False
    images = [np.dstack([np.where(m, 255, 0)] * 3 + [np.where(frame, 255, 0)]) for m in (TRUE, SMALL)]
    assert not check(
        write(tmp_path, *(Image.fromarray(i.astype(np.uint8)) for i in images)), [TRUE, SMALL]
    ).alpha


def test_masks_partly_in_alpha_and_partly_in_colours_are_refused(tmp_path):
    paths = write(tmp_path, in_alpha(TRUE), in_alpha(SMALL), levels(TRUE, 255))
    with pytest.raises(UserError, match=r"2 masks of /set are in the alpha channel, 1 in the colours; save"):
        rule_of(paths)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_mask_is_turned_as_its_orientation_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (path,) = write(tmp_path, levels(TRUE, 255), exif=exif)
    turned = [
        TRUE, TRUE[:, ::-1], TRUE[::-1, ::-1], TRUE[::-1], TRUE.T, np.rot90(TRUE, -1), TRUE[::-1, ::-1].T,
        np.rot90(TRUE),
    ][orientation - 1]  # fmt: skip
    check([path], [turned])


def ids(*values: int) -> Image.Image:
    mask = np.zeros((24, 32), np.uint8)
    for row, value in enumerate(values):
        mask[4 * row : 4 * row + 4, 4:20] = value
    return Image.fromarray(mask)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            [ids(1, 2, 3)],
            r"0 \(75\.0%\), 1 \(8\.3%\), 2 \(8\.3%\), 3 \(8\.3%\)\. Are these class ids or object",
        ),
        ([ids(1), ids(2), ids(1)], r"Each has one value, but not the same: 2 files with 1, 1 files with 2\."),
        ([ids(1), ids(255)], r"Each has one value, but not the same: 1 files with 1, 1 files with 255\."),
        ([ids(1, 255)], r"0 \(83\.3%\), 1 \(8\.3%\), 255 \(8\.3%\)\. Are these class ids"),
        ([ids(1, 2, 255)], r"Are these class ids"),
        ([ids(128, 255)], r"Are these class ids"),
        ([ids(50, 100, 150, 200, 250)], r"There are levels between 0 and 250"),
        ([ids(60, 90, 128, 160, 200, 255)], r"There are levels between 0 and 255"),
        ([Image.fromarray(np.where(TRUE, 2, 1).astype(np.uint8))], r"1 \(79\.2%\), 2 \(20\.8%\)\. Are these"),
    ],
)
def test_ambiguous_values_are_refused_with_their_shares_and_the_remedy(tmp_path, images, message):
    with pytest.raises(
        UserError, match=rf"the masks of /set hold .*{message}.*data\.mask_values=nonzero .*\[\d+\]"
    ):
        rule_of(write(tmp_path, *images))


@pytest.mark.parametrize("quality", [75, 95])
def test_jpeg_of_several_levels_is_refused(tmp_path, quality):
    paths = write(tmp_path, ids(0, 90, 255), ids(255, 90), suffix=".jpg", quality=quality)
    with pytest.raises(UserError, match=r"There are levels between 0 and 255|class ids"):
        rule_of(paths)


def test_file_of_0_and_1_among_fringed_ones_is_refused(tmp_path):
    soft = cv2.GaussianBlur(np.where(TRUE, 255, 0).astype(np.uint8), (0, 0), 1.0)
    paths = write(tmp_path, Image.fromarray(soft), levels(SMALL, 1))
    with pytest.raises(UserError, match=r"1 of 2 files have values up to 31\.875 only"):
        rule_of(paths)


def test_several_colours_are_refused_with_their_shares(tmp_path):
    paths = write(tmp_path, coloured(TRUE, (255, 0, 0)), coloured(SMALL, (0, 0, 255)))
    message = r"2 of 2 masks of /set have several colours: #000000 \(85\.0%\), #ff0000 \(10\.4%\), #0000ff"
    with pytest.raises(UserError, match=message):
        rule_of(paths)
    check(paths, [TRUE, SMALL], "nonzero")


def test_option_says_what_is_foreground(tmp_path):
    paths = write(tmp_path, ids(1, 2, 3), ids(3, 0, 1))
    values = [np.asarray(Image.open(path)) for path in paths]
    assert "2 is foreground" in check(paths, [v == 2 for v in values], [2]).words
    check(paths, [(v == 1) | (v == 3) for v in values], (1, 3))
    check(paths, [v == 3 for v in values], 3)
    check(paths, [v == 0 for v in values], [0])
    check(paths, [v > 0 for v in values], "nonzero")
    check(paths, [v > 1.5 for v in values], "half")


def test_listed_value_that_no_mask_has_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"data\.mask_values=\[5\]: no mask of /set has such a value; they hold 0 "
    ):
        rule_of(write(tmp_path, ids(1, 2)), [5])


@pytest.mark.parametrize("option", ["automatic", None, [], [1.5], [True], True, [-1], ["2"], -1])
def test_other_options_are_refused(option):
    with pytest.raises(
        UserError, match=r"data\.mask_values=.* is not valid\..* Allowed: auto, nonzero, half or a"
    ):
        check_option(option)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_unreadable_mask_is_a_user_error(tmp_path, content):
    path = tmp_path / "mask.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read mask .*mask\.png"):
        MaskRule().read(path)


def test_mask_of_several_pages_is_refused_with_their_number(tmp_path):
    path = tmp_path / "mask.tif"
    levels(TRUE, 255).save(path, save_all=True, append_images=[levels(SMALL, 255)] * 2)
    with pytest.raises(UserError, match=r"mask .*mask\.tif.* 3 pages"):
        MaskRule().read(path)


def test_rules_that_read_differently_have_different_keys():
    rules = [
        MaskRule(),
        MaskRule(alpha=True),
        MaskRule(above=127.5),
        MaskRule(listed=(1,)),
        MaskRule(listed=(1, 3)),
    ]
    assert len({rule.key() for rule in rules}) == len(rules)
    assert MaskRule(words="0 and 1").key() == MaskRule(words="0 and 255").key()
