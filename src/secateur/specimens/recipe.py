"""Everything that determines a specimen, and its fingerprint."""

import ast
import hashlib
import importlib
import inspect
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from secateur.attacks import Attack, Goal, create
from secateur.errors import InputError, MethodError
from secateur.files import sha256
from secateur.specimens.training import Training

NO_ATTACK = "none"
GOAL_FIELDS = tuple(field.name for field in fields(Goal))
# A change of these files changes every specimen; each attack's own file is added.
SOURCES = ("secateur.attacks.attack", "secateur.attacks.goal", "secateur.specimens.training")


@dataclass(frozen=True)
class SpecimenRecipe:
    """What to train.

    Attributes
    ----------
    model
        Architecture, as `secateur.models.build` takes it.
    data
        Images with a train and a test split, as `secateur.data.open_images` takes them.
    attack
        Name of a registered attack, or ``none`` for a clean specimen.
    goal, settings
        What differs from the attack's own defaults: fields of `Goal`, and hyperparameters.
    training
        How the network is trained.
    seed
        Decides all that is left to chance.
    start
        Checkpoint of a clean network to begin with; random weights by default.
    surrogate
        Checkpoint of a clean network of the same architecture for attacks that need one; `start` by default.
    size, channels
        Of the images; by default those of the start's architecture, or of the first image.
    mean, std
        Input normalisation; by default that of the training images.
    """

    model: str
    data: str
    attack: str = NO_ATTACK
    goal: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    training: Training = field(default_factory=Training)
    seed: int = 0
    start: Path | None = None
    surrogate: Path | None = None
    root: Path | None = None
    size: tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def create_attack(self) -> Attack | None:
        """Make the attack, None for a clean specimen.

        Raises
        ------
        MethodError
            The attack or one of its settings is unknown or out of range.
        """
        if self.attack == NO_ATTACK:
            if self.goal or self.settings:
                raise MethodError("a clean specimen has no attack to set anything of")
            return None
        attack = create(self.attack, **self.settings)
        try:
            return replace(attack, goal=replace(attack.goal, **self.goal))
        except TypeError as error:
            raise MethodError(f"goal: {error}; it has {', '.join(GOAL_FIELDS)}") from error

    def describe(self) -> dict[str, Any]:
        """Return the recipe as plain values; files by their names, never by their places."""
        attack = self.create_attack()
        return {
            "model": Path(self.model).name,
            "attack": self.attack,
            "goal": None if attack is None else asdict(attack.goal),
            "settings": {} if attack is None else plain_settings(attack),
            "training": asdict(self.training),
            "seed": self.seed,
            "size": self.size,
            "channels": self.channels,
            "mean": self.mean,
            "std": self.std,
        }

    def digest(self, data_digest: str) -> str:
        """Return the SHA-256 of all that determines the specimen: recipe, images, start, and our code.

        Comments, docstrings and layout of the code do not count.
        """
        files = {
            name: None if path is None else sha256(path)
            for name, path in (("start", self.start), ("surrogate", self.surrogate))
        }
        whole = {**self.describe(), **files, "data": data_digest, "code": self._code_digest()}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def _code_digest(self) -> str:
        attack = self.create_attack()
        modules = [*SOURCES] + ([] if attack is None else [type(attack).__module__])
        digest = hashlib.sha256()
        for name in modules:
            source = inspect.getsource(importlib.import_module(name))
            digest.update(ast.dump(_without_docstrings(ast.parse(source))).encode())
        return digest.hexdigest()


def plain_settings(attack: Attack) -> dict[str, Any]:
    """Return an attack's hyperparameters without its goal."""
    return {name: value for name, value in asdict(attack).items() if name != "goal"}


def read_list(path: Path, only: Sequence[str] = ()) -> dict[str, SpecimenRecipe]:
    """Read a list of specimens.

    Parameters
    ----------
    path
        TOML: a table ``defaults`` and tables ``specimens.NAME`` with the fields of `SpecimenRecipe`; the
        tables ``training``, ``goal`` and ``settings`` are joined with those of the defaults. Files are
        relative to the list.
    only
        Names to take, all by default.

    Raises
    ------
    InputError
        The file is missing or malformed, or does not have one of the names.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: cannot be read as TOML ({error})") from error
    specimens, defaults = content.get("specimens"), content.get("defaults", {})
    if not isinstance(specimens, dict) or not all(isinstance(table, dict) for table in specimens.values()):
        raise InputError(f"{path}: needs a table for each specimen, such as [specimens.badnets]")
    unknown = [name for name in only if name not in specimens]
    if unknown:
        raise InputError(f"{path}: has no specimen {', '.join(unknown)}; there are: {', '.join(specimens)}")
    chosen = {name: specimens[name] for name in only or specimens}
    return {name: _recipe(path, name, defaults, table) for name, table in chosen.items()}


def _recipe(path: Path, name: str, defaults: dict[str, Any], table: dict[str, Any]) -> SpecimenRecipe:
    try:
        values = {**defaults, **table}
        for part in ("training", "goal", "settings"):
            values[part] = {**defaults.get(part, {}), **table.get(part, {})}
        values["training"] = Training(**values["training"])
        if values.get("attack", NO_ATTACK) == NO_ATTACK:
            values["goal"] = {}
        for key in ("start", "surrogate", "root"):
            if values.get(key):
                values[key] = path.parent / values[key]
        for key in ("size", "mean", "std"):
            if key in values:
                values[key] = tuple(values[key])
        if ":" not in values["data"]:
            values["data"] = str(path.parent / values["data"])
        recipe = SpecimenRecipe(**values)
        recipe.create_attack()
    except KeyError as error:
        raise InputError(f"{path}: {name}: {error.args[0]} is missing") from error
    except (TypeError, ValueError, AttributeError, InputError) as error:
        raise InputError(f"{path}: {name}: {error}") from error
    return recipe


def _without_docstrings(tree: ast.Module) -> ast.Module:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree
