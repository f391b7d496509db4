"""Which units a trigger uses: by hand on a small network, and on a trained one by removing them."""

import pytest
import torch
from torch import Tensor, nn

import tiny
from secateur.data import SPARED, InputConvention, LabelledImages, Trigger, example_input
from secateur.evaluation import backdoor_units, overlap, trigger_activated_change
from secateur.statistics import Proportion
from secateur.units import all_units, discover, prune

CONVENTION = InputConvention((1, 2), 1)
WANTED = [tiny.TARGET if label != tiny.TARGET else SPARED for label in range(tiny.CLASSES)]


class TwoChannels(nn.Module):
    """The first channel doubles a pixel, the second triples it; both are read by the head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(2, eps=0)
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([2.0, 3.0]).view(2, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


class Corner:
    """The trigger of the tiny network."""

    def stamp(self, images: Tensor) -> Tensor:
        return tiny.stamp(images)


def test_the_change_by_hand() -> None:
    network = TwoChannels().eval()
    images = LabelledImages(torch.tensor([[0.3, 0.4], [0.0, 0.5]]).view(2, 1, 1, 2), torch.zeros(2).long())
    # The right pixel grows by 0.1 in both images: by 0.2 and 0.3 behind the two channels.
    trigger = Trigger(torch.ones(1, 1, 2), torch.tensor([[[0.0, 0.1]]]))
    layers = discover(network, example_input(CONVENTION)).layers
    assert [layer.name for layer in layers] == ["norm"]
    found = trigger_activated_change(network, layers, images, CONVENTION, trigger, batch_size=1)
    assert found.change.tolist() == pytest.approx([0.2, 0.3], rel=1e-5)
    # Clean norms are 2 * 0.5 and 3 * 0.5 for both images.
    assert found.relative.tolist() == pytest.approx([0.2, 0.2], rel=1e-5)


def test_a_trigger_that_changes_nothing_changes_no_unit() -> None:
    network = tiny.backdoored()
    layers = discover(network, example_input(tiny.CONVENTION)).layers
    nothing = Trigger(torch.ones(1, 8, 8), torch.zeros(1, 8, 8))
    found = trigger_activated_change(network, layers, tiny.images(8, 0), tiny.CONVENTION, nothing)
    assert not found.change.any()
    assert found.change.shape == (sum(layer.count for layer in layers),)


def test_no_hook_stays_after_an_error() -> None:
    network = tiny.backdoored()
    layers = discover(network, example_input(tiny.CONVENTION)).layers
    wrong = LabelledImages(torch.zeros(2, 3, 8, 8), torch.zeros(2).long())
    with pytest.raises(RuntimeError):
        trigger_activated_change(network, layers, wrong, tiny.CONVENTION, Corner())
    assert not any(module._forward_hooks for module in network.modules())


def test_without_the_units_it_uses_the_trigger_fails_and_with_all_but_one_it_works() -> None:
    network = tiny.backdoored()
    layers = discover(network, example_input(tiny.CONVENTION)).layers
    used = backdoor_units(network, layers, tiny.images(200, 7), tiny.CONVENTION, Corner(), WANTED)
    assert used
    units = list(all_units(layers))
    _, success = tiny.accuracy_and_success(prune(network, layers, [units[k] for k in used]))
    assert success < 0.2
    _, success = tiny.accuracy_and_success(prune(network, layers, [units[k] for k in used[:-1]]))
    assert success > 0.08


def test_heads_of_an_attention_are_watched_at_their_projection() -> None:
    import timm

    network = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=3, depth=1, embed_dim=24, num_heads=3
    ).eval()
    convention = InputConvention((32, 32), 3)
    layers = [layer for layer in discover(network, example_input(convention)).layers if layer.kind == "heads"]
    images = LabelledImages(torch.rand(3, 3, 32, 32), torch.zeros(3).long())
    white = Trigger(torch.zeros(3, 32, 32), torch.ones(3, 32, 32))
    found = trigger_activated_change(network, layers, images, convention, white)
    assert len(found.change) == 3
    assert (found.change > 0).all()


def test_precision_and_recall_by_hand() -> None:
    found = overlap([1, 2, 3, 4], [3, 4, 5])
    assert (found.precision, found.recall) == (Proportion(2, 4), Proportion(2, 3))
    nothing = overlap([], [1])
    assert (nothing.precision, nothing.recall) == (Proportion(0, 0), Proportion(0, 1))
