"""A mismatch says what differs and what would fit."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur.errors import ArchitectureError
from secateur.models.architecture import build
from secateur.models.checkpoint import Checkpoint
from secateur.models.matching import compare, fitting_architectures, load_weights


def checkpoint(state: dict[str, Tensor]) -> Checkpoint:
    return Checkpoint(state, "state_dict", Path("model.pth"), "0" * 64)


def test_fit_lists_each_kind_of_difference() -> None:
    fit = compare(
        {"a": (2,), "b": (3, 3), "bn.num_batches_tracked": ()}, {"b": torch.ones(3), "c": torch.ones(1)}
    )
    assert (fit.missing, fit.unexpected, fit.reshaped) == (("a",), ("c",), ("b 3 instead of 3x3",))
    assert fit.share == 0
    assert compare({"a": (2,)}, {"a": torch.ones(2)}).share == 1


def test_weights_are_copied_without_batch_counters() -> None:
    network = nn.BatchNorm2d(2)
    state = {name: torch.rand(2) for name in ("weight", "bias", "running_mean", "running_var")}
    load_weights(network, checkpoint(state), "mine")
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in state.items())


def test_own_networks_are_recognised_whatever_their_classes() -> None:
    state = build("secateur:wrn16_2", num_classes=43, channels=1).state_dict()
    assert fitting_architectures(state)[0] == ["secateur:wrn16_2"]


def test_mismatch_names_the_architectures_that_fit() -> None:
    state = build("torchvision:mobilenet_v3_small", num_classes=5).state_dict()
    with pytest.raises(ArchitectureError) as caught:
        load_weights(build("secateur:resnet20"), checkpoint(state), "secateur:resnet20")
    message = str(caught.value)
    assert message.startswith("model.pth: the weights do not fit secateur:resnet20")
    assert "missing from the file: conv1.weight, bn1.weight" in message
    assert "these would fit: torchvision:mobilenet_v3_small" in message


def test_mismatch_names_the_closest_network() -> None:
    state = build("secateur:resnet20").state_dict()
    del state["layer1.0.bn1.weight"]
    # 19 convolutions, 19 norms of five tensors, a linear layer of two, less the one that is gone.
    with pytest.raises(ArchitectureError, match=r"closest is secateur:resnet20 \(115 tensors agree\)"):
        load_weights(build("secateur:resnet32"), checkpoint(state), "secateur:resnet32")


def test_prefixed_names_lead_to_the_state_key() -> None:
    network = build("secateur:wrn16_1")
    state = {f"model.backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    with pytest.raises(ArchitectureError, match=r"use --state-key state_dict\.model\.backbone"):
        load_weights(network, checkpoint(state), "secateur:wrn16_1")
