"""Grad-CAM against a computation by hand: hooks and autograd through the whole network."""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from polymask.errors import UserError
from polymask.families.multitask import Family
from polymask.families.multitask.explanations import Explainer
from polymask.models.mask_class.classifier import SegmentationClassifier
from polymask.models.mask_class.heads import ClassificationHead

CLASSES, STRIDE = 3, 8


class Encoder(nn.Module):
    """Levels of 3, 4 and 6 channels at strides 1, 4 and 8."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, kernel_size=4, stride=4)
        self.second = nn.Sequential(nn.Conv2d(4, 6, kernel_size=2, stride=2), nn.ReLU(inplace=True))

    def forward(self, images: Tensor) -> list[Tensor]:
        fine = self.first(images).relu()
        return [images, fine, self.second(fine)]


class Decoder(nn.Module):
    """A mask of the first two channels, as large as the images."""

    def forward(self, features: list[Tensor]) -> Tensor:
        return nn.functional.interpolate(features[1][:, :1] - 0.2, scale_factor=4)


def network(*, masks: bool = False, min_size: int = 1, frozen: bool = False, **head: Any) -> Any:
    torch.manual_seed(0)
    model = SegmentationClassifier(
        encoder=Encoder(),
        decoder=Decoder() if masks else None,
        segmentation_head=nn.Identity() if masks else None,
        classification_head=ClassificationHead(channels=(3, 4, 6), num_classes=CLASSES, **head),
        normalization=([0.5] * 3, [0.25] * 3),
        stride=STRIDE,
        min_size=min_size,
        freeze_backbone=frozen,
    )
    model.start_epoch(0)
    return model.eval()


def images(height: int = 40, width: int = 56) -> Tensor:
    return torch.randn(4, 3, height, width, generator=torch.Generator().manual_seed(1))


def by_hand(model: Any, pixels: Tensor, classes: list[int], **metadata: Tensor) -> np.ndarray:
    """Grad-CAM of the last level: hooks, autograd, and OpenCV to enlarge; the largest value of each is 1."""
    model.encoder.requires_grad_(True)
    kept: list[Tensor] = []
    hook = model.encoder.register_forward_hook(lambda module, inputs, features: kept.append(features[-1]))
    logits = model(pixels, **metadata)["class_logits"]
    hook.remove()
    height, width = pixels.shape[-2:]
    cells = -(-height // STRIDE), -(-width // STRIDE)
    maps = []
    for place, index in enumerate(classes):
        (gradients,) = torch.autograd.grad(logits[place, index], kept[0], retain_graph=True)
        gradient, values = gradients[place].numpy(), kept[0][place].detach().numpy()
        heat = sum(gradient[channel].mean() * values[channel] for channel in range(len(values)))
        heat = np.maximum(heat, 0)[: cells[0], : cells[1]]
        large = cv2.resize(heat, (cells[1] * STRIDE, cells[0] * STRIDE))[:height, :width]
        maps.append(large / large.max())
    return np.stack(maps)


def explained(model: Any, pixels: Tensor, probabilities: Tensor | None = None, **metadata: Tensor) -> Tensor:
    explainer = Explainer()
    with torch.inference_mode(), explainer.watch(model) as kept:
        found = model(pixels, **metadata)["class_logits"].softmax(dim=1)
        return explainer.maps(
            model, kept, found if probabilities is None else probabilities, pixels.shape[-2:]
        )


HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "hidden": {"hidden": [5, 4], "pooling": "gem", "dropout": 0.5},
    "levels": {"levels": [2, 1], "pooling": "avgmax"},
    "attention": {"pooling": "attention", "mask_attention": True, "masks": True, "hidden": [5]},
    "padded": {"min_size": 72, "hidden": [5]},
    "frozen": {"frozen": True, "pooling": "max"},
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("wanted", [None, [2, 1, 0, 1]], ids=["predicted", "given"])
def test_maps_are_those_by_hand(name: str, wanted: list[int] | None) -> None:
    model, pixels = network(**HEADS[name]), images()
    with torch.no_grad():
        logits = model(pixels)["class_logits"]
    classes = logits.argmax(dim=1).tolist() if wanted is None else wanted
    expected = by_hand(model, pixels, classes)
    model.start_epoch(0)  # freezes again
    model.eval()
    chosen = nn.functional.one_hot(torch.tensor(classes), CLASSES).float()
    found = explained(model, pixels, None if wanted is None else chosen)
    assert found.dtype == torch.float32
    has_map = np.isfinite(expected).all(axis=(1, 2))  # in others nothing speaks for the class
    assert has_map.sum() >= 2
    np.testing.assert_allclose(found[has_map], expected[has_map], atol=2e-5)
    assert not found[~has_map].any()
    assert all(value.grad is None for value in model.parameters())
    assert not model.classification_head._forward_pre_hooks


def test_metadata_change_the_gradient_too() -> None:
    model, pixels = network(metadata_sizes=[3], hidden=[6]), images()
    known = torch.eye(3)[[0, 1, 2, 1]]
    with torch.no_grad():
        classes = model(pixels, metadata=known)["class_logits"].argmax(dim=1).tolist()
    expected = by_hand(model, pixels, classes, metadata=known)
    np.testing.assert_allclose(explained(model, pixels, metadata=known), expected, atol=2e-5)


def test_of_an_average_and_one_layer_it_is_the_class_activation_map() -> None:
    """Zhou et al. 2016: the weights of the layer times the channels; here of a whole number of cells."""
    model, pixels = network(), images(32, 48)
    with torch.no_grad():
        channels = model.encoder(pixels)[-1].numpy()
        winner = model(pixels)["class_logits"].argmax(dim=1)
    weights = model.classification_head.logits.weight.detach().numpy()[winner]
    heat = np.maximum(np.einsum("bc,bchw->bhw", weights, channels), 0)
    expected = np.stack([cv2.resize(each, (48, 32)) for each in heat])
    expected /= expected.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(explained(model, pixels), expected, atol=1e-5)


def test_a_network_that_looks_at_brightness_points_at_the_bright_corner() -> None:
    model = network()
    with torch.no_grad():  # every channel is brightness; class 0 is for it, the others against it
        for convolution in (model.encoder.first, model.encoder.second[0]):
            convolution.weight.fill_(0.01)
            convolution.bias.zero_()
        model.classification_head.logits.weight.copy_(torch.tensor([1.0, -1.0, -2.0])[:, None].expand(-1, 6))
        model.classification_head.logits.bias.zero_()
    dark = torch.zeros(1, 3, 64, 64)
    dark[..., :16, 48:] = 5.0
    heat = explained(model, dark)[0]
    assert heat[:16, 48:].sum() > 0.6 * heat.sum()  # the rest is half a cell around
    assert heat[:20, 44:].sum() > 0.95 * heat.sum()
    against = explained(model, dark, torch.tensor([[0.0, 1.0, 0.0]]))
    assert not against.any()


def test_half_precision_of_the_network_is_no_half_precision_of_the_map() -> None:
    model, pixels = network(hidden=[5]), images()
    model = model.to(memory_format=torch.channels_last)
    explainer = Explainer()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), explainer.watch(model) as kept:
        logits = model(pixels)["class_logits"]
        found = explainer.maps(model, kept, logits.float().softmax(dim=1), pixels.shape[-2:])
    assert kept[0]["features"][-1].dtype == torch.bfloat16
    assert found.dtype == torch.float32
    assert found[0].unique().numel() > 300  # of bfloat16 there are 129 between 0.5 and 1
    np.testing.assert_allclose(found, by_hand(model, pixels, logits.argmax(1).tolist()), atol=0.1)


def test_flips_are_undone_and_averaged() -> None:
    model, pixels = network(hidden=[5]), images(36, 52)  # a padding below and on the right
    flips = [(), (-1,), (-2, -1)]
    explainer = Explainer()
    with torch.no_grad(), explainer.watch(model) as kept:
        logits = [model(pixels.flip(axes))["class_logits"] for axes in flips]
    given = torch.eye(CLASSES)[[0, 1, 2, 0]]
    found = explainer.maps(model, kept, given, (36, 52), flips)
    singles = [
        explainer.maps(model, [each], given, (36, 52), [axes]) for each, axes in zip(kept, flips, strict=True)
    ]
    assert not torch.allclose(singles[0], singles[1], atol=0.05)
    for single, axes in zip(singles, flips, strict=True):
        again = explained(model, pixels.flip(axes), given).flip(axes)
        torch.testing.assert_close(single, again)
    assert found.amax(dim=(1, 2)).tolist() == pytest.approx([1] * 4)
    # Each is scaled by its own maximum, the mean only once: it is a weighted mean of the three.
    flat = torch.stack([single[0].flatten() for single in singles], dim=1).double()
    weights = torch.linalg.lstsq(flat, found[0].flatten().double()[:, None]).solution
    torch.testing.assert_close((flat @ weights)[:, 0], found[0].flatten().double(), atol=1e-5, rtol=0)
    assert (weights > 0).all()
    assert len(logits) == 3


def test_the_class_is_the_one_after_calibration() -> None:
    model, pixels = network(), images()[:1]
    probabilities = torch.tensor([[0.5, 0.4, 0.1]])
    explainer = Explainer(np.array([4.0, 0.5, 1.0]))  # 0.5 ** 0.25 = 0.84, 0.4 ** 2 = 0.16, 0.1
    with torch.no_grad(), explainer.watch(model) as kept:
        model(pixels)
        found = explainer.maps(model, kept, probabilities, pixels.shape[-2:])
        other = Explainer(np.array([0.5, 4.0, 1.0])).maps(model, kept, probabilities, pixels.shape[-2:])
    for index, heat in ((0, found), (1, other)):
        np.testing.assert_allclose(heat, by_hand(model, pixels, [index]), atol=2e-5)


def test_a_network_without_a_known_head_is_refused() -> None:
    with pytest.raises(UserError, match=r"explain=true needs a network with .* which Identity has not"):
        Explainer().watch(nn.Identity()).__enter__()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": [], "predict_classes": False}, "explains classes, of which this run predicts none"),
        ({"explain": "ja"}, r"explain='ja' is not valid; give true or false"),
        ({"explain": 1}, r"explain=1 is not valid"),
    ],
)
def test_mistakes_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Family(**({"class_names": ["A", "B"], "explain": True} | options))
    assert "\n" not in str(caught.value)
    segmentation = Family(class_names=[], predict_classes=False)
    with pytest.raises(UserError, match="of which this run predicts none"):
        segmentation.application({"batch_size": 2, "image_size": 32}, {"explain": True})


def test_without_captum_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    for ask in (lambda: Family(class_names=["A"], explain=True), lambda: application({"explain": True})):
        with pytest.raises(UserError, match=r"pip install 'polymask\[explain\]'"):
            ask()
    application({"explain": False})
    Family(class_names=["A"])


def application(chosen: dict[str, Any]) -> Any:
    return Family(class_names=["A"]).application({"batch_size": 2, "image_size": 32}, chosen)
