"""Everything that determines a specimen, and its fingerprint."""

import ast
import hashlib
import importlib
import inspect
import itertools
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from secateur.attacks import Attack, Goal, create
from secateur.errors import InputError, MethodError
from secateur.fields import check_fields
from secateur.files import sha256
from secateur.specimens.training import Training

NO_ATTACK = "none"
WEIGHTS = "weights.safetensors"
SPECIMEN = "specimen:"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
PARTS = ("training", "goal", "settings")
GOAL_FIELDS = tuple(field.name for field in fields(Goal))
# A change of these files changes every specimen; the attack's own file and what that imports are added.
SOURCES = (
    "secateur.attacks.attack",
    "secateur.attacks.goal",
    "secateur.data.trigger",
    "secateur.specimens.images",
    "secateur.specimens.training",
)
OWN_ZOO = "secateur.models.zoo"


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
        Of the images; 32 pixels and 3 channels by default.
    mean, std
        Input normalisation; by default what the card beside `start` says, or that of the training images.
    remark
        For the card: what a reader should know of this specimen, such as why it falls short. It decides
        nothing.
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
    remark: str | None = None

    def create_attack(self) -> Attack | None:
        """Make the attack, None for a clean specimen.

        Raises
        ------
        MethodError
            The attack or one of its settings is unknown or out of range.
        """
        if self.attack == NO_ATTACK:
            if self.goal or self.settings:
                raise MethodError("a clean specimen has no attack to set anything of: give --attack")
            return None
        attack = create(self.attack, **self.settings)
        try:
            goal = replace(attack.goal, **self.goal)
        except TypeError as error:
            raise MethodError(f"goal: {error}; it has {', '.join(GOAL_FIELDS)}") from error
        check_fields(goal)
        if goal.mapping == "source-specific" and not goal.cover_rate:
            raise MethodError(
                "a source-specific attack needs covers, or every class learns the trigger: set a cover rate"
            )
        return replace(attack, goal=goal)

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
        """Return the SHA-256 of all that determines the specimen: recipe, training images, start, and code.

        Code is ours as far as it takes part, and the file of an architecture that is in one. Comments,
        docstrings and layout do not count, nor do the test images, which only measure.
        """
        files = {
            name: None if path is None else sha256(path)
            for name, path in (("start", self.start), ("surrogate", self.surrogate))
        }
        whole = {**self.describe(), **files, "data": data_digest, "code": self._code_digest()}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def _code_digest(self) -> str:
        attack = self.create_attack()
        modules = [*SOURCES] + ([] if attack is None else _imported(type(attack).__module__))
        if self.model.startswith("secateur:"):
            modules.append(OWN_ZOO)
        sources = [inspect.getsource(importlib.import_module(name)) for name in dict.fromkeys(modules)]
        file = Path(self.model.rpartition(":")[0])
        if file.suffix == ".py" and file.is_file():
            sources.append(file.read_text(encoding="utf-8"))
        digest = hashlib.sha256()
        for source in sources:
            digest.update(ast.dump(_without_docstrings(ast.parse(source))).encode())
        return digest.hexdigest()


def plain_settings(attack: Attack) -> dict[str, Any]:
    """Return an attack's hyperparameters without its goal."""
    return {name: value for name, value in asdict(attack).items() if name != "goal"}


def read_list(path: Path, only: Sequence[str] = (), *, made: Path | None = None) -> dict[str, SpecimenRecipe]:
    """Read a list of specimens.

    Parameters
    ----------
    path
        TOML: a table ``defaults`` and tables ``specimens.NAME`` with the fields of `SpecimenRecipe`; the
        tables ``training``, ``goal`` and ``settings`` are joined with those of the defaults. Tables
        ``axes.AXIS.NAME`` stand for all combinations of one table of each axis, named by joining their names
        with hyphens. Files are relative to the list. ``start`` and ``surrogate`` may be
        ``"specimen:NAME"``, another specimen of the list; an axis in braces there stands for the name chosen
        on it.
    only
        Names to take, all by default.
    made
        Folder that the specimens of this list are in, for surrogates among them.

    Raises
    ------
    InputError
        The file is missing or malformed, or does not have one of the names.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: cannot be read as TOML ({error})") from error
    tables = _tables(path, content)
    for name in tables:
        if not NAME.fullmatch(name):
            raise InputError(f"{path}: {name!r} is no name of a folder: use letters, digits, . _ + and -")
    unknown = [name for name in only if name not in tables]
    if unknown:
        raise InputError(f"{path}: has no specimen {', '.join(unknown)}; there are: {', '.join(tables)}")
    return {name: _recipe(path, name, tables[name], made) for name in _in_order(path, only or tables, tables)}


def _in_order(path: Path, names: Iterable[str], tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names, and before each the specimens of the list that it starts from or learns from."""
    graph: dict[str, list[str]] = {}
    waiting = list(names)
    for name in waiting:
        given = [str(tables[name].get(key)) for key in ("start", "surrogate")]
        needed = [text.removeprefix(SPECIMEN) for text in given if text.startswith(SPECIMEN)]
        graph[name] = [other for other in needed if other in tables]
        waiting += [other for other in graph[name] if other not in waiting]
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise InputError(f"{path}: {' and '.join(error.args[1])} start from each other") from error


