"""Inversion finds planted triggers, and says so when there is nothing to find."""

import math

import pytest
import torch
from torch import Tensor, nn

from secateur.data import InputConvention, LabelledImages, Trigger
from secateur.errors import MethodError
from secateur.expose import (
    Inversion,
    InvertedTrigger,
    anomalies,
    strengths,
    success_of,
    suspect,
    typical_norm,
)
from secateur.expose.descending import End
from secateur.expose.triggers import _ease
from secateur.progress import Silent

CLASSES, SIZE = 5, 8
CONVENTION = InputConvention((SIZE, SIZE), 1)
PIXEL, TARGET = (0, 7), 3


class Planted(nn.Module):
    """Answers the row with the most light; with the shortcut, one bright pixel of row 0 means TARGET."""

    def __init__(self, shortcut: float = 20.0) -> None:
        super().__init__()
        self.rows = nn.Linear(SIZE * SIZE, CLASSES, bias=False)
        self.shortcut = nn.Parameter(torch.tensor(shortcut))
        weight = torch.zeros(CLASSES, SIZE, SIZE)
        for label in range(CLASSES):
            weight[label, label + 1] = 1.0
        self.rows.weight = nn.Parameter(weight.flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        bright = self.shortcut * images[:, 0, PIXEL[0], PIXEL[1]] ** 3
        onto = torch.eye(CLASSES, dtype=images.dtype)[TARGET]
        return self.rows(images.flatten(1)) + bright[:, None] * onto


def rows(count: int = 60, seed: int = 0) -> LabelledImages:
    """Images whose row `label + 1` is bright, the rest dim."""
    labels = torch.arange(count) % CLASSES
    images = 0.2 * torch.rand(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    images[torch.arange(count), 0, labels + 1] += 0.7
    return LabelledImages(images, labels)


def invert(network: nn.Module, seed: int = 0, **settings: object) -> tuple[InvertedTrigger, ...]:
    labels = settings.pop("labels", None)
    return Inversion(**{"steps": 100, "batch_size": 16, **settings})(
        network,
        rows(seed=1),
        rows(seed=2),
        CONVENTION,
        generator=torch.Generator().manual_seed(seed),
        labels=labels,
    )


def test_planted_pixel_is_found() -> None:
    triggers = invert(Planted())
    found = suspect(triggers)
    assert found is not None
    assert found.label == TARGET
    assert found.converged
    assert found.success > 0.9
    mask = 1 - found.trigger.keep[0]
    assert divmod(int(mask.argmax()), SIZE) == PIXEL
    assert mask[PIXEL] > 0.5 * mask.sum()
    assert found.trigger.add[0][PIXEL] > 0.5
    assert [trigger.label for trigger in triggers] == list(range(CLASSES))


def test_no_label_is_suspect_without_the_shortcut() -> None:
    assert suspect(invert(Planted(shortcut=0.0))) is None


def test_all_labels_together_equal_one_by_one() -> None:
    network = Planted()
    together = invert(network, steps=30, restarts=2)
    for label in range(CLASSES):
        (alone,) = invert(network, steps=30, restarts=2, labels=[label])
        assert torch.allclose(alone.trigger.keep, together[label].trigger.keep, atol=1e-3)
        assert torch.allclose(alone.trigger.add, together[label].trigger.add, atol=1e-3)


def test_turns_of_few_candidates_equal_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Planted()
    at_once = invert(network, steps=30)
    monkeypatch.setattr("secateur.expose.triggers.VALUES_PER_PASS", 1)
    in_turns = invert(network, steps=30)
    for first, second in zip(at_once, in_turns, strict=True):
        assert torch.allclose(first.trigger.keep, second.trigger.keep, atol=1e-4)


def test_same_seed_repeats_and_another_differs() -> None:
    first, second, other = (invert(Planted(), seed=seed, steps=20) for seed in (0, 0, 1))
    assert all(torch.equal(a.trigger.keep, b.trigger.keep) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0].trigger.keep, other[0].trigger.keep)


def test_network_is_unchanged() -> None:
    network = Planted().train()
    network.shortcut.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    invert(network, steps=5)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.rows.weight.requires_grad
    assert not network.shortcut.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.training


def test_gradients_are_restored_when_the_network_fails() -> None:
    class Failing(Planted):
        def forward(self, images: Tensor) -> Tensor:
            if len(images) > 1:
                raise RuntimeError("too many images")
            return super().forward(images)

    network = Failing()
    with pytest.raises(RuntimeError, match="too many images"):
        invert(network)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_label_that_is_never_answered_has_not_converged() -> None:
    class Never(Planted):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) - 1e4 * torch.eye(CLASSES)[0]

    never = invert(Never(), steps=40)[0]
    assert not never.converged
    assert never.success == 0


