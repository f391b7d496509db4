"""A loaded network runs, under the convention of its architecture unless the user says otherwise."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from secateur.errors import ArchitectureError, CheckpointError, ConventionError
from secateur.models.architecture import build
from secateur.models.loading import IMAGENET_MEAN, IMAGENET_STD, LoadedModel, load_model

FILE = """
import torch
from torch import nn

def grey():
    return nn.Sequential(nn.Conv2d(1, 2, 5), nn.Flatten(), nn.Linear(2 * 24 * 24, 10))

def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

def odd():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 40 * 50, 10))

def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))

class deaf(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)
    def forward(self, x):
        raise ValueError("no ears")

class Several(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)
    def forward(self, x):
        return super().forward(x.mean((2, 3))), x

def dense():
    return nn.Conv2d(3, 2, 1)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(FILE)
    return path


def load(folder: Path, architecture: str, num_classes: int = 10, **options: Any) -> LoadedModel:
    """Write random weights of an architecture and load them back."""
    path = folder / "model.safetensors"
    save_file(build(architecture, num_classes=num_classes).state_dict(), path)
    return load_model(path, architecture, **options)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("{file}:wide", "the network gives 10 classes, not 7: leave out --classes"),
        (
            "secateur:resnet20",
            "it would fit with the sizes in the weights: leave out --classes and --channels",
        ),
    ],
)
def test_classes_that_do_not_fit_are_named(
    architecture: str, message: str, file: Path, tmp_path: Path
) -> None:
    architecture = architecture.format(file=file)
    load(tmp_path, architecture)
    with pytest.raises(ArchitectureError, match=message):
        load_model(tmp_path / "model.safetensors", architecture, num_classes=7)


def test_what_fails_at_every_size_in_the_same_way_is_said_once(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError) as raised:
        load(tmp_path, f"{file}:deaf")
    assert str(raised.value).count("no ears") == 1
    assert "3x32x32, 3x28x28, 3x64x64, 3x224x224, 1x32x32" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "size", "channels", "classes"),
    [("wrn16_1", (32, 32), 3, 10), ("cnn_mnist", (28, 28), 1, 10), ("smallvgg_gtsrb", (32, 32), 3, 43)],
)
def test_published_checkpoints_load(
    shared: Path, name: str, size: tuple[int, int], channels: int, classes: int
) -> None:
    files = {"wrn16_1": "wrn16-1-badnets-centre.pth.tar", "cnn_mnist": "cnn-mnist-badnets.pth"}
    folder = shared / "checkpoints"
    model = load_model(
        folder / "files" / files.get(name, "smallvgg-gtsrb-l2.pth"), f"{folder}/architectures.py:{name}"
    )
    assert (model.convention.size, model.convention.channels, model.num_classes) == (size, channels, classes)
    assert not model.network.training
    assert all(
        torch.equal(tensor, model.checkpoint.state[key]) for key, tensor in model.network.state_dict().items()
    )


@pytest.mark.parametrize(
    ("architecture", "size", "mean"),
    [
        ("secateur:resnet20", (32, 32), (0, 0, 0)),
        ("timm:mobilenetv3_small_050", (224, 224), IMAGENET_MEAN),
        ("torchvision:mobilenet_v3_small", (224, 224), IMAGENET_MEAN),
    ],
)
def test_convention_and_classes_come_from_architecture_and_weights(
    tmp_path: Path, architecture: str, size: tuple[int, int], mean: tuple[float, ...]
) -> None:
    model = load(tmp_path, architecture, num_classes=13)
    assert (model.convention.size, model.convention.mean) == (size, mean)
    assert model.num_classes == 13


def test_explicit_values_win(tmp_path: Path) -> None:
    model = load(
        tmp_path,
        "torchvision:mobilenet_v3_small",
        size=(48, 40),
        mean=[0.5],
        std=[0.1, 0.2, 0.3],
        pixel_range=(0, 255),
    )
    convention = model.convention
    assert (convention.size, convention.mean, convention.std) == ((48, 40), (0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
    assert (convention.low, convention.high) == (0, 255)


def test_half_precision_weights_run_in_float32(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(build("secateur:resnet20").half().state_dict(), path)
    model = load_model(path, "secateur:resnet20")
    assert model.network.conv1.weight.dtype == torch.float32
    assert model.checkpoint.state["conv1.weight"].dtype == torch.float16


def test_grey_weights_are_recognised_and_normalised_by_one_value(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(build("timm:mobilenetv3_small_050", num_classes=3, channels=1).state_dict(), path)
    convention = load_model(path, "timm:mobilenetv3_small_050").convention
    assert convention.channels == 1
    assert convention.std == (pytest.approx(sum(IMAGENET_STD) / 3),)


def test_transformers_are_built_at_the_given_size(tmp_path: Path) -> None:
    import timm

    network = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=4, depth=12)
    path = tmp_path / "model.safetensors"
    save_file(network.state_dict(), path)
    model = load_model(path, "timm:vit_tiny_patch16_224", size=(32, 32))
    assert (model.convention.size, model.num_classes) == ((32, 32), 4)


@pytest.mark.parametrize(("factory", "shape"), [("grey", (1, 28, 28)), ("perceptron", (1, 28, 28))])
def test_unknown_inputs_are_found_by_trying(file: Path, factory: str, shape: tuple[int, ...]) -> None:
    convention = load(file.parent, f"{file}:{factory}").convention
    assert (convention.channels, *convention.size) == shape


@pytest.mark.parametrize(
    ("factory", "error", "message"),
    [
        ("odd", ArchitectureError, r"none of the input sizes tried: 3x32x32 .*--size"),
        ("Several", ArchitectureError, "returns a tuple, not one tensor of class scores"),
        ("dense", ArchitectureError, r"returns shape \(1, 2, 32, 32\)"),
    ],
)
def test_networks_that_give_no_class_scores_are_refused(
    file: Path, factory: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load(file.parent, f"{file}:{factory}")


def test_odd_sizes_work_when_given(file: Path) -> None:
    assert load(file.parent, f"{file}:odd", size=(40, 50)).num_classes == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [({"mean": [0.1, 0.2]}, "mean has 2 values for 3 channels"), ({"size": (0, 32)}, "image size")],
)
def test_malformed_conventions_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConventionError, match=message):
        load(tmp_path, "secateur:resnet20", **options)


def test_the_architecture_is_looked_up_before_the_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError):
        load_model(tmp_path / "missing.pth", "timm:nonesuch")
    with pytest.raises(CheckpointError):
        load_model(tmp_path / "missing.pth", "secateur:resnet20")
