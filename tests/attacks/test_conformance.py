"""What holds of every attack, ours or another package's."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur.attacks import Attack, Goal, Surrogate, attacks, create, read_any_trigger, write_any_trigger
from secateur.data import SPARED, InputConvention

CLASSES = 4
# Fewer steps than a real attack takes: these tests ask for form, not for success.
QUICK: dict[str, dict[str, Any]] = {
    "cl": {"steps": 2},
    "dfst": {"steps": 3},
    "dynamic": {"steps": 10},
    "fc": {"steps": 2, "sources": 8},
    "lf": {"steps": 3},
    "lira": {"steps": 3},
    "ssba": {"steps": 3},
    "trojan": {"steps": 3},
}
NAMES = sorted(attacks())


class Small(nn.Module):
    """A classifier of images of any size and number of channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


def surrogate(channels: int, size: tuple[int, int]) -> Surrogate:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Surrogate(Small(channels), InputConvention(size, channels))


def pictures(count: int, channels: int, size: tuple[int, int], *, whole: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(256, (count, channels, *size), dtype=torch.uint8, generator=generator)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return images if whole else images / 255, labels


def quick(name: str, **goal: Any) -> Attack:
    attack = create(name, **QUICK.get(name, {}))
    return replace(attack, goal=replace(attack.goal, rate=0.2, **goal))


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("channels", "size", "whole"), [(3, (16, 16), True), (1, (9, 14), False), (3, (32, 32), False)]
)
def test_only_the_chosen_images_change_and_their_form_stays(
    name: str, channels: int, size: tuple[int, int], whole: bool
) -> None:
    images, labels = pictures(60, channels, size, whole=whole)
    before, truth = images.clone(), labels.clone()
    attack = quick(name, target=1)
    poisoned = attack.poison(images, labels, seed(), surrogate=surrogate(channels, size), classes=CLASSES)
    assert torch.equal(images, before)
    assert torch.equal(labels, truth)
    assert poisoned.images.shape == images.shape
    assert poisoned.images.dtype == images.dtype
    if not whole:
        assert poisoned.images.min() >= 0
        assert poisoned.images.max() <= 1
    changed = (poisoned.images != images).flatten(1).any(1).nonzero().flatten()
    chosen = torch.cat([poisoned.poisoned, poisoned.covers])
    assert set(changed.tolist()) <= set(chosen.tolist())
    assert len(changed) >= 0.8 * len(chosen) > 0
    relabelled = (poisoned.labels != labels).nonzero().flatten().tolist()
    if attack.goal.clean_label:
        assert not relabelled
        assert (labels[poisoned.poisoned] == 1).all()
    else:
        assert relabelled == poisoned.poisoned.tolist()
        assert (poisoned.labels[poisoned.poisoned] == 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bytes_whatever_the_global_state(name: str) -> None:
    images, labels = pictures(40, 3, (16, 16), whole=True)
    results = []
    for disturbance in range(2):
        torch.manual_seed(disturbance)
        state = torch.random.get_rng_state()
        attack = quick(name)
        results.append(
            attack.poison(images, labels, seed(3), surrogate=surrogate(3, (16, 16)), classes=CLASSES)
        )
        assert torch.equal(torch.random.get_rng_state(), state)
    first, second = results
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.poisoned, second.poisoned)


@pytest.mark.parametrize("name", NAMES)
def test_a_trigger_is_the_same_alone_and_in_a_batch_and_from_its_file(name: str, tmp_path: Path) -> None:
    images, labels = pictures(24, 3, (16, 16), whole=False)
    attack = quick(name)
    trigger = attack.trigger(images, labels, seed(), surrogate=surrogate(3, (16, 16)))
    with torch.no_grad():
        together = trigger.stamp(images)
        assert together.shape == images.shape
        assert together.dtype == torch.float32
        assert together.min() >= 0
        assert together.max() <= 1
        assert not torch.equal(together, images)
        alone = torch.cat([trigger.stamp(image.unsqueeze(0)) for image in images])
        assert torch.allclose(together, alone, atol=1e-4)
        write_any_trigger(tmp_path / "t.safetensors", name, attack, trigger, (3, 16, 16))
        again = read_any_trigger(tmp_path / "t.safetensors").stamp(images)
    assert torch.allclose(together, again, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_control_trains_no_weight_of_the_network_and_leaves_its_statistics(name: str) -> None:
    images, labels = pictures(16, 3, (16, 16), whole=False)
    attack = quick(name)
    trigger = attack.trigger(images, labels, seed(), surrogate=surrogate(3, (16, 16)))
    network = surrogate(3, (16, 16)).network.train()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    control = attack.control(trigger, network, InputConvention((16, 16), 3), CLASSES)
    for _ in range(2):
        control.before(images, labels)
        control.after()
    assert network.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[key]), key
    for part in control.parts().values():
        assert part.state_dict() is not None


@pytest.mark.parametrize("name", [name for name in NAMES if create(name).needs_surrogate])
def test_a_missing_surrogate_is_named(name: str) -> None:
    from secateur.errors import MethodError

    images, labels = pictures(8, 3, (16, 16), whole=False)
    with pytest.raises(MethodError, match="clean network"):
        create(name).poison(images, labels, seed())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    labels=st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=80),
    rate=st.floats(0.01, 0.6),
    cover_rate=st.floats(0, 0.4),
    goal=st.sampled_from(
        [
            {},
            {"mapping": "all-to-all"},
            {"mapping": "source-specific", "sources": (1, 3)},
            {"clean_label": True},
        ]
    ),
)
def test_a_goal_chooses_only_what_it_may(
    labels: list[int], rate: float, cover_rate: float, goal: dict[str, Any]
) -> None:
    aim = Goal(target=2, rate=rate, cover_rate=cover_rate, **goal)
    truth = torch.tensor(labels)
    poisoned, covers = aim.choose(truth, CLASSES, seed())
    assert not set(poisoned.tolist()) & set(covers.tolist())
    wanted = aim.wanted(CLASSES)
    attacked = wanted[truth] != SPARED
    eligible = int((truth == 2).sum() if aim.clean_label else attacked.sum())
    # Chance decides about a fraction of an image.
    assert len(poisoned) in {min(eligible, whole(rate * len(labels))) for whole in (math.floor, math.ceil)}
    assert len(covers) <= math.ceil(cover_rate * len(labels))
    if aim.clean_label:
        assert (truth[poisoned] == 2).all()
    else:
        assert (wanted[truth[poisoned]] != SPARED).all()
    if aim.mapping == "source-specific":
        assert not set(truth[covers].tolist()) & {1, 2, 3}


def test_small_batches_are_poisoned_at_the_rate_in_the_long_run() -> None:
    aim, source = Goal(target=2, rate=0.003), seed()
    labels = torch.arange(128) % 2
    counts = [len(aim.choose(labels, CLASSES, source)[0]) for _ in range(1000)]
    assert sum(counts) == pytest.approx(384, abs=60)
    assert set(counts) == {0, 1}


def test_goals_by_hand() -> None:
    assert Goal(target=1).wanted(4).tolist() == [1, SPARED, 1, 1]
    assert Goal(mapping="all-to-all").wanted(3).tolist() == [1, 2, 0]
    assert Goal(target=0, mapping="source-specific", sources=(2,)).wanted(4).tolist() == [
        SPARED,
        SPARED,
        0,
        SPARED,
    ]
