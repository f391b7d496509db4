"""Replayed passes give what full passes give, with less work, and leave nothing behind."""

import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from networks import ALL, Case
from secateur.units import Replay, UnitLayer, discover, masked, state_sha256


class Reused(nn.Module):
    """One module twice, in-place changes between modules, and a module that returns two tensors."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.conv(x)
            return hidden, self.norm(hidden)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.twice = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ELU(inplace=True))
        self.two, self.last = Reused.Two(), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.elu_(self.norm(self.stem(x)))
        hidden = self.twice(hidden)
        hidden = self.twice(hidden) + hidden
        one, other = self.two(hidden)
        hidden = self.last(F.elu_(one) + other).sub_(0.1)
        return self.head(hidden.mean((2, 3)))


class SeenInPlace(nn.Module):
    """Changes in place that somebody else sees: the result of the changing call is not even used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ELU(inplace=True)
        self.branch = nn.Sequential(
            nn.Identity(), nn.ELU(inplace=True), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        )
        self.same, self.last, self.head = nn.Identity(), nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.conv(x.mul_(2)))
        self.act(hidden)
        hidden = hidden + self.branch(hidden)
        self.same(hidden).sub_(0.5)
        return self.head(self.last(hidden).mean((2, 3)))


class Remembering(nn.Module):
    """The end of the network reads what its start has put aside."""

    class Keeper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.seen = nn.BatchNorm2d(3), []

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(self.norm(x))
            return x

    def __init__(self) -> None:
        super().__init__()
        self.keeper, self.last, self.head = Remembering.Keeper(), nn.BatchNorm2d(3), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.keeper(x)
        return self.head(self.last(hidden + self.keeper.seen[-1]).mean((2, 3)))


