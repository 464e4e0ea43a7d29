from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import torch
from mae_reference import batch, tiny_mae

import polymask
from polymask.errors import UserError
from polymask.models.vit_mae import build_mae
from polymask.models.vit_mae.initialization import position_table

TABLES = ("vit.embeddings.position_embeddings", "decoder.decoder_pos_embed")


@pytest.fixture(scope="module")
def network():
    return tiny_mae().eval()


def masked_loss(patches, target, mask):
    return ((patches - target) ** 2).mean(dim=-1)[mask.bool()].mean()


@pytest.mark.parametrize("norm_pixels", [False, True])
def test_loss_over_masked_patches_is_that_of_transformers(network, norm_pixels):
    from transformers import ViTMAEForPreTraining

    whole = ViTMAEForPreTraining(network.vit.config).eval()
    whole.vit, whole.decoder = network.vit, network.decoder
    whole.config.norm_pix_loss = norm_pixels
    images, noise = batch()
    pixels = network.normalize(images)
    patches, mask = network(pixels, noise)
    target = network.patchify(pixels)
    if norm_pixels:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    theirs = whole(pixels, noise=noise)
    assert torch.equal(mask, theirs.mask)
    assert torch.equal(patches, theirs.logits)
    assert masked_loss(patches, target, mask).item() == pytest.approx(theirs.loss.item(), rel=1e-6)
    assert torch.equal(network.patchify(pixels), whole.patchify(pixels))
    assert torch.equal(network.unpatchify(patches), whole.unpatchify(patches))


def test_a_patch_is_cut_by_row_column_and_channel(network):
    images, _ = batch(2)
    patches = network.patchify(images.permute(0, 3, 1, 2))
    assert patches.shape == (2, network.num_patches, 8 * 8 * 3)
    assert torch.equal(patches[1, 6], images[1, 8:16, 16:24].flatten())  # second row, third column
    assert torch.equal(network.unpatchify(patches), images.permute(0, 3, 1, 2))


def test_pixels_are_normalised_by_the_statistics(network):
    images, _ = batch(1)
    expected = (images.double() / 255 - network.mean.double()) / network.std.double()
    torch.testing.assert_close(network.normalize(images), expected.permute(0, 3, 1, 2).float())
    assert network.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert network.std.tolist() == pytest.approx([0.229, 0.224, 0.225])


def test_the_patches_of_the_largest_noise_are_hidden(network):
    images, noise = batch()
    mask = network(network.normalize(images), noise).mask
    assert mask.sum(dim=1).tolist() == [12, 12, 12]
    assert noise[mask.bool()].view(3, 12).amin(1).gt(noise[~mask.bool()].view(3, 4).amax(1)).all()


def test_hidden_pixels_have_no_influence_and_seen_ones_have(network):
    images, noise = batch(1)
    pixels = network.normalize(images)
    before, mask = network(pixels, noise)
    for hidden in (True, False):
        patches = network.patchify(pixels)
        patches[mask.bool() == hidden] += 1
        after = network(network.unpatchify(patches), noise).patches
        assert torch.equal(before, after) == hidden


def test_equal_noise_gives_an_equal_result_in_batches_of_any_size(network):
    images, noise = batch()
    pixels = network.normalize(images)
    together = network(pixels, noise)
    assert torch.equal(together.patches, network(pixels, noise).patches)
    alone = torch.cat([network(pixels[row : row + 1], noise[row : row + 1]).patches for row in range(3)])
    torch.testing.assert_close(alone, together.patches, rtol=0, atol=1e-5)
    assert not torch.equal(together.patches, network(pixels, noise.flip(0)).patches)


def test_tables_follow_their_formula():
    table = position_table(3, 8)[0].double()
    assert table.shape == (10, 8)
    assert not table[0].any()
    omega = torch.tensor([1.0, 10_000**-0.5]).double()
    y, x = 2, 1
    expected = torch.cat([(x * omega).sin(), (x * omega).cos(), (y * omega).sin(), (y * omega).cos()])
    torch.testing.assert_close(table[1 + 3 * y + x], expected, rtol=0, atol=1e-6)


def test_tables_are_not_zero_and_no_two_places_alike(network):
    for name in TABLES:
        table = network.get_parameter(name)[0]
        distances = torch.cdist(table, table).fill_diagonal_(1)
        assert distances.min() > 1e-2
        assert not network.get_parameter(name).requires_grad


def test_hidden_patches_differ_before_any_training(network):
    images, noise = batch()
    patches, mask = network(network.normalize(images), noise)
    for own, hidden in zip(patches, mask.bool(), strict=True):
        assert own[hidden].std(dim=0).mean() > 1e-2


