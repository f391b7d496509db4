"""What holds of every detector of triggered images, and cases worked out by hand for each of ours."""

import math
import statistics
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import planted
import tiny
from secateur.data import CleanData, InputConvention, LabelledImages
from secateur.errors import MethodError
from secateur.expose import Unlearning, predict
from secateur.expose.samples import Scorer, create, detectors
from secateur.expose.samples.spectral import features_by_label
from secateur.progress import Silent

NAMES = sorted(detectors())
# Fewer steps than a real run takes: the table asks for form, not for success.
QUICK: dict[str, dict[str, Any]] = {
    "distillation": {"steps": 5},
    "strip": {"overlays": 4},
    "unlearned": {"unlearning": Unlearning(passes=3)},
}


class Untouchable:
    """Stands for images that must not be looked at: using it in any way fails."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"clean.choose.{name} was asked for")


CLEAN = CleanData(tiny.images(60, 1), Untouchable(), tiny.CONVENTION)


def answers(network: nn.Module, images: Tensor) -> Tensor:
    return predict(network, images, tiny.CONVENTION).argmax(1)


def mixed() -> Tensor:
    """Clean images, and every fourth stamped."""
    images = tiny.images(96, 5).images
    images[::4] = tiny.stamp(images[::4])
    return images


def prepare(
    name: str,
    network: nn.Module,
    clean: CleanData = CLEAN,
    sample: Iterable[tuple[Tensor, Tensor]] | None = None,
    *,
    seed: int = 0,
    **settings: Any,
) -> Scorer:
    if sample is None:
        images = mixed()
        sample = zip(images.split(32), answers(network, images).split(32), strict=True)
    detector = create(name, **{**QUICK.get(name, {}), **settings})
    generator = torch.Generator().manual_seed(seed)
    return detector(network, clean, iter(sample), generator=generator, progress=Silent())


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_one_finite_number_per_image_without_a_look_at_choose(name: str) -> None:
    network, images = tiny.backdoored(), mixed()
    score = prepare(name, network)
    with torch.no_grad():  # as a caller that only scores may well do
        scores = score(images, answers(network, images))
    assert scores.shape == (len(images),)
    assert scores.dtype == torch.float32
    assert scores.device.type == "cpu"
    assert scores.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_scores_whatever_the_global_state(name: str) -> None:
    network, images = tiny.backdoored(), mixed()
    results = []
    for disturbance in range(2):
        torch.manual_seed(disturbance)
        np.random.seed(disturbance)  # noqa: NPY002  scikit-learn draws from it where it is given no seed
        state = torch.random.get_rng_state()
        results.append(prepare(name, network)(images, answers(network, images)))
        assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(*results)


@pytest.mark.parametrize("name", NAMES)
def test_the_score_of_an_image_depends_on_no_other_in_the_call(name: str) -> None:
    network, images = tiny.backdoored(), mixed()
    labels = answers(network, images)
    score = prepare(name, network)
    together = score(images, labels)
    for size, few in ((1, 8), (7, len(images))):
        batches = zip(images[:few].split(size), labels[:few].split(size), strict=True)
        assert torch.allclose(torch.cat([score(*batch) for batch in batches]), together[:few], atol=1e-4)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    assert torch.allclose(score(images[order], labels[order]), together[order], atol=1e-4)
    assert torch.allclose(score(images, labels), together, atol=1e-4)


def circumstances(network: nn.Module) -> list[object]:
    """Return all of a network that a detector might leave changed, besides its values."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        *(module.training for module in network.modules()),
        *(dict(getattr(module, kind)) for module in network.modules() for kind in hooks),
        *((parameter.requires_grad, parameter.grad) for parameter in network.parameters()),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_as_before_also_after_it_raised(name: str) -> None:
    network, images = tiny.backdoored().train(), mixed()
    network.bn2.eval()
    network.conv1.weight.requires_grad_(False)
    before, values = circumstances(network), {k: v.clone() for k, v in network.state_dict().items()}
    score = prepare(name, network)
    labels = answers(network, images)
    score(images, labels)
    with pytest.raises(RuntimeError):
        score(torch.rand(4, 3, 8, 8), labels[:4])
    assert circumstances(network) == before
    assert all(torch.equal(values[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_labels_with_one_image_or_none_in_the_sample_are_scored(name: str) -> None:
    network, images = tiny.backdoored(), mixed()[:24]
    rare = torch.tensor([0] * 23 + [1])
    scores = prepare(name, network, sample=[(images, rare)])(images[:4], torch.tensor([0, 1, 2, 3]))
    assert scores.isfinite().all()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("strip", {"overlays": 0}),
        ("strip", {"opacity": 1.0}),
        ("scale-up", {"factors": ()}),
        ("scale-up", {"factors": (3.0, 1.0)}),
        ("spectral", {"most": 4}),
        ("clustering", {"dimensions": 0}),
        ("clustering", {"share": 0.6}),
        ("clustering", {"restarts": 0}),
        ("clustering", {"most": 10}),
        ("distillation", {"steps": 0}),
        ("distillation", {"rate": 0.0}),
        ("distillation", {"sparsity": 0.0}),
        ("distillation", {"smoothness": -1.0}),
    ],
)
def test_settings_out_of_range_are_refused(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(MethodError):
        create(name, **wrong)


class Rule(nn.Module):
    """Answers with logits that a function computes from the pixels, ``(N, P)``."""

    def __init__(self, rule: Any) -> None:
        super().__init__()
        self.rule = rule
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.rule(images.flatten(1)) + self.nothing


def pixels(*values: Iterable[float]) -> Tensor:
    """Return images of one row, one for each sequence of pixel values."""
    return torch.tensor([list(image) for image in values])[:, None, None]


def by_hand(images: Tensor, labels: Tensor | None = None) -> CleanData:
    labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
    convention = InputConvention((1, images.shape[3]), 1)
    return CleanData(LabelledImages(images, labels), Untouchable(), convention)


def test_strip_is_the_mean_entropy_of_the_mixed_images() -> None:
    # The second logit is 4 times the pixel: of white, under a quarter of black and of grey, 3 and 3.5.
    network = Rule(lambda p: torch.cat([0 * p, 4 * p], 1))
    clean = by_hand(pixels([0.0], [0.5]))
    score = prepare("strip", network, clean, overlays=9, opacity=0.25)
    entropies = []
    for logit in (3.0, 3.5):
        share = 1 / (1 + math.exp(-logit))
        entropies.append(-share * math.log(share) - (1 - share) * math.log(1 - share))
    expected = -statistics.mean(entropies)
    assert score(pixels([1.0]), torch.zeros(1)).item() == pytest.approx(expected, rel=1e-5)


def test_scale_up_standardises_consistency_by_the_class_of_the_answer() -> None:
    # Class 1 above a brightness of one half, otherwise class 0; class 2 wherever the second pixel shines.
    network = Rule(lambda p: torch.stack([0.5 - p[:, 0], p[:, 0] - 0.5, 10 * p[:, 1]], 1))
    dark = {0.04: 1.0, 0.06: 0.6, 0.12: 0.2, 0.2: 0.0}
    levels = [*dark, *dark, *[0.8] * 6]
    clean = by_hand(pixels(*([level, 0.0] for level in levels)))
    score = prepare("scale-up", network, clean)
    own, everything = [*dark.values()] * 2, [*dark.values()] * 2 + [1.0] * 6
    labels = torch.tensor([2, 2, 2, 2])  # the network's own answers count
    scores = score(pixels([0.06, 0.0], [0.2, 0.0], [0.7, 0.0], [0.04, 0.9]), labels)
    assert scores.tolist() == pytest.approx(
        [
            (0.6 - statistics.mean(own)) / statistics.pstdev(own),
            (0.0 - statistics.mean(own)) / statistics.pstdev(own),
            0.0,  # all clean images of class 1 are consistent
            (1.0 - statistics.mean(everything)) / statistics.pstdev(everything),
        ],
        abs=1e-5,
    )


def test_scale_up_without_any_spread_is_the_difference_from_the_mean() -> None:
    network = Rule(lambda p: torch.cat([0.5 - p, p - 0.5], 1))
    score = prepare("scale-up", network, by_hand(pixels(*[[0.9]] * 6)))
    assert score(pixels([0.9], [0.06]), torch.zeros(2)).tolist() == pytest.approx([0.0, -0.4])


class Last(nn.Module):
    """A network whose features are the pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))


def cloud(count: int, width: int = 12, *, seed: int = 0, spread: float = 0.02) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.4 + spread * torch.randn(count, 1, 1, width, generator=generator)


def test_spectral_is_the_squared_projection_on_the_singular_vector_over_its_mean() -> None:
    first, second = cloud(50), cloud(40, seed=1, spread=0.002)
    first[:6, ..., 3] += 0.3
    second[:6, ..., 7] += 0.03
    images, labels = torch.cat([first, second]), torch.tensor([0] * 50 + [1] * 40)
    score = prepare("spectral", Last(12), by_hand(first), [(images, labels)])
    scores = score(images, labels)
    for label, part in ((0, first), (1, second)):
        features = part.flatten(1).double().numpy()
        centred = features - features.mean(0)
        squared = (centred @ np.linalg.svd(centred)[2][0]) ** 2
        own = scores[labels == label]
        assert own.numpy() == pytest.approx(squared / squared.mean(), rel=1e-3, abs=1e-5)
        assert own[:6].min() > own[6:].max()


def test_spectral_keeps_a_random_part_of_a_sample_in_order_of_labels() -> None:
    images, labels = cloud(400), torch.arange(400) // 100
    convention = InputConvention((1, 12), 1)
    found = []
    for size in (400, 64):
        sample = zip(images.split(size), labels.split(size), strict=True)
        generator = torch.Generator().manual_seed(0)
        found.append(features_by_label(Last(12), convention, sample, 40, generator))
    assert sum(map(len, found[0].values())) == 40
    assert all(len(features) >= 4 for features in found[0].values())
    assert found[0].keys() == found[1].keys() == set(range(4))
    assert all(torch.allclose(found[0][label], found[1][label]) for label in range(4))


def test_clustering_scores_the_place_between_the_clusters() -> None:
    # In one dimension by hand: 12 images at 0, 3 at 1, with a silhouette score of 1.
    images = pixels(*([[0.0, 0.3]] * 12), *([[1.0, 0.3]] * 3))
    labels = torch.zeros(15, dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score = prepare("clustering", Last(2), by_hand(images), [(images, labels)])
    places = pixels([0.0, 0.3], [1.0, 0.3], [0.5, 0.3], [0.25, 0.3], [2.0, 0.3])
    assert score(places, labels[:5]).tolist() == pytest.approx([-1, 1, 0, -0.5, 3], abs=1e-6)
    even = pixels(*([[0.0, 0.3]] * 9), *([[1.0, 0.3]] * 6))
    score = prepare("clustering", Last(2), by_hand(even), [(even, labels)])
    assert score(places, labels[:5]).tolist() == [0] * 5


def test_clustering_finds_the_second_blob_in_a_label_that_has_one() -> None:
    one, two = cloud(200), cloud(200, seed=1)
    two[:30] += 0.2 * torch.eye(12)[:3].sum(0)
    images, labels = torch.cat([one, two]), torch.arange(400) // 200
    score = prepare("clustering", Last(12), by_hand(one), [(images, labels)])
    scores = score(images, labels)
    assert scores[200:230].min() > 0.1
    assert scores[230:].max() < 0
    assert not scores[:200].any()  # halves of one blob


def test_features_that_tell_nothing_score_zero_without_a_warning() -> None:
    few, constant = cloud(10), cloud(1).expand(40, -1, -1, -1)
    images, labels = torch.cat([few, constant]), torch.tensor([0] * 10 + [1] * 40)
    sample = [(images, labels)]
    other = cloud(50, seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clustering = prepare("clustering", Last(12), by_hand(few), sample)
        spectral = prepare("spectral", Last(12), by_hand(few), sample)
        assert not clustering(other, labels).any()
        assert not spectral(other[10:], labels[10:]).any()


def test_distillation_keeps_less_of_an_image_whose_trigger_silences_the_rest() -> None:
    network = planted.Planted()
    with torch.no_grad():
        network.hidden.weight[: planted.CLASSES, planted.SIZE - 1] = -20.0
    clean = CleanData(planted.CLEAN.learn, Untouchable(), planted.CONVENTION)
    rows = planted.rows(40, 5)
    stamped = planted.corner().trigger.stamp(rows.images[rows.labels != planted.TARGET])
    score = prepare("distillation", network, clean, [], steps=100, sparsity=0.05)
    ordinary, triggered = score(rows.images, rows.labels), score(stamped, torch.zeros(len(stamped)))
    assert separation(ordinary, triggered) > 0.95
    assert ordinary.max() <= 0
    assert triggered.min() >= -1


def separation(ordinary: Tensor, triggered: Tensor) -> float:
    truth = [0] * len(ordinary) + [1] * len(triggered)
    return float(roc_auc_score(truth, torch.cat([ordinary, triggered])))
