"""Architecture names become networks; whatever goes wrong is said with the name and a remedy."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur.errors import ArchitectureError
from secateur.models.architecture import build, resolve

FILE = """
from torch import nn
from neighbour import WIDTH

class Net(nn.Module):
    def __init__(self, in_channels=3, num_classes=10):
        super().__init__()
        if in_channels not in (1, 3):
            raise ValueError("grey or RGB only")
        self.conv = nn.Conv2d(in_channels, WIDTH, 3)
        self.head = nn.Linear(WIDTH, num_classes)

def fixed():
    return nn.Linear(4, 2)

def lazy(num_classes):
    return nn.LazyLinear(num_classes)

def breaks():
    raise RuntimeError("no such preset")

def leaves():
    raise SystemExit(3)

def number():
    return 5

_hidden = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(FILE)
    (tmp_path / "neighbour.py").write_text("WIDTH = 6\n")
    return path


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("timm:resnet18", "fc.weight"),
        ("timm:resnet18.a1_in1k", "fc.weight"),
        ("torchvision:vgg11_bn", "classifier.6.weight"),
        ("secateur:preact_resnet18", "linear.weight"),
    ],
)
def test_registered_names_take_the_class_count(architecture: str, name: str) -> None:
    with torch.device("meta"):
        network = build(architecture, num_classes=7)
    assert network.state_dict()[name].shape[0] == 7
    assert not network.training


def test_files_and_modules_are_run(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search_path = list(sys.path)
    assert build(f"{file}:Net", num_classes=5, channels=1).conv.weight.shape == (6, 1, 3, 3)
    assert isinstance(build(f"{file}:fixed", num_classes=5), nn.Linear)
    assert sys.path == search_path
    monkeypatch.syspath_prepend(file.parent)
    assert build("nets:Net", num_classes=5).head.out_features == 5


def test_building_leaves_the_random_state_alone(file: Path) -> None:
    before = torch.get_rng_state()
    build(f"{file}:fixed")
    assert torch.equal(torch.get_rng_state(), before)


def test_sizes_are_read_from_weights(file: Path) -> None:
    source = resolve("timm:resnet18")
    assert source.sizes_in(source.build(num_classes=43, channels=1).state_dict()) == (43, 1)
    assert source.sizes_in({"foreign": torch.ones(2)}) == (None, None)
    # This one refuses the channel count that is probed for, and still tells its classes.
    picky = resolve(f"{file}:Net")
    assert picky.sizes_in(picky.build(num_classes=4).state_dict()) == (4, None)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("resnet18", r"did you mean secateur:resnet18 or torchvision:resnet18 or timm:resnet18\?"),
        ("secateur:resnet81", r"secateur has no architecture resnet81; did you mean .*secateur:resnet18"),
        ("timm:hf-hub:someone/model", "give the architecture|is not installed|no architecture"),
        ("torchvision:fasterrcnn_resnet50_fpn", "torchvision has no architecture"),
        ("/nowhere/nets.py:Net", r"/nowhere/nets\.py: no such file"),
        ("secateur_nowhere.nets:Net", "needs the module secateur_nowhere, which is not installed"),
        ("{file}:Nett", "no factory Nett in it; it defines Net, fixed, lazy, breaks, leaves, number$"),
        ("{file}:WIDTH", "no factory WIDTH"),
        ("{file}:breaks", "running it raised RuntimeError: no such preset"),
        ("{file}:leaves", "running it raised SystemExit: 3"),
        ("{file}:number", "number returned int, not a torch.nn.Module"),
        ("{file}:lazy", "lazy modules"),
    ],
)
def test_mistakes_are_named_with_a_remedy(architecture: str, message: str, file: Path) -> None:
    with pytest.raises(ArchitectureError, match=message):
        build(architecture.format(file=file), num_classes=3)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def net(:\n")
    with pytest.raises(ArchitectureError, match=r"broken\.py: running it raised SyntaxError"):
        build(f"{path}:net")