def test_weights_start_as_the_authors_have_them():
    network = tiny_mae(hidden_size=192, num_heads=3, depth=1)
    assert network.vit.get_parameter("embeddings.cls_token").std().item() == pytest.approx(0.02, rel=0.2)
    projection = network.vit.get_parameter("embeddings.patch_embeddings.projection.weight")
    bounds = [(projection, 192 + 8 * 8 * 3), (network.decoder.decoder_pred.weight, 16 + 8 * 8 * 3)]
    for weight, fans in bounds:  # Xavier: even between the bounds, whose variance is a third of their square
        assert weight.abs().max().item() <= (6 / fans) ** 0.5
        assert weight.std().item() == pytest.approx((2 / fans) ** 0.5, rel=0.05)
    biases = [value for name, value in network.named_parameters() if name.endswith("bias")]
    assert not any(bias.any() for bias in biases)
    assert not torch.equal(tiny_mae(seed=1).decoder.mask_token, tiny_mae(seed=2).decoder.mask_token)
    assert torch.equal(tiny_mae(seed=1).decoder.mask_token, tiny_mae(seed=1).decoder.mask_token)


def test_every_trained_weight_gets_a_gradient(network):
    images, noise = batch()
    patches, mask = network(network.normalize(images), noise)
    (patches * mask[..., None]).square().mean().backward()
    without = {name for name, value in network.named_parameters() if value.grad is None}
    assert without == set(TABLES)
    network.zero_grad()


def test_places_are_learned_from_one_image(network):
    """A few steps on one image bring the loss far below that of the best constant."""
    network = tiny_mae(seed=3, hidden_size=48, depth=2, decoder_hidden_size=48)
    rows = torch.arange(32.0).view(-1, 1).expand(32, 32)
    pixels = torch.stack([rows, rows.T, (rows + rows.T) / 2])[None] / 16 - 1
    target, noise = network.patchify(pixels), torch.rand(60, 1, 16)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for own_noise in noise:
        patches, mask = network(pixels, own_noise)
        loss = masked_loss(patches, target, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3 * target.var().item()


def test_sizes_by_name_and_by_number():
    small = build_mae(
        size="tiny", image_size=32, decoder_hidden_size=16, decoder_depth=1, decoder_num_heads=2
    )
    assert (small.encoder.config.hidden_size, len(small.encoder.state_dict())) == (192, 6 + 16 * 12)
    assert sum(value.numel() for value in small.encoder.parameters()) == pytest.approx(5.5e6, rel=0.02)
    assert tiny_mae(size="small", depth=1).encoder.config.hidden_size == 24


MISTAKES = [
    ({"image_size": 100}, "model.image_size=100 is not valid; model.patch_size=8 must divide it, as it"),
    ({"image_size": 4}, "as it does 8"),
    ({"image_size": [32, 32]}, "model.image_size=[32, 32] is not valid"),
    ({"hidden_size": 26}, "model.hidden_size=26 is not valid; 4 must divide it"),
    ({"hidden_size": 28, "num_heads": 3}, "model.num_heads=3 must divide it"),
    ({"decoder_hidden_size": 18}, "model.decoder_hidden_size=18 is not valid; 4 must divide it"),
    ({"decoder_num_heads": 3}, "model.decoder_num_heads=3 must divide it"),
    ({"depth": 0}, "model.depth=0 is not valid"),
    ({"decoder_depth": 0}, "model.decoder_depth=0 is not valid"),
    ({"mask_ratio": 0}, "model.mask_ratio=0 is not valid"),
    ({"mask_ratio": 1.0}, "model.mask_ratio=1.0 is not valid"),
    ({"mask_ratio": 0.95}, "of 16 patches it leaves 0 to be seen"),
    ({"size": "huge"}, "model.size='huge' is unknown"),
    ({"weights": "no.pth"}, "model.weights=no.pth: there is no such file"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_mistakes_are_one_line(options, message):
    with pytest.raises(UserError) as refused:
        tiny_mae(**options)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_images_of_another_size_are_refused(network):
    images, noise = batch(image_size=40)
    with pytest.raises(UserError, match=r"model\.image_size=32 does not fit images of 40 x 40 pixels"):
        network(network.normalize(images), noise)


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"needs transformers.*pip install 'polymask\[ssl\]'"):
        tiny_mae()


def imported_at_once(node):
    """The packages that a module imports outside of its functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield (child.module or "").partition(".")[0]
        elif not isinstance(child, ast.FunctionDef):
            yield from imported_at_once(child)


def test_transformers_is_imported_nowhere_before_it_is_needed():
    """It takes seconds, and only an extra installs it."""
    trees = {path: ast.parse(path.read_text()) for path in Path(polymask.__file__).parent.rglob("*.py")}
    assert not [path for path, tree in trees.items() if "transformers" in imported_at_once(tree)]
    assert [path for path, tree in trees.items() if "torch" in imported_at_once(tree)]
