"""Metadata beside the features of the image."""

from __future__ import annotations

import pytest
import torch

from polymask.errors import UserError
from polymask.models.mask_class.heads import ClassificationHead
from polymask.models.mask_class.metadata import MetadataEmbedding
from polymask.models.mask_class.smp import build_smp

STATISTICS = {"age": [50.0, 10.0], "sex": ["female", "male"]}
METADATA = {"age": "number", "sex": "category"}
UNKNOWN = torch.tensor([1.0, 0, 1, 0, 0])


def test_a_category_has_a_vector_of_its_own() -> None:
    embedding = MetadataEmbedding([2, 3], width=4, dropout=0.5).eval()
    features = torch.tensor([[0, 1.5, 0, 0, 1], [1.0, 0, 1, 0, 0]])
    weight, bias = embedding.layer.weight, embedding.layer.bias
    expected = torch.stack([1.5 * weight[:, 1] + weight[:, 4], weight[:, 0] + weight[:, 2]]) + bias
    torch.testing.assert_close(embedding(features, 2), expected.relu())


def test_nothing_known_is_the_same_as_no_metadata() -> None:
    embedding = MetadataEmbedding([2, 3], width=4, dropout=0.5).eval()
    torch.testing.assert_close(embedding(None, 3), embedding(UNKNOWN.expand(3, -1), 3))


def test_in_training_single_columns_are_forgotten() -> None:
    torch.manual_seed(0)
    embedding = MetadataEmbedding([2, 3], width=5, dropout=0.25)
    embedding.layer.weight.data, embedding.layer.bias.data = torch.eye(5), torch.zeros(5)
    seen = embedding(torch.tensor([0, 2.0, 0, 0, 1]).expand(4000, -1), 4000)
    age, sex = seen[:, 0], seen[:, 2]
    assert age.mean().item() == pytest.approx(0.25, abs=0.03)
    assert (age * sex).mean().item() == pytest.approx(0.0625, abs=0.02)  # one by one
    torch.testing.assert_close(seen[:, 1], 2 * (1 - age))  # as a whole: no age beside "not known"


def test_the_head_sees_them_beside_the_image() -> None:
    torch.manual_seed(0)
    head = ClassificationHead(channels=[6], num_classes=3, metadata_sizes=[2, 3], metadata_width=4).eval()
    features = [torch.rand(2, 6, 3, 3)]
    one = head(features, metadata=torch.tensor([[0, 1.0, 0, 1, 0], [0, 1.0, 0, 1, 0]]))
    other = head(features, metadata=torch.tensor([[0, 1.0, 0, 1, 0], [0, -1.0, 0, 0, 1]]))
    torch.testing.assert_close(one[0], other[0])
    assert not torch.allclose(one[1], other[1])
    vector = torch.cat([features[0].mean(dim=(2, 3)), head.metadata(None, 2)], dim=1)
    torch.testing.assert_close(head(features), head.logits(vector))


def test_without_metadata_a_network_is_what_it_was() -> None:
    options = {"model": "unet", "encoder_name": "tu-test_resnet", "encoder_weights": None, "num_masks": 1}
    options |= {"num_classes": 3, "decoder_channels": [32, 16, 16, 8, 8]}
    torch.manual_seed(0)
    plain = build_smp(**options)
    torch.manual_seed(0)
    same = build_smp(**options, metadata={}, metadata_statistics=None, head={"metadata_width": 8})
    assert plain.state_dict().keys() == same.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), same.parameters(), strict=True))
    with_some = build_smp(**options, metadata=METADATA, metadata_statistics=STATISTICS)
    assert (
        with_some.classification_head.logits.in_features == same.classification_head.logits.in_features + 32
    )
    with pytest.raises(
        UserError, match="is an input of the classification head, which a task without classes"
    ):
        build_smp(**(options | {"num_classes": 0}), metadata=METADATA, metadata_statistics=STATISTICS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metadata_width": 0}, "model.head.metadata_width=0"),
        ({"metadata_dropout": 1.0}, "model.head.metadata_dropout=1.0"),
    ],
)
def test_values_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ClassificationHead(channels=[6], num_classes=3, metadata_sizes=[2], **options)
