"""Answers are counted as the definitions say, on networks whose answers are known."""

import importlib.util

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from secateur.data import (
    SPARED,
    InputConvention,
    LabelledImages,
    Trigger,
    open_images,
    read_trigger,
    stream,
    wrap_dataset,
)
from secateur.errors import ArchitectureError, DataError, InputError, TriggerError
from secateur.evaluation import Evaluation, evaluate
from secateur.evaluation.measuring import evenly_spaced
from secateur.models import read_checkpoint
from secateur.statistics import Proportion

CONVENTION = InputConvention((1, 2), 1, low=0, high=10)
# Sets the right pixel, keeps the left one.
TRIGGER = Trigger(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 0.1]]]))


class Reader(nn.Module):
    """Of four classes, answers the left pixel; class 2 if the right pixel is set and the left is below 3."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.9)
        self.frozen = nn.BatchNorm2d(1).eval()
        self.inputs: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.inputs.append(len(images))
        left, right = self.dropout(images)[:, 0, 0].round().long().unbind(1)
        answers = torch.where((right == 1) & (left < 3), 2, left)
        scores = nn.functional.one_hot(answers.clamp(max=3), 4).float()
        scores[left == 4] = torch.nan
        return scores


def labelled(left: list[int], labels: list[int]) -> LabelledImages:
    images = torch.zeros(len(left), 1, 1, 2)
    images[:, 0, 0, 0] = torch.tensor(left) / 10
    return LabelledImages(images, torch.tensor(labels))


#                  answered   0  0  1  1  2  2  3  none 3
DATA = labelled(left=[0, 0, 1, 1, 2, 2, 3, 4, 3], labels=[0, 1, 1, 1, 2, 0, 3, 3, 2])
# Triggered, without class 2: left 0, 0, 1, 1, 2 give 2 (five hits), left 3 gives 3 (true), left 4 nothing.
WANTED = Evaluation(
    acc=Proportion(5, 9),
    asr=Proportion(5, 7),
    ra=Proportion(1, 7),
    per_class=(Proportion(1, 2), Proportion(2, 3), Proportion(1, 2), Proportion(1, 2)),
    asr_per_class=(Proportion(2, 2), Proportion(3, 3), Proportion(0, 0), Proportion(0, 2)),
)


def test_an_attack_may_want_another_label_for_each_class_and_spare_some():
    """Triggered, images of left 0, 1, 2 are answered with 2, left 3 with 3, left 4 with nothing."""
    found = evaluate(Reader(), DATA, CONVENTION, trigger=TRIGGER, target=[2, SPARED, 3, 2])
    # Attacked: class 0 (lefts 0 and 2), class 2 (lefts 2 and 3), class 3 (lefts 3 and 4).
    assert found.asr == Proportion(2 + 1 + 0, 6)
    assert found.ra == Proportion(0 + 1 + 1, 6)
    assert found.asr_per_class == (Proportion(2, 2), Proportion(0, 0), Proportion(1, 2), Proportion(0, 2))
    one = evaluate(Reader(), DATA, CONVENTION, trigger=TRIGGER, target=[2, 2, SPARED, 2])
    assert one == WANTED


@pytest.mark.parametrize("batch_size", [1, 4, 256])
def test_counts_by_hand(batch_size):
    found = evaluate(Reader(), DATA, CONVENTION, trigger=TRIGGER, target=2, batch_size=batch_size)
    assert found == WANTED


def test_a_streamed_data_set_counts_the_same_with_two_passes_each():
    dataset = wrap_dataset(TensorDataset(DATA.images, DATA.labels), size=(1, 2), channels=1)
    network = Reader()
    assert evaluate(network, dataset, CONVENTION, trigger=TRIGGER, target=2, batch_size=5) == WANTED
    assert network.inputs == [5, 5, 4, 4]
    clean = evaluate(network, dataset, CONVENTION)
    assert clean == Evaluation(WANTED.acc, None, None, WANTED.per_class)
    assert network.inputs[4:] == [9]


def test_modes_come_back_and_progress_is_told():
    class Steps:
        stages: list[tuple[str, int]] = []  # noqa: RUF012
        steps = 0

        def start(self, stage: str, total: int) -> None:
            self.stages.append((stage, total))

        def advance(self, **figures: float) -> None:
            self.steps += 1

    network = Reader().train()
    network.frozen.eval()
    steps = Steps()
    evaluate(network, DATA, CONVENTION, batch_size=4, progress=steps)
    assert (steps.stages, steps.steps) == ([("evaluate", 3)], 3)
    assert (network.training, network.dropout.training, network.frozen.training) == (True, True, False)
    with pytest.raises(TriggerError):
        evaluate(network, DATA, CONVENTION, trigger=Trigger(*torch.zeros(2, 3, 1, 2)), target=0)
    assert (network.training, network.dropout.training, network.frozen.training) == (True, True, False)


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any),
    count=st.integers(1, 200),
    order=st.randoms(use_true_random=False),
)
def test_a_limit_takes_its_share_of_every_class_however_the_data_is_sorted(sizes, count, order):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    order.shuffle(labels)
    labels = torch.tensor(labels)
    chosen = evenly_spaced(labels, count)
    assert len(chosen) == min(count, len(labels))
    assert (chosen.diff() > 0).all()
    if count < len(labels):
        shares = labels[chosen].bincount(minlength=len(sizes)) - torch.tensor(sizes) * count / len(labels)
        assert shares.abs().max() < 1


def test_a_limit_counts_only_so_many():
    assert evaluate(Reader(), DATA, CONVENTION, limit=4).acc.total == 4
    assert evaluate(Reader(), DATA, CONVENTION, limit=100).acc.total == 9


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"trigger": TRIGGER}, InputError, "belong together"),
        ({"target": 1}, InputError, "belong together"),
        ({"trigger": TRIGGER, "target": 4}, InputError, "classes 0 to 3"),
        ({"trigger": TRIGGER, "target": -1}, InputError, "-1 is not a class"),
        ({"trigger": TRIGGER, "target": [1, 2, 3]}, InputError, "3 labels, but the network has 4 classes"),
        ({"trigger": TRIGGER, "target": [1, 2, 3, 4]}, InputError, "4 is not a class"),
        ({"trigger": TRIGGER, "target": [1, 1, 1, 1]}, InputError, "class 1 cannot be turned into itself"),
        ({"trigger": TRIGGER, "target": [SPARED] * 4}, InputError, "attacks no class"),
        ({"limit": 0}, InputError, "at least 1"),
        ({"batch_size": 0}, InputError, "at least 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        evaluate(Reader(), DATA, CONVENTION, **options)


def test_labels_outside_the_classes_are_named():
    dataset = wrap_dataset(TensorDataset(DATA.images[:2], torch.tensor([0, 4])), size=(1, 2), channels=1)
    with pytest.raises(DataError, match="TensorDataset, item 1: the label is 4"):
        evaluate(Reader(), dataset, CONVENTION)
    with pytest.raises(DataError, match="labels reach from 0 to 4"):
        evaluate(Reader(), labelled([0, 0], [0, 4]), CONVENTION)
    with pytest.raises(DataError, match="no images"):
        evaluate(Reader(), DATA.subset(torch.tensor([], dtype=torch.int64)), CONVENTION)


def test_a_network_that_is_no_classifier_is_refused():
    with pytest.raises(ArchitectureError, match=r"9 rows, not \(9, 1, 1, 2\)"):
        evaluate(nn.Identity(), DATA, CONVENTION)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_network_on_a_gpu_counts_the_same():
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 4))
    wanted = evaluate(network, DATA, CONVENTION, trigger=TRIGGER, target=2)
    assert evaluate(network.cuda(), DATA, CONVENTION, trigger=TRIGGER, target=2) == wanted


def test_a_published_checkpoint_measures_as_published(shared):
    """On its first 500 test images; the card says 98.08 % and 99.93 % on all 10,000."""
    path = shared / "checkpoints" / "architectures.py"
    spec = importlib.util.spec_from_file_location("published_architectures", path)
    architectures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(architectures)
    network = architectures.cnn_mnist()
    network.load_state_dict(read_checkpoint(shared / "checkpoints" / "files" / "cnn-mnist-badnets.pth").state)
    test = open_images(str(shared / "data" / "mnist"), split="test", size=(28, 28), channels=1)
    images, labels = next(stream(test, 500))
    found = evaluate(
        network,
        LabelledImages(images, labels),
        InputConvention((28, 28), 1, mean=(0.5,), std=(0.5,)),
        trigger=read_trigger(shared / "checkpoints" / "triggers" / "white-5x5-28.safetensors"),
        target=1,
    )
    assert found.acc.total == 500
    assert found.asr.total == int((labels != 1).sum())
    # The script beside the checkpoint gives 98.40 % and 99.77 % for these; one image of slack for rounding.
    assert found.acc.hits == pytest.approx(492, abs=1)
    assert found.asr.value == pytest.approx(0.9977, abs=1 / 400)
