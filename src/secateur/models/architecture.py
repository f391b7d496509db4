"""An architecture's name becomes a network, with random weights: nothing is ever downloaded."""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from secateur.errors import ArchitectureError
from secateur.models.zoo import ZOO

Result = TypeVar("Result")
Family = Literal["secateur", "timm", "torchvision", "file", "module"]
FORMS = "timm:NAME, torchvision:NAME, secateur:NAME, path/to/file.py:factory or package.module:factory"
# Sizes that no layer has by itself, so that whatever follows the class or channel count can be told.
PROBE_CLASSES = 7919
PROBE_CHANNELS = 13


@dataclass(frozen=True)
class Source:
    """Where networks of one architecture come from.

    Attributes
    ----------
    architecture : str
        The specification as given.
    family : {"secateur", "timm", "torchvision", "file", "module"}
        Kind of the specification.
    name : str
        What follows the colon.
    factory : callable
        Returns a new network.
    classes_argument, channels_argument, size_argument : str or None
        Name under which `factory` takes the number of classes, the number of input channels and the
        height of square inputs, if it does.
    folder : Path or None
        Where a file's own imports are found.
    """

    architecture: str
    family: Family
    name: str
    factory: Callable[..., Any]
    classes_argument: str | None
    channels_argument: str | None
    size_argument: str | None = None
    folder: Path | None = None

    def build(
        self, *, num_classes: int | None = None, channels: int | None = None, size: int | None = None
    ) -> nn.Module:
        """Return a new network in evaluation mode, on the CPU; the global random state is left alone.

        Raises
        ------
        ArchitectureError
            The factory raises or returns something that is no ``nn.Module``.
        """
        wanted = (
            (self.classes_argument, num_classes),
            (self.channels_argument, channels),
            (self.size_argument, size),
        )
        arguments = {name: value for name, value in wanted if name and value is not None}
        with torch.random.fork_rng(devices=[]), _importable(self.folder), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = _run(self.architecture, lambda: self.factory(**arguments))
        if not isinstance(network, nn.Module):
            raise ArchitectureError(
                f"{self.architecture}: {self.name} returned {type(network).__name__}, not a torch.nn.Module"
            )
        if any(is_lazy(parameter) for parameter in network.parameters()):
            raise ArchitectureError(
                f"{self.architecture}: has layers without shapes (lazy modules); let the factory run it once"
            )
        return network.eval()

    def sizes_in(self, state: Mapping[str, Tensor]) -> tuple[int | None, int | None]:
        """Read the number of classes and of input channels of `state`, which belongs to this architecture.

        Returns
        -------
        num_classes, channels : int or None
            None where the architecture does not say, or `state` does not fit it.
        """
        return _sizes_in(self._probe(), state)

    def shapes_for(self, state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor of this architecture at the sizes of `state`; no memory is used.

        Empty when the architecture cannot be built.
        """
        shapes = self._probe()
        num_classes, channels = _sizes_in(shapes, state)
        actual = {PROBE_CLASSES: num_classes, PROBE_CHANNELS: channels}
        return {
            name: tuple(actual.get(length) or length for length in shape) for name, shape in shapes.items()
        }

    def _probe(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes at absurd sizes, which show what depends on classes and channels."""
        # Some factories accept few channel counts, and some cannot run without memory.
        for device, channels in (("meta", PROBE_CHANNELS), ("meta", None), ("cpu", None)):
            try:
                with torch.device(device):
                    network = self.build(num_classes=PROBE_CLASSES, channels=channels)
            except ArchitectureError:
                continue
            return shapes_of(network)
        return {}


def build(architecture: str, *, num_classes: int | None = None, channels: int | None = None) -> nn.Module:
    """Return a new network with random weights, in evaluation mode on the CPU.

    Parameters
    ----------
    architecture : str
        ``timm:NAME``, ``torchvision:NAME``, ``secateur:NAME``, ``path/to/file.py:factory`` or
        ``package.module:factory``.  The last two run the named file or module: it is code that you
        choose to run, with all your rights.
    num_classes, channels : int, optional
        Passed to factories that take ``num_classes``, and ``in_channels`` or ``in_chans``.

    Raises
    ------
    ArchitectureError
        There is no such architecture, or it cannot be built.
    """
    return resolve(architecture).build(num_classes=num_classes, channels=channels)


def resolve(architecture: str) -> Source:
    """Find what an architecture specification names; see `build` for its forms.

    Raises
    ------
    ArchitectureError
        The name, file, module or factory does not exist, or the file cannot be run.
    """
    place, _, name = architecture.rpartition(":")
    if not place or not name:
        raise ArchitectureError(
            f"{architecture or '(nothing)'}: give the architecture as {FORMS}{_suggest(_named(architecture))}"
        )
    if place == "secateur":
        _require(architecture, place, name, list(ZOO))
        return Source(architecture, "secateur", name, ZOO[name], "num_classes", "in_channels")
    if place == "timm":
        import timm

        # Only registered names: timm would fetch the configuration behind a hub address.
        _require(architecture, place, name.split(".")[0], timm.list_models())
        published = timm.get_pretrained_cfg(name, allow_unregistered=True)
        fixed = published is not None and published.fixed_input_size
        create = partial(timm.create_model, name, pretrained=False)
        return Source(
            architecture, "timm", name, create, "num_classes", "in_chans", "img_size" if fixed else None
        )
    if place == "torchvision":
        import torchvision

        _require(architecture, place, name, _torchvision_names())
        create = partial(torchvision.models.get_model, name, weights=None)
        size_argument = "image_size" if name.startswith("vit_") else None
        return Source(architecture, "torchvision", name, create, "num_classes", None, size_argument)
    if place.endswith(".py") or "/" in place or "\\" in place:
        path = Path(place).expanduser()
        return _from_module(architecture, "file", name, _load_file(path), path.resolve().parent)
    module = _run(architecture, lambda: importlib.import_module(place))
    return _from_module(architecture, "module", name, module, None)


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a network's state, by name."""
    state = network.state_dict().items()
    return {name: tuple(tensor.shape) for name, tensor in state if isinstance(tensor, Tensor)}


def _sizes_in(
    probe: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]
) -> tuple[int | None, int | None]:
    shared = {
        name: shape for name, shape in probe.items() if name in state and state[name].ndim == len(shape)
    }
    classes = {state[name].shape[0] for name, shape in shared.items() if shape[:1] == (PROBE_CLASSES,)}
    channels = {
        state[name].shape[1]
        for name, shape in shared.items()
        if len(shape) == 4 and shape[1] == PROBE_CHANNELS
    }
    return (
        classes.pop() if len(classes) == 1 else None,
        channels.pop() if len(channels) == 1 else None,
    )