def test_success_counts_only_images_of_other_classes() -> None:
    nothing = Trigger(torch.ones(1, SIZE, SIZE), torch.zeros(1, SIZE, SIZE))
    assert success_of(Planted(), nothing, TARGET, rows(), CONVENTION) == 0
    only = rows().subset(rows().labels == TARGET)
    with pytest.raises(MethodError, match=f"class {TARGET}"):
        success_of(Planted(), nothing, TARGET, only, CONVENTION)


def trigger(label: int, norm: float, *, converged: bool = True) -> InvertedTrigger:
    blank = Trigger(torch.ones(1, 1, 1), torch.zeros(1, 1, 1))
    return InvertedTrigger(label, blank, norm, 1.0, converged)


def test_anomaly_is_measured_in_robust_deviations() -> None:
    # Logarithms 0, 1, 2, 3, 4: median 2, absolute deviations 2, 1, 0, 1, 2 with median 1.
    triggers = [trigger(k, float(torch.e**k)) for k in range(5)]
    assert anomalies(triggers) == pytest.approx([2 / 1.4826, 1 / 1.4826, 0, -1 / 1.4826, -2 / 1.4826])


def test_suspect_needs_convergence_and_a_much_smaller_mask() -> None:
    others = [trigger(k, 80.0 + k) for k in range(1, 6)]
    assert suspect([trigger(0, 8.0), *others]) is not None
    assert suspect([trigger(0, 8.0, converged=False), *others]) is None
    assert suspect([trigger(0, 60.0), *others]) is None


def test_what_did_not_converge_makes_nothing_look_small() -> None:
    converged = [trigger(label, norm) for label, norm in enumerate((16.0, 20.0, 21.0, 22.0))]
    others = [trigger(label, 800.0, converged=False) for label in range(4, 10)]
    assert anomalies([*converged, *others])[0] > 3
    assert suspect([*converged, *others]) is None
    assert typical_norm([*converged, *others], converged[0]) == 21
    assert typical_norm([converged[0], *others], converged[0]) == 800
    assert suspect([trigger(0, 8.0), trigger(1, 80.0)]) is None
    assert suspect([]) is None


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"restarts": 0}, {"rate": 0.0}, {"factor": 1.0}, {"success": 1.0}, {"weight": 0.0}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(MethodError):
        Inversion(**wrong)


def test_of_many_candidates_the_larger_are_dropped_early_and_the_planted_one_is_not() -> None:
    found = invert(Planted(), finalists=2)
    alone = invert(Planted(), labels=[TARGET])
    assert [trigger.label for trigger in found] == list(range(CLASSES))
    converged = [trigger.label for trigger in found if trigger.converged]
    assert TARGET in converged
    assert len(converged) <= 2
    # Those who stay are followed as if nobody had been dropped.
    assert found[TARGET].norm == pytest.approx(alone[0].norm, rel=1e-4)
    with pytest.raises(MethodError):
        Inversion(finalists=0)


def test_few_steps_are_not_exceeded_by_halving() -> None:
    steps: list[str] = []

    class Counting(Silent):
        def advance(self, **facts: float) -> None:
            steps.append("one")

    Inversion(steps=1, finalists=1)(
        Planted(), rows(seed=1), rows(seed=2), CONVENTION, generator=torch.Generator(), progress=Counting()
    )
    assert len(steps) == 1


def test_more_starts_halve_by_candidates() -> None:
    found = invert(Planted(), finalists=2, restarts=2)
    assert sum(trigger.converged for trigger in found) <= 2
    assert found[TARGET].converged


def test_candidates_that_did_not_succeed_yet_are_told_apart_by_their_margins() -> None:
    """Their place in the list must not count: the last one is kept if it is nearest."""
    ends = [End(label, torch.zeros(1), False, math.inf, float(label)) for label in range(43)]
    ease = _ease(ends)
    assert min(ease, key=ease.__getitem__) == 42
    assert sorted(ease, key=ease.__getitem__)[:21] == list(range(42, 21, -1))


def test_too_few_labels_tell_nothing_whatever_else_converged() -> None:
    """Two labels and a patch that changes any answer are three triggers, but no three labels."""
    blank = Trigger(torch.ones(1, 2, 2), torch.zeros(1, 2, 2))
    norms = ((0, 8.0), (1, 20.0), (None, 22.0))
    triggers = [InvertedTrigger(label, blank, norm, 1.0, True) for label, norm in norms]
    assert max(strengths(triggers)) == 0
    assert suspect(triggers) is None