def _tables(path: Path, content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the joined table of every specimen, and of every combination of the axes."""
    defaults, axes = content.get("defaults", {}), content.get("axes", {})
    specimens = content.get("specimens", {})
    every = [defaults, axes, specimens, *(axes.values() if isinstance(axes, dict) else ())]
    if not all(isinstance(table, dict) for table in every) or not (axes or specimens):
        raise InputError(f"{path}: needs a table for each specimen, such as [specimens.badnets]")
    tables: dict[str, tuple[dict[str, str], Any]] = {name: ({}, table) for name, table in specimens.items()}
    if axes:
        for chosen in itertools.product(*(axis.items() for axis in axes.values())):
            places = dict(zip(axes, (name for name, _ in chosen), strict=True))
            tables["-".join(places.values())] = (places, _joined(path, *(table for _, table in chosen)))
    joined = {name: _joined(path, defaults, table) for name, (_, table) in tables.items()}
    for name, (places, _) in tables.items():
        for key in ("start", "surrogate"):
            if str(joined[name].get(key)).startswith(SPECIMEN):
                try:
                    joined[name][key] = joined[name][key].format(**places)
                except (KeyError, IndexError, ValueError) as error:
                    raise InputError(f"{path}: {name}: {key} names no axis {error}") from error
    return joined


def _joined(path: Path, *tables: Any) -> dict[str, Any]:
    """Return tables one over the other; their parts are joined in the same way."""
    whole: dict[str, Any] = {}
    for table in tables:
        if not isinstance(table, dict) or not all(isinstance(table.get(part, {}), dict) for part in PARTS):
            raise InputError(f"{path}: needs a table for each specimen, and {', '.join(PARTS)} are tables")
        whole |= table | {part: {**whole.get(part, {}), **table.get(part, {})} for part in PARTS}
    return whole


def _recipe(path: Path, name: str, table: dict[str, Any], made: Path | None) -> SpecimenRecipe:
    try:
        values = {**table, "training": Training(**table["training"])}
        if values.get("attack", NO_ATTACK) == NO_ATTACK:
            values |= {"goal": {}, "settings": {}}
        if isinstance(values["goal"].get("sources"), list):
            values["goal"] = values["goal"] | {"sources": tuple(values["goal"]["sources"])}
        for key in ("start", "surrogate", "root"):
            if values.get(key):
                values[key] = _file(path, values[key], made)
        for key in ("size", "mean", "std"):
            if key in values:
                values[key] = tuple(values[key])
        if ":" not in values["data"]:
            values["data"] = str(path.parent / values["data"])
        recipe = SpecimenRecipe(**values)
        check_fields(recipe)
        check_fields(recipe.training)
        recipe.create_attack()
    except KeyError as error:
        raise InputError(f"{path}: {name}: {error.args[0]} is missing") from error
    except (TypeError, ValueError, AttributeError, InputError) as error:
        raise InputError(f"{path}: {name}: {error}") from error
    return recipe


def _file(path: Path, given: str, made: Path | None) -> Path:
    """Return a file named in the list, or the weights of another specimen of it."""
    if not given.startswith(SPECIMEN):
        return path.parent / given
    return (made or path.parent) / given.removeprefix(SPECIMEN) / WEIGHTS


def _imported(module: str) -> list[str]:
    """Return `module` and the attacks that it imports, and so on."""
    found = [module]
    for name in found:
        tree = ast.parse(inspect.getsource(importlib.import_module(name)))
        imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        found += [other for other in imported if other.startswith("secateur.attacks.") and other not in found]
    return found


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """Return `tree` without texts that stand alone."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_text(part)]  # type: ignore[attr-defined]
    return tree


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
