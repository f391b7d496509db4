"""What every repair keeps to, on networks of many kinds."""

import copy

import pytest
import torch
from torch import nn

from networks import ALL, Case
from secateur.data import CleanData, InputConvention, LabelledImages
from secateur.expose import Forgetting, Inversion, LatentInversion, Outlasting, Search
from secateur.repair import create, methods
from secateur.repair.onp import Agent

QUICK = ("preact", "wrn", "vgg11", "vit", "mobilenet_v3")
METHODS = [(name, preset) for name, entry in methods().items() for preset in entry.presets]


def quick_cases() -> list[object]:
    found: dict[str, object] = {}
    for parameter in ALL:
        name = str(parameter.id)
        for kind in QUICK:
            if kind in name.lower() and kind not in found and not parameter.marks:
                found[kind] = parameter
    return list(found.values())


def clean_for(case: Case) -> CleanData:
    channels, height, width = case.shape
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(24, channels, height, width, generator=generator)
    labels = torch.arange(24) % 3
    convention = InputConvention((height, width), channels)
    return CleanData(
        LabelledImages(pixels[:16], labels[:16]), LabelledImages(pixels[16:], labels[16:]), convention
    )


@pytest.mark.parametrize(("name", "preset"), METHODS)
@pytest.mark.parametrize("case", quick_cases())
def test_a_repair_keeps_its_promises(case: Case, name: str, preset: str) -> None:
    network = case.network().float()
    network.train()
    before = copy.deepcopy(network.state_dict())
    method = create(name, preset)
    if name in ("rnp", "onp", "unlearn-trigger"):
        quick = Inversion(steps=2, batch_size=2)
        outlasting = Outlasting(Forgetting(steps=2, own=2, others=2), quick)
        fast = {
            "unlearning": copy.copy(method.unlearning).__class__(passes=1, accuracy=0.0, batch_size=8),
            "search": method.search
            and Search(quick, quick, LatentInversion(steps=2, batch_size=2), outlasting),
        }
        if name in ("rnp", "onp"):
            fast["recovering"] = method.recovering.__class__(passes=1, batch_size=8)
        if name == "onp":
            fast["agent"] = Agent(hidden=4, evaluations=8, rollout=4, batch_size=4)
        method = create(name, preset, **fast)
    result = method(network, clean_for(case), generator=torch.Generator().manual_seed(0))

    assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in _modules(network, result.network))
    assert result.scores.shape == (result.discovery.total,)
    assert 0 <= result.scores.min() <= result.scores.max() <= 1
    pruned = [point.pruned for point in result.curve]
    assert pruned == sorted(set(pruned))
    assert result.curve[result.chosen].pruned == len(result.recipe.units)
    rebuilt = result.state(network.state_dict())
    assert all(torch.equal(rebuilt[key], value) for key, value in result.network.state_dict().items())
    assert not result.network.training


def _modules(*networks: nn.Module) -> list[nn.Module]:
    return [module for network in networks for module in network.modules()]
