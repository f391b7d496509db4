"""Training gives the same network whether or not it was interrupted, alone or in company."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tiny
from secateur.attacks import create
from secateur.errors import InputError, MethodError
from secateur.progress import Silent
from secateur.specimens import Training, train
from secateur.specimens.training import Lesson

# A free port each time: tests may run side by side.
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
QUICK = Training(epochs=3, batch_size=40, rate=0.1, crop=0.0, flip=False, precision="float32")


def lesson(attack_name: str | None = None, **settings: Any) -> Lesson:
    data = tiny.images(400, 3)
    images = (data.images * 255).round().byte()
    if attack_name is None:
        return Lesson(images, data.labels, tiny.CLASSES)
    attack = create(attack_name, **settings)
    trigger = attack.trigger(images, data.labels, torch.Generator().manual_seed(0))
    return Lesson(images, data.labels, tiny.CLASSES, attack, trigger)


def fresh() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tiny.Tiny()


class KilledError(Exception):
    pass


class KilledAfter(Silent):
    """Ends the process's work in the middle of an epoch."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def advance(self, **figures: float) -> None:
        self.steps -= 1
        if not self.steps:
            raise KilledError


def test_a_network_learns_and_is_left_in_evaluation_mode() -> None:
    network = fresh()
    train(network, tiny.CONVENTION, lesson(), Training(epochs=8, batch_size=40, crop=0, flip=False), seed=0)
    assert not network.training
    accuracy, _ = tiny.accuracy_and_success(network)
    assert accuracy > 0.8


@pytest.mark.parametrize("steps", [1, 10, 11, 25, 30])
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(steps: int, tmp_path: Path) -> None:
    whole, broken = fresh(), fresh()
    train(whole, tiny.CONVENTION, lesson("wanet"), QUICK, seed=4)
    state = tmp_path / "state.safetensors"
    with pytest.raises(KilledError):
        train(
            broken,
            tiny.CONVENTION,
            lesson("wanet"),
            QUICK,
            seed=4,
            state=state,
            progress=KilledAfter(steps),
        )
    again = fresh()
    train(again, tiny.CONVENTION, lesson("wanet"), QUICK, seed=4, state=state)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_dropout_goes_on_after_a_kill_as_well(tmp_path: Path) -> None:
    def network() -> tiny.Tiny:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return tiny.Tiny(dropout=0.3)

    whole, broken, again = network(), network(), network()
    train(whole, tiny.CONVENTION, lesson(), QUICK, seed=4)
    state = tmp_path / "state.safetensors"
    with pytest.raises(KilledError):
        train(broken, tiny.CONVENTION, lesson(), QUICK, seed=4, state=state, progress=KilledAfter(15))
    before = torch.random.get_rng_state()
    train(again, tiny.CONVENTION, lesson(), QUICK, seed=4, state=state)
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_state_of_another_training_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    train(fresh(), tiny.CONVENTION, lesson(), QUICK, seed=0, state=state)
    with pytest.raises(InputError, match="another training"):
        train(fresh(), tiny.CONVENTION, lesson(), Training(epochs=9), seed=0, state=state)
    state.write_bytes(state.read_bytes()[:500])
    with pytest.raises(InputError, match="remove it"):
        train(fresh(), tiny.CONVENTION, lesson(), QUICK, seed=0, state=state)


def test_augmentation_shifts_and_mirrors_whole_images() -> None:
    from secateur.specimens.training import _Run

    training = Training(epochs=1, crop=0.25, flip=True)
    run = _Run(fresh(), tiny.CONVENTION, lesson(), training, 0, torch.device("cpu"), None)
    image = torch.arange(1.0, 65).view(1, 1, 8, 8)
    seen = set()
    for changed in run._augmented(image.expand(64, -1, -1, -1)):
        padded = torch.nn.functional.pad(image, [2] * 4)
        windows = [
            window
            for source in (padded, padded.flip(3))
            for window in source.unfold(2, 8, 1).unfold(3, 8, 1).reshape(-1, 8, 8)
        ]
        assert any(torch.equal(changed[0], window) for window in windows)
        seen.add(tuple(changed.flatten().tolist()))
    assert len(seen) > 20


def test_the_rate_rises_then_falls_to_nothing() -> None:
    from secateur.specimens.training import _Run

    run = _Run(fresh(), tiny.CONVENTION, lesson(), QUICK, 0, torch.device("cpu"), None)
    rates = [run._rate(step) for step in range(run.steps)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < 0.02


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"rate": float("nan")}, {"warmup": 1}, {"precision": "half"}, {"batch_size": 1}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MethodError):
        Training(**wrong)


@pytest.mark.parametrize("attack", [None, "lira"])
def test_two_processes_train_one_network(attack: str | None, tmp_path: Path) -> None:
    """Under torchrun gradients are averaged: every process ends with the same weights, and trigger."""
    script = tmp_path / "together.py"
    script.write_text(
        f"""
import sys
sys.path[:0] = [{str(Path(__file__).parents[1])!r}, {str(Path(__file__).parents[2])!r}]
import torch
from pathlib import Path
import tiny
from secateur.attacks import create
from secateur.specimens import Training, train
from secateur.specimens.training import Lesson, Share
torch.manual_seed(0)
data = tiny.images(200, 3)
network = tiny.Tiny()
name = {attack!r}
images = (data.images * 255).round().byte()
attack = trigger = None
if name:
    attack = create(name, steps=2)
    trigger = attack.trigger(images, data.labels, torch.Generator().manual_seed(0))
lesson = Lesson(images, data.labels, tiny.CLASSES, attack, trigger)
train(network, tiny.CONVENTION, lesson, Training(epochs=2, batch_size=40), seed=0)
share = Share()
learned = [*network.parameters(), *(trigger.parameters() if name else ())]
torch.save([p.detach() for p in learned], Path({str(tmp_path)!r}) / f"{{share.rank}}.pt")
assert len(share.of(torch.arange(40))) == 20
torch.distributed.destroy_process_group()
"""
    )
    done = subprocess.run(
        [*TORCHRUN, str(script)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
    for one, start in zip(first, fresh().parameters(), strict=False):
        assert not torch.equal(one, start)
