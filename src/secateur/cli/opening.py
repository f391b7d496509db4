"""From what was typed to networks and images; torch is imported here and not before."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.cli import parsing
from secateur.cli.options import Device
from secateur.errors import InputError

if TYPE_CHECKING:
    from secateur.data import ImageDataset
    from secateur.models import LoadedModel


@dataclass(frozen=True)
class ModelChoice:
    """A network as typed on the command line.

    Attributes
    ----------
    path, architecture, state_key, classes, channels
        As `secateur.models.load_model` takes them.
    size, mean, std, pixel_range
        Not parsed yet.
    """

    path: Path
    architecture: str
    state_key: str | None = None
    classes: int | None = None
    size: str | None = None
    channels: int | None = None
    mean: str | None = None
    std: str | None = None
    pixel_range: str | None = None

    @property
    def has_usual_values(self) -> bool:
        """Whether mean, std and range are left to the architecture."""
        return self.mean is None and self.std is None and self.pixel_range is None

    def load(self) -> "LoadedModel":
        """Read the checkpoint and build the network.

        Raises
        ------
        InputError
            A value is malformed, or `load_model` refuses.
        """
        size = parsing.height_and_width("--size", self.size)
        mean = parsing.numbers("--mean", self.mean)
        std = parsing.numbers("--std", self.std)
        pixel_range = parsing.two_numbers("--range", self.pixel_range)
        from secateur.models import load_model

        return load_model(
            self.path,
            self.architecture,
            state_key=self.state_key,
            num_classes=self.classes,
            size=size,
            channels=self.channels,
            mean=mean,
            std=std,
            pixel_range=pixel_range,
        )


@dataclass(frozen=True)
class DataChoice:
    """Images as typed on the command line; as `secateur.data.open_images` takes them."""

    source: str
    split: str
    root: Path | None = None

    def open(self, model: "LoadedModel", *, labelled: bool = True) -> "ImageDataset":
        """Open the images at the size and channels of a network's input; nothing is decoded yet."""
        from secateur.data import open_images

        return open_images(
            self.source,
            split=self.split,
            root=self.root,
            size=model.convention.size,
            channels=model.convention.channels,
            labelled=labelled,
        )


def prepare_device(device: Device, threads: int | None) -> str:
    """Set the number of CPU threads and return the name of the device to run on.

    Raises
    ------
    InputError
        A GPU is asked for and there is none.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    if device is Device.CPU:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if device is Device.CUDA:
        raise InputError("--device cuda: PyTorch finds no usable GPU here; use --device cpu")
    return "cpu"
