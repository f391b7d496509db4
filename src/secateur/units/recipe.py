"""The text that turns the original weights into the repaired ones, bit for bit."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from torch import Tensor

from secateur._version import __version__
from secateur.errors import RecipeError
from secateur.units.checking import Fields
from secateur.units.layers import KINDS, Slices, Unit, UnitLayer, group_units
from secateur.units.pruning import zero_slices
from secateur.units.state import state_sha256

FORMAT = "secateur-recipe"
FORMAT_VERSION = 1
MAX_CHARACTERS = 256 << 20


@dataclass(frozen=True)
class ScoredUnit:
    """A pruned unit and the score that the method gave it (finite; what it means is the method's)."""

    unit: Unit
    score: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.score):
            raise ValueError(f"unit {self.unit.index} of {self.unit.layer}: the score is {self.score}")


@dataclass(frozen=True)
class Recipe:
    """Which units to prune, in which order, from which weights.

    It holds the slices that each unit owns, so that it applies to a plain state dict without the network.

    Parameters
    ----------
    method
        Name of the repair.
    architecture
        Specification of the network, as given to the command line.
    layers
        The layers that the units belong to, each with at least one pruned unit.
    units
        Pruned units with their scores, in pruning order, without repetition.
    gamma_only
        Whether norms keep their bias (only their weight is zeroed).
    original_sha256, repaired_sha256
        `state_sha256` before and after.
    created_by
        Software and version that wrote the recipe.

    Raises
    ------
    RecipeError
        A unit is repeated or in none of the layers, or a layer has no unit.
    """

    method: str
    architecture: str
    layers: tuple[UnitLayer, ...]
    units: tuple[ScoredUnit, ...]
    gamma_only: bool
    original_sha256: str
    repaired_sha256: str
    created_by: str = f"secateur {__version__}"

    def __post_init__(self) -> None:
        seen: set[Unit] = set()
        for scored in self.units:
            if scored.unit in seen:
                raise RecipeError(f"recipe: unit {scored.unit.index} of {scored.unit.layer} is listed twice")
            seen.add(scored.unit)
        try:
            used = {layer.name for layer, _ in group_units(self.layers, seen)}
        except ValueError as error:
            raise RecipeError(f"recipe: {error}") from None
        idle = [layer.name for layer in self.layers if layer.name not in used]
        if idle:
            raise RecipeError(f"recipe: no unit of the layer {idle[0]!r} is pruned")

    @classmethod
    def record(
        cls,
        state: Mapping[str, Tensor],
        layers: Sequence[UnitLayer],
        units: Sequence[ScoredUnit],
        *,
        method: str,
        architecture: str,
        gamma_only: bool,
    ) -> Self:
        """Write down the pruning of `units` (in pruning order) from the original `state`.

        Parameters
        ----------
        state
            The original network's whole state dict.
        layers
            The discovered layers; those without a pruned unit are left out of the recipe.
        units, method, architecture, gamma_only
            As in `Recipe`.

        Raises
        ------
        RecipeError
            A unit is repeated or unknown, or a layer does not fit the state.
        """
        used = {scored.unit.layer for scored in units}
        unknown = used - {layer.name for layer in layers}
        if unknown:
            raise RecipeError(f"recipe: no layer is named {min(unknown)!r}")
        kept = tuple(layer for layer in layers if layer.name in used)
        return cls(
            method=method,
            architecture=architecture,
            layers=kept,
            units=tuple(units),
            gamma_only=gamma_only,
            original_sha256=state_sha256(state),
            repaired_sha256=state_sha256(_zeroed(state, kept, units, gamma_only)),
        )

    def apply(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the repaired state: a copy where units are pruned, the same tensors elsewhere.

        Parameters
        ----------
        state
            The original network's whole state dict; never changed.

        Raises
        ------
        RecipeError
            The recipe belongs to other weights, or does not lead to the weights that it promises.
        """
        found = state_sha256(state)
        if found != self.original_sha256:
            raise RecipeError(
                f"the recipe belongs to other weights: it was made for sha256 {self.original_sha256[:12]}…, "
                f"and these have {found[:12]}…; give it the checkpoint that was repaired"
            )
        repaired = _zeroed(state, self.layers, self.units, self.gamma_only)
        found = state_sha256(repaired)
        if found != self.repaired_sha256:
            raise RecipeError(
                f"the recipe leads to weights with sha256 {found[:12]}…, not {self.repaired_sha256[:12]}… "
                "as it says; it was changed after it was written"
            )
        return repaired

    def to_json(self) -> str:
        """Return the recipe as JSON text, as ``recipe.schema.json`` describes it."""
        document = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "created_by": self.created_by,
            "method": self.method,
            "architecture": self.architecture,
            "gamma_only": self.gamma_only,
            "original_sha256": self.original_sha256,
            "repaired_sha256": self.repaired_sha256,
            "layers": [asdict(layer) for layer in self.layers],
            "units": [
                {"layer": scored.unit.layer, "index": scored.unit.index, "score": scored.score}
                for scored in self.units
            ],
        }
        return json.dumps(document, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a recipe from JSON text that may come from anyone.

        Raises
        ------
        RecipeError
            The text is no recipe; the message names the value at fault.
        """
        fields = Fields("recipe", _parse(text))
        fields.literal("format", FORMAT)
        fields.literal("version", FORMAT_VERSION)
        try:
            recipe = cls(
                created_by=fields.text("created_by"),
                method=fields.text("method"),
                architecture=fields.text("architecture"),
                gamma_only=fields.boolean("gamma_only"),
                original_sha256=fields.sha256("original_sha256"),
                repaired_sha256=fields.sha256("repaired_sha256"),
                layers=tuple(_layer(item) for item in fields.items("layers")),
                units=tuple(_unit(item) for item in fields.items("units")),
            )
        except ValueError as error:
            raise RecipeError(f"recipe: {error}") from None
        fields.finish()
        return recipe


def _zeroed(
    state: Mapping[str, Tensor], layers: Sequence[UnitLayer], units: Sequence[ScoredUnit], gamma_only: bool
) -> dict[str, Tensor]:
    repaired = dict(state)
    try:
        for layer, indices in group_units(layers, [scored.unit for scored in units]):
            for slices in layer.slices(shift=not gamma_only):
                if slices.parameter not in repaired:
                    raise RecipeError(f"recipe: the weights have no tensor named {slices.parameter}")
                repaired[slices.parameter] = repaired[slices.parameter].detach().clone()
                zero_slices(repaired[slices.parameter], slices, layer.count, indices)
    except ValueError as error:
        raise RecipeError(f"recipe: {error}") from None
    return repaired


def _layer(fields: Fields) -> UnitLayer:
    kind = fields.choice("kind", KINDS)
    layer = UnitLayer(
        name=fields.text("name", empty=True),
        kind=kind,  # type: ignore[arg-type]
        count=fields.integer("count", minimum=1),
        scale=tuple(_slices(item) for item in fields.items("scale")),
        shift=tuple(_slices(item) for item in fields.items("shift")),
    )
    fields.finish()
    return layer


def _slices(fields: Fields) -> Slices:
    slices = Slices(
        fields.text("parameter"), fields.integer("axis", maximum=7), fields.integer("block", minimum=1)
    )
    fields.finish()
    return slices


def _unit(fields: Fields) -> ScoredUnit:
    scored = ScoredUnit(
        Unit(fields.text("layer", empty=True), fields.integer("index")), fields.number("score")
    )
    fields.finish()
    return scored


def _parse(text: str) -> object:
    if len(text) > MAX_CHARACTERS:
        raise RecipeError(f"recipe: {len(text)} characters are more than any recipe needs")
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise RecipeError("recipe: nested too deeply") from None
    except ValueError as error:
        raise RecipeError(f"recipe: not JSON ({error})") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("an object has the same key twice")
    return document


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")