class Branching(nn.Module):
    """Masks decide how often a module runs."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.norm, self.head = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.early(x))
        if hidden.abs().mean() < 0.8:
            hidden = self.early(hidden + 1)
        return self.head(hidden.mean((2, 3)))


def _case(build: Callable[[], nn.Module]) -> Case:
    return Case(build.__name__, build, (3, 9, 9), {})


ODD = [_case(Reused), _case(SeenInPlace), _case(Remembering), _case(Branching)]
CASES = [*ALL, *(pytest.param(case, id=case.name) for case in ODD)]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Subject:
    """A network with its layers and two batches of different sizes."""

    def __init__(self, case: Case) -> None:
        self.network = case.network(dtype=torch.float32)
        self.batches = [case.batch(1, 3, torch.float32), case.batch(2, 2, torch.float32)]
        self.layers = discover(self.network, case.batch(size=1, dtype=torch.float32)).layers

    def replay(self, **options: int) -> Replay:
        return Replay(self.network, self.layers, self.batches, shift=True, **options)

    @torch.no_grad()
    def full(self, flat: Tensor) -> Tensor:
        with masked(self.network, self.layers, flat, shift=True):
            return torch.cat([self.network(batch.clone()) for batch in self.batches])

    def ones(self) -> Tensor:
        return torch.ones(sum(layer.count for layer in self.layers))

    def change(self, flat: Tensor, position: int, rng: random.Random) -> Tensor:
        """Give a third of the units of one layer other masks."""
        changed, layer = flat.clone(), self.layers[position]
        start = sum(before.count for before in self.layers[:position])
        for index in rng.sample(range(layer.count), -(-layer.count // 3)):
            changed[start + index] = rng.choice([0.0, 0.5, 1.5])
        return changed

    def trace(self) -> list[object]:
        modules = list(self.network.modules())
        return [
            state_sha256(self.network.state_dict()),
            [id(p) for p in self.network.parameters()],
            [(m.training, list(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules],
        ]


def check_walk(subject: Subject, replay: Replay, *, seed: int, steps: int) -> None:
    """Attempt changes all over the network, accept some, and compare each with a full pass."""
    rng, current = random.Random(seed), subject.ones()
    assert_same(replay.outputs, subject.full(current))
    for step in range(steps):
        flat = subject.change(current, rng.randrange(len(subject.layers)), rng)
        expected = subject.full(flat)
        assert_same(replay.attempt(flat), expected)
        if step % 2:
            replay.accept()
            current = flat
            assert_same(replay.outputs, expected)
    assert_same(replay.outputs, subject.full(current))


@pytest.mark.parametrize("case", CASES)
def test_replayed_passes_equal_full_passes(case: Case) -> None:
    subject = Subject(case)
    subject.network.train()
    before, batches = subject.trace(), [batch.clone() for batch in subject.batches]
    replay = subject.replay()
    replay.attempt(subject.change(subject.ones(), 0, random.Random(0)))
    if not isinstance(subject.network, Remembering):
        assert subject.trace() == before
    assert all(map(torch.equal, subject.batches, batches))
    subject.network.eval()
    check_walk(subject, replay, seed=0, steps=4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in ODD])
@pytest.mark.parametrize("memory", [0, 2000, 30_000, 1 << 30])
def test_unusual_networks_are_replayed_right_with_any_memory(case: Case, memory: int, seed: int) -> None:
    subject = Subject(case)
    check_walk(subject, subject.replay(memory=memory), seed=seed, steps=6)


@pytest.mark.parametrize(("build", "saved"), [(Reused, 10 / 14), (SeenInPlace, 4 / 12)])
def test_changes_in_place_only_cost_what_they_touch(build: Callable[[], nn.Module], saved: float) -> None:
    subject = Subject(_case(build))
    replay = subject.replay()
    for seed in range(3):
        flat = subject.change(subject.ones(), len(subject.layers) - 1, random.Random(seed))
        assert_same(replay.attempt(flat), subject.full(flat))
        assert replay.saved == pytest.approx(saved)


@pytest.fixture
def resnet() -> Subject:
    return Subject(Case("resnet18", models.resnet18, (3, 32, 32), {}))


def test_what_comes_before_the_change_does_not_run(resnet: Subject) -> None:
    calls: Counter[str] = Counter()
    replay = resnet.replay()
    for name, module in resnet.network.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
    forward = resnet.network.layer4[1].conv2.forward
    names = [layer.name for layer in resnet.layers]
    flat = resnet.change(resnet.ones(), names.index("layer4.1.bn1"), random.Random(0))
    replay.attempt(flat)
    executed = set(calls)
    assert not any(name.startswith(("layer1.", "layer2.", "layer3.", "layer4.0.")) for name in executed)
    assert {"layer4.1.bn1", "layer4.1.conv2", "fc"} <= executed
    assert replay.saved > 0.8
    assert resnet.network.layer4[1].conv2.forward == forward
    replay.accept()
    calls.clear()
    assert replay.attempt(flat) is replay.outputs
    assert not calls


def test_a_chain_stores_and_runs_only_what_its_next_child_needs() -> None:
    modules: list[nn.Module] = []
    for channels in (3, 8, 8, 8):
        modules += [nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ELU(inplace=True)]
    modules += [nn.Flatten(), nn.Linear(8 * 81, 4)]
    subject = Subject(Case("chain", lambda: nn.Sequential(*modules), (3, 9, 9), {}))
    rng = random.Random(0)
    replay = subject.replay()
    for position in range(4):
        replay.attempt(subject.change(subject.ones(), position, rng))
        # The chain itself, and all that follows the convolution before the changed norm.
        assert replay.saved == pytest.approx((1 + 3 * position) / 15)
    one_output = 5 * 8 * 81 * 4
    for memory, children in ((2 * one_output - 2, 0), (2 * one_output, 1), (8 * one_output, 10)):
        limited = subject.replay(memory=memory)
        limited.attempt(subject.change(subject.ones(), 3, rng))
        assert limited.saved == pytest.approx(children / 15)
        check_walk(subject, limited, seed=1, steps=4)


def test_without_memory_everything_runs(resnet: Subject) -> None:
    replay = resnet.replay(memory=0)
    check_walk(resnet, replay, seed=0, steps=4)
    assert replay.saved == 0


def test_activations_stay_within_the_memory(resnet: Subject) -> None:
    for memory in (100_000, 1_000_000):
        replay = resnet.replay(memory=memory)
        check_walk(resnet, replay, seed=0, steps=2)
        storages = {
            kept.tensor.untyped_storage().data_ptr(): kept.tensor.untyped_storage().nbytes()
            for stored in replay._stored
            for kept in stored.values()
        }
        assert 0 < sum(storages.values()) <= memory / 2


@pytest.mark.parametrize("build", [Remembering, Branching])
def test_networks_that_cannot_be_replayed_run_in_full(build: Callable[[], nn.Module]) -> None:
    subject = Subject(_case(build))
    replay = subject.replay()
    last = len(subject.layers) - 1
    # With one mask at 0 after the other, the branch is taken at some point.
    for value in (1.5, 0.0):
        flat = subject.ones()
        flat[-subject.layers[last].count :] = value
        assert_same(replay.attempt(flat), subject.full(flat))
        replay.accept()
    assert replay.attempt(subject.change(flat, last, random.Random(0))) is not None
    assert replay.saved == 0


class Unstable(nn.Module):
    """A start that never gives the same twice, which no watching of tensors can tell."""

    def __init__(self) -> None:
        super().__init__()
        self.noise, self.norm, self.head = nn.Dropout(), nn.BatchNorm2d(3), nn.Linear(3, 4)
        self.noise.forward = lambda x: x + torch.rand(())  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.noise(x)).mean((2, 3)))


def test_a_replay_that_differs_from_a_full_pass_is_given_up() -> None:
    subject = Subject(_case(Unstable))
    forward = vars(subject.network.noise)["forward"]
    replay = subject.replay()
    replay.attempt(torch.zeros(3))
    assert replay.saved == 0
    assert vars(subject.network.noise)["forward"] is forward


def test_hooks_of_others_act_once(resnet: Subject) -> None:
    resnet.network.layer1.register_forward_hook(lambda _module, _inputs, output: output * 1.5)
    resnet.network.layer2[0].register_forward_hook(lambda _module, _inputs, output: output + 0.5)
    check_walk(resnet, resnet.replay(), seed=3, steps=6)


class StopHereError(RuntimeError):
    pass


@pytest.mark.parametrize("name", ["conv1", "layer4.1.bn2", "fc"])
def test_nothing_remains_after_an_exception(resnet: Subject, name: str) -> None:
    def stop(*_: object) -> None:
        raise StopHereError

    before = resnet.trace()
    replay, rng = resnet.replay(), random.Random(0)
    handle = resnet.network.get_submodule(name).register_forward_pre_hook(stop)
    early = resnet.change(resnet.ones(), 0, rng)
    with pytest.raises(StopHereError):
        replay.attempt(early)
    with pytest.raises(StopHereError):
        resnet.replay()
    handle.remove()
    assert resnet.trace() == before
    with pytest.raises(RuntimeError, match="no attempt"):
        replay.accept()
    check_walk(resnet, replay, seed=0, steps=4)


def test_masks_are_copied_and_compared_exactly(resnet: Subject) -> None:
    replay, flat = resnet.replay(), resnet.ones()
    flat[-1] = 0
    replay.attempt(flat)
    replay.accept()
    flat[-1] = 1
    assert_same(replay.attempt(flat), resnet.full(flat))
    assert not torch.equal(replay.attempt(flat), replay.outputs)


def test_a_replay_works_in_inference_mode(resnet: Subject) -> None:
    with torch.inference_mode():
        resnet.batches = [batch.clone() for batch in resnet.batches]
        replay = resnet.replay()
        replay.attempt(resnet.change(resnet.ones(), len(resnet.layers) - 1, random.Random(0)))
        assert replay.saved > 0.5
        check_walk(resnet, replay, seed=0, steps=4)


def test_wrong_arguments_are_refused(resnet: Subject) -> None:
    network, layers = resnet.network, resnet.layers
    for inputs in ([], [torch.ones(0, 3, 32, 32)]):
        with pytest.raises(ValueError, match="at least one"):
            Replay(network, layers, inputs, shift=True)
    with pytest.raises(ValueError, match="at least 0 bytes"):
        resnet.replay(memory=-1)
    stranger = UnitLayer("a", "norm", 1, layers[0].scale[:1])
    with pytest.raises(ValueError, match="no parameter"):
        Replay(nn.ReLU(), [stranger], resnet.batches, shift=True)
    replay = resnet.replay()
    with pytest.raises(ValueError, match="units"):
        replay.attempt(torch.ones(3))
    replay.attempt(resnet.ones())
    replay.accept()
    with pytest.raises(RuntimeError, match="no attempt"):
        replay.accept()


def test_a_network_without_units_has_one_output() -> None:
    network, batch = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval(), torch.randn(3, 2, 2)
    replay = Replay(network, [], [batch], shift=True)
    assert torch.equal(replay.attempt(torch.ones(0)), network(batch))


def assert_same(actual: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max())
    assert not actual.requires_grad
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6 * scale)
