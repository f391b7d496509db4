"""Unlearning forgets, repeats, leaves no trace outside, and reveals the label that was planted."""

import pytest
import torch
from torch import nn

from secateur.data import InputConvention, LabelledImages
from secateur.errors import MethodError
from secateur.expose import Exposure, Unlearning, batch_statistics, even_batches
from tiny import CONVENTION, TARGET, backdoored, images

GENTLE = Unlearning(stride=0.002, passes=60, milestones=(), weight_decay=0.0, batch_size=40, dropout=False)


def run(unlearning: Unlearning, seed: int = 0, dropout: float = 0.0) -> Exposure:
    generator = torch.Generator().manual_seed(seed)
    return unlearning(backdoored(dropout), images(160, 1), CONVENTION, generator=generator)


def test_the_clean_task_is_forgotten_and_the_planted_label_is_what_remains() -> None:
    exposure = run(GENTLE)
    assert exposure.reached
    assert exposure.accuracies[-1] <= 0.25
    assert exposure.label == TARGET
    assert sum(exposure.answers) == sum(exposure.labels) == 160


def test_too_few_passes_give_the_last_state_and_say_so() -> None:
    exposure = run(Unlearning(stride=1e-6, passes=2, batch_size=40))
    assert not exposure.reached
    assert len(exposure.accuracies) == 2
    assert exposure.accuracies[-1] > 0.9
    assert set(exposure.state) == set(backdoored().state_dict())


def test_a_seed_repeats_bit_for_bit_even_with_dropout_and_leaves_the_global_generator_alone() -> None:
    unlearning = Unlearning(passes=2, batch_size=40, accuracy=0.0, stride=0.002)
    before = torch.get_rng_state()
    first, again, other = (run(unlearning, seed, dropout=0.3).state for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


class Weight(nn.Module):
    """Logits (w x, 0): one weight, whose gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = self.w * x.flatten(1)[:, :1]
        return torch.cat([score, torch.zeros_like(score)], 1)


def test_a_step_climbs_the_loss_and_is_no_longer_than_the_stride() -> None:
    data = LabelledImages(torch.ones(2, 1, 1, 1), torch.zeros(2, dtype=torch.int64))
    convention = InputConvention((1, 1), 1)

    def step(**settings: object) -> float:
        network = Weight()
        unlearning = Unlearning(accuracy=0.0, passes=1, momentum=0.0, weight_decay=0.0, rate=0.5, **settings)  # type: ignore[arg-type]
        unlearning(network, data, convention, generator=torch.Generator())
        return network.w.item()

    probability = torch.sigmoid(torch.tensor(2.0)).item()
    assert step() == pytest.approx(2 - 0.5 * (1 - probability), abs=1e-6)
    assert step(stride=0.001) == pytest.approx(2 - 0.001 * 2, abs=1e-6)


def test_the_label_is_the_one_answered_most() -> None:
    answers = (1, 8, 1)
    exposure = Exposure({}, True, (0.1,), (answers,), answers, 1.0, answers)
    assert (exposure.label, exposure.share) == (1, pytest.approx(0.8))


def test_no_batch_holds_a_single_image_and_every_image_comes_once() -> None:
    data = images(129, 0)
    sizes = []
    seen = []
    for batch, labels in even_batches(data, 128, torch.Generator().manual_seed(0)):
        sizes.append(len(labels))
        seen += batch.sum((1, 2, 3)).tolist()
    assert sorted(sizes) == [64, 65]
    assert sorted(seen) == pytest.approx(sorted(data.images.sum((1, 2, 3)).tolist()))


def test_modes_return_after_an_exception() -> None:
    network = backdoored(0.5)
    network.bn2.train()

    def fail() -> None:
        with batch_statistics(network, dropout=True):
            assert network.dropout.training
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [m.training for m in (network.bn1, network.bn2, network.dropout)] == [False, True, False]


@pytest.mark.parametrize(
    "settings",
    [{"accuracy": 1.0}, {"rate": 0.0}, {"momentum": 1.0}, {"passes": 0}, {"batch_size": 1}, {"stride": 0.0}],
)
def test_hyperparameters_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(MethodError):
        Unlearning(**settings)  # type: ignore[arg-type]