def _require(architecture: str, family: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        near = [f"{family}:{match}" for match in difflib.get_close_matches(name, names, n=5)]
        raise ArchitectureError(f"{architecture}: {family} has no architecture {name}{_suggest(near)}")


def _from_module(
    architecture: str, family: Family, name: str, module: ModuleType, folder: Path | None
) -> Source:
    factory = getattr(module, name, None)
    if not callable(factory):
        callables = [
            key
            for key, value in vars(module).items()
            if callable(value)
            and not key.startswith("_")
            and getattr(value, "__module__", "") == module.__name__
        ]
        listed = f"; it defines {', '.join(callables)}" if callables else ""
        raise ArchitectureError(f"{architecture}: there is no factory {name} in it{listed}")
    try:
        accepted = set(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        accepted = set()
    return Source(
        architecture,
        family,
        name,
        factory,
        "num_classes" if "num_classes" in accepted else None,
        next((argument for argument in ("in_channels", "in_chans") if argument in accepted), None),
        folder=folder,
    )


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ArchitectureError(
            f"{path}: no such file; architecture files are given as path/to/file.py:factory"
        )
    name = f"secateur_file_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise ArchitectureError(f"{path}: is not a Python file")
    module = importlib.util.module_from_spec(specification)
    loader = specification.loader
    # Registered, as dataclasses and copies of its networks look their module up.
    sys.modules[name] = module
    try:
        with _importable(path.resolve().parent):
            _run(str(path), lambda: loader.exec_module(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _run(what: str, call: Callable[[], Result]) -> Result:
    """Call somebody else's code; whatever it raises becomes an ArchitectureError that names `what`."""
    try:
        return call()
    except ModuleNotFoundError as error:
        raise ArchitectureError(f"{what}: needs the module {error.name}, which is not installed") from error
    except (Exception, SystemExit) as error:
        raise ArchitectureError(f"{what}: running it raised {type(error).__name__}: {error}") from error


@contextmanager
def _importable(folder: Path | None) -> Iterator[None]:
    """Let a file import its neighbours, as it can when it is run as a script."""
    if folder is None:
        yield
        return
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(folder))


def _suggest(near: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _torchvision_names() -> list[str]:
    import torchvision

    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def _named(name: str) -> list[str]:
    """Specifications of the architectures called `name` in any family, or else called much like it."""
    import timm

    families = {"secateur": list(ZOO), "torchvision": _torchvision_names(), "timm": timm.list_models()}
    exact = [f"{family}:{name}" for family, names in families.items() if name in names]
    return exact or [
        f"{family}:{match}"
        for family, names in families.items()
        for match in difflib.get_close_matches(name, names, n=2)
    ]
