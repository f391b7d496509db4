"""Tell whether weights belong to a network, and if not, to which one."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from secateur.errors import ArchitectureError
from secateur.models.architecture import resolve, shapes_of
from secateur.models.checkpoint import Checkpoint
from secateur.models.zoo import ZOO

SHOWN = 6
WORTH_NAMING = 0.5
CANDIDATES: dict[str, tuple[str, ...]] = {
    "secateur": tuple(ZOO),
    "torchvision": (
        "alexnet",
        "convnext_tiny",
        "densenet121",
        "densenet161",
        "densenet169",
        "efficientnet_b0",
        "efficientnet_b1",
        "efficientnet_v2_s",
        "googlenet",
        "inception_v3",
        "mnasnet1_0",
        "mobilenet_v2",
        "mobilenet_v3_large",
        "mobilenet_v3_small",
        "regnet_y_400mf",
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnext50_32x4d",
        "shufflenet_v2_x1_0",
        "squeezenet1_1",
        "swin_t",
        "vgg11",
        "vgg11_bn",
        "vgg13",
        "vgg13_bn",
        "vgg16",
        "vgg16_bn",
        "vgg19",
        "vgg19_bn",
        "vit_b_16",
        "wide_resnet50_2",
    ),
    "timm": (
        "convnext_atto",
        "convnext_nano",
        "convnext_tiny",
        "deit_tiny_distilled_patch16_224",
        "densenet121",
        "efficientnet_b0",
        "mixer_s16_224",
        "mobilenetv2_100",
        "mobilenetv3_large_100",
        "mobilenetv3_small_100",
        "regnety_004",
        "resnet10t",
        "resnet18",
        "resnet26",
        "resnet34",
        "resnet50",
        "swin_tiny_patch4_window7_224",
        "vgg16_bn",
        "vit_base_patch16_224",
        "vit_small_patch16_224",
        "vit_tiny_patch16_224",
    ),
}


@dataclass(frozen=True)
class Fit:
    """How the tensors of a checkpoint compare with those of a network.

    Attributes
    ----------
    missing : tuple of str
        Names that the network has and the checkpoint lacks.
    unexpected : tuple of str
        Names that the checkpoint has and the network lacks.
    reshaped : tuple of str
        Names that both have, with the two shapes.
    matching : int
        Number of tensors of equal name and shape.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]
    matching: int

    @property
    def complete(self) -> bool:
        """Whether every tensor has its counterpart."""
        return not (self.missing or self.unexpected or self.reshaped)

    @property
    def share(self) -> float:
        """Tensors that match, as a fraction of all names on either side, in [0, 1]."""
        total = self.matching + len(self.missing) + len(self.unexpected) + len(self.reshaped)
        return self.matching / total if total else 0.0


def compare(wanted: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> Fit:
    """Compare the names and shapes that a network wants with those of `state`.

    BatchNorm's counters of batches may be missing: files older than the counters lack them.
    """
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    differing = [name for name in wanted if name in given and wanted[name] != given[name]]
    return Fit(
        missing=tuple(
            name for name in wanted if name not in given and not name.endswith("num_batches_tracked")
        ),
        unexpected=tuple(name for name in given if name not in wanted),
        reshaped=tuple(f"{name} {_dims(given[name])} instead of {_dims(wanted[name])}" for name in differing),
        matching=len(wanted.keys() & given.keys()) - len(differing),
    )


def load_weights(network: nn.Module, checkpoint: Checkpoint, architecture: str) -> None:
    """Copy a checkpoint's state into `network`; both must agree in every name and shape.

    Parameters
    ----------
    network : nn.Module
        Changed in place; element types are those of the network.
    checkpoint : Checkpoint
        The weights.
    architecture : str
        How the message names the network.

    Raises
    ------
    ArchitectureError
        They do not agree; the message lists the differences and the architectures that would fit.
    """
    wanted = shapes_of(network)
    fit = compare(wanted, checkpoint.state)
    if not fit.complete:
        raise ArchitectureError(
            f"{checkpoint.path}: the weights do not fit {architecture} ({fit.matching} tensors agree)\n"
            f"{_differences(fit)}\n  {_advice(wanted, checkpoint, architecture)}"
        )
    network.load_state_dict(checkpoint.state, strict=False)


def fitting_architectures(state: Mapping[str, Tensor]) -> tuple[list[str], tuple[str, Fit] | None]:
    """Look for architectures whose names and shapes agree with `state`.

    The package's own networks and a list of common ones of torchvision and timm are tried, without
    allocating their weights.

    Returns
    -------
    complete : list of str
        Specifications of the architectures that fit completely.
    closest : tuple of str and Fit, or None
        The best of the others, if at least half of the tensors agree.
    """
    complete: list[str] = []
    closest: tuple[str, Fit] | None = None
    for family, names in CANDIDATES.items():
        for name in names:
            try:
                source = resolve(f"{family}:{name}")
            except ArchitectureError:
                # An older or newer version of the library may not have it.
                continue
            fit = compare(source.shapes_for(state), state)
            if fit.complete:
                complete.append(source.architecture)
            elif fit.share >= WORTH_NAMING and (closest is None or fit.share > closest[1].share):
                closest = (source.architecture, fit)
        if complete and family == "secateur":
            # Nobody else uses these names, and the other libraries take seconds to go through.
            break
    return complete, closest


def _differences(fit: Fit) -> str:
    lines = []
    for title, names in (
        ("missing from the file", fit.missing),
        ("unexpected in the file", fit.unexpected),
        ("of another shape", fit.reshaped),
    ):
        if names:
            more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines.append(f"  {len(names)} {title}: {', '.join(names[:SHOWN])}{more}")
    return "\n".join(lines)


def _advice(wanted: Mapping[str, tuple[int, ...]], checkpoint: Checkpoint, architecture: str) -> str:
    prefix = _common_prefix(checkpoint.state)
    bare = {name[len(prefix) :]: tensor for name, tensor in checkpoint.state.items()}
    if prefix and compare(wanted, bare).complete:
        key = ".".join(filter(None, (checkpoint.state_key, prefix[:-1])))
        return f"without the prefix {prefix} in every name they fit: use --state-key {key}"
    complete, closest = fitting_architectures(bare)
    hint = f" (once the prefix {prefix} is removed with --state-key)" if prefix else ""
    if architecture in complete:
        return f"it would fit{hint} with the sizes in the weights: leave out --classes and --channels"
    if complete:
        return f"these would fit{hint}: {', '.join(complete)}"
    if closest:
        name, fit = closest
        return (
            f"no known architecture fits; the closest is {name} ({fit.matching} tensors agree{hint}); "
            "if the network is your own, give it as path/to/file.py:factory"
        )
    return "no known architecture fits; give the network as path/to/file.py:factory"


def _common_prefix(names: Iterable[str]) -> str:
    """Return the leading dotted components that all names share, with the last dot."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    shared = itertools.takewhile(lambda level: len(set(level)) == 1, levels)
    return "".join(f"{level[0]}." for level in shared)


def _dims(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
