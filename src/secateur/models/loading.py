"""A checkpoint and an architecture become a network that is known to run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.data import InputConvention, example_input
from secateur.errors import ArchitectureError
from secateur.models.architecture import Source, resolve
from secateur.models.checkpoint import Checkpoint, read_checkpoint
from secateur.models.matching import load_weights

USUAL_SIZES = (32, 28, 64, 224)
USUAL_CHANNELS = (3, 1)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LONGEST_MESSAGE = 200


@dataclass(frozen=True)
class LoadedModel:
    """A network with the weights of a checkpoint, and how to feed it.

    Attributes
    ----------
    network : nn.Module
        In evaluation mode, on the CPU, float32.
    convention : InputConvention
        How pixels become its input.
    num_classes : int
        Length of its output.
    architecture : str
        The specification that it was built from.
    checkpoint : Checkpoint
        The weights and their origin.
    """

    network: nn.Module
    convention: InputConvention
    num_classes: int
    architecture: str
    checkpoint: Checkpoint


def load_model(
    checkpoint: Path,
    architecture: str,
    *,
    state_key: str | None = None,
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    pixel_range: tuple[float, float] | None = None,
) -> LoadedModel:
    """Read a checkpoint safely, build its architecture, and check that the two work together.

    Parameters
    ----------
    checkpoint : Path
        A file that `read_checkpoint` reads.
    architecture : str
        See `build`; a ``.py`` file or module given here is run.
    state_key : str, optional
        See `read_checkpoint`.
    num_classes : int, optional
        By default read from the weights.
    size : tuple of int, optional
        Height and width of the input in pixels.
    channels : int, optional
        Channels of the input; by default read from the weights.
    mean, std : sequence of float, optional
        Normalisation after `pixel_range`: one value, or one per channel.
    pixel_range : tuple of float, optional
        What black and white pixels become before normalisation.

    Returns
    -------
    LoadedModel
        What is not given of the input convention comes from the architecture: timm's and
        torchvision's published configuration; 32x32 pixels in [0, 1] without normalisation for the
        package's own networks; for other networks the same with the first size that works.

    Raises
    ------
    CheckpointError
        The file holds no usable weights.
    ArchitectureError
        The architecture does not exist, does not fit the weights, or gives no class scores.
    ConventionError
        The values given for the input are malformed.
    """
    source = resolve(architecture)
    weights = read_checkpoint(checkpoint, state_key=state_key)
    found_classes, found_channels = source.sizes_in(weights.state)
    network = source.build(
        num_classes=num_classes or found_classes,
        channels=channels or found_channels,
        size=size[0] if size else None,
    ).float()
    load_weights(network, weights, architecture)
    published = _published(source)
    sizes = (size,) if size else published.sizes or tuple((edge, edge) for edge in USUAL_SIZES)
    low, high = pixel_range or (0.0, 1.0)
    tried: dict[str, list[str]] = {}
    for candidate in _channels(network, channels or found_channels):
        for height_and_width in sizes:
            convention = InputConvention(
                height_and_width,
                candidate,
                tuple(mean) if mean is not None else _for_channels(published.mean, candidate),
                tuple(std) if std is not None else _for_channels(published.std, candidate),
                low,
                high,
            )
            num_outputs = _dry_forward(network, convention, architecture, tried)
            if num_outputs is not None:
                if num_classes not in (None, num_outputs):
                    raise ArchitectureError(
                        f"{architecture}: the network gives {num_outputs} classes, not {num_classes}: "
                        "leave out --classes"
                    )
                return LoadedModel(network, convention, num_outputs, architecture, weights)
    failures = "; ".join(f"{', '.join(shapes)} ({message})" for message, shapes in tried.items())
    raise ArchitectureError(
        f"{architecture}: the network runs with none of the input sizes tried: {failures}. "
        "Give its input with --size height,width and, if need be, --channels"
    )


@dataclass(frozen=True)
class _Published:
    """What an architecture's own configuration says of its input; no sizes if it says nothing."""

    sizes: tuple[tuple[int, int], ...] = ()
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


def _published(source: Source) -> _Published:
    if source.family == "secateur":
        return _Published(((32, 32),))
    if source.family == "timm":
        import timm

        config = timm.get_pretrained_cfg(source.name)
        if config is None:
            return IMAGENET
        _, height, width = config.input_size
        return _Published(((height, width),), tuple(config.mean), tuple(config.std))
    if source.family == "torchvision":
        import torchvision

        try:
            preset = torchvision.models.get_model_weights(source.name).DEFAULT.transforms()
        except (ValueError, AttributeError):
            return IMAGENET
        height, width = (preset.crop_size * 2)[:2]
        return _Published(((height, width),), tuple(preset.mean), tuple(preset.std))
    return _Published()


IMAGENET = _Published(((224, 224),), IMAGENET_MEAN, IMAGENET_STD)


def _for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    # A published RGB normalisation says of other channel counts only its average.
    return values if len(values) in (1, channels) else (sum(values) / len(values),)


def _channels(network: nn.Module, known: int | None) -> Sequence[int]:
    if known is not None:
        return (known,)
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    return USUAL_CHANNELS if first is None else (first.in_channels,)


def _dry_forward(
    network: nn.Module, convention: InputConvention, architecture: str, tried: dict[str, list[str]]
) -> int | None:
    """Run one grey image; return the number of classes, or None if the network raises.

    `tried` notes for each message the shapes that it came from.
    """
    try:
        with torch.no_grad():
            output = network(example_input(convention))
    except Exception as error:
        # Any network may be given here, so any error may come out of it.
        message = (str(error).strip().splitlines() or [""])[0][:LONGEST_MESSAGE]
        shape = "x".join(map(str, (convention.channels, *convention.size)))
        tried.setdefault(f"{type(error).__name__}: {message}", []).append(shape)
        return None
    if not isinstance(output, Tensor):
        raise ArchitectureError(
            f"{architecture}: the network returns a {type(output).__name__}, not one tensor of class scores; "
            "give a factory that wraps it and returns the logits alone (path/to/file.py:factory)"
        )
    if output.ndim != 2 or output.shape[0] != 1 or output.shape[1] < 2:
        raise ArchitectureError(
            f"{architecture}: for one image the network returns shape {tuple(output.shape)}, "
            "not (1, classes) with at least 2 classes; only image classifiers can be repaired"
        )
    return output.shape[1]
