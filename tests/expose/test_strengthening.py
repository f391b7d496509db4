"""Patches that are made stronger, on networks whose backdoor is known."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from planted import CLEAN, SIZE, TARGET, Planted, Rotated, corner
from secateur.data import Trigger
from secateur.errors import MethodError
from secateur.expose import Found, InvertedTrigger, LatentTrigger, Strengthening, success_of

AREA = 4


def patch(row: int, column: int, colour: float = 1.0, label: int | None = TARGET) -> InvertedTrigger:
    keep, add = torch.ones(1, SIZE, SIZE), torch.zeros(1, SIZE, SIZE)
    keep[0, row, column], add[0, row, column] = 0.0, colour
    return InvertedTrigger(label, Trigger(keep, add), 1.0, 1.0, True)


def strengthened(
    *triggers: Found, network: torch.nn.Module | None = None, largest: float = 9.0, **settings: Any
) -> list[Found]:
    return Strengthening(**settings)(
        (network or Planted()).eval(),
        triggers,
        CLEAN,
        largest=largest,
        generator=torch.Generator().manual_seed(0),
    )


def test_a_patch_is_grown_and_does_all_it_can() -> None:
    # The pixel that two units wait for is bright enough for them, and no more.
    weak = patch(0, SIZE - 1, colour=0.15)
    (strong,) = strengthened(weak)
    assert isinstance(strong, InvertedTrigger)
    keep, add = strong.trigger.keep[0], strong.trigger.add[0]
    assert (keep == 0).nonzero().tolist() == [[0, 6], [0, 7], [1, 6], [1, 7]]
    assert (keep == 1).sum() == SIZE**2 - AREA
    assert (strong.norm, strong.form, strong.label) == (AREA, "patch", TARGET)
    assert add[0, 7] > 0.9, add
    # Of its neighbours two are of the row of another class, and no unit looks at the third.
    assert max(add[1, 6], add[1, 7]) < 0.1, add
    assert add[0, 6] == 0.5
    assert strong.success == 1
    assert success_of(Planted(), strong.trigger, TARGET, CLEAN.choose, CLEAN.convention) == 1


def test_a_grown_patch_may_be_no_larger_than_one_for_another_label() -> None:
    middle = patch(3, 3)
    assert [one.norm for one in strengthened(middle, corner(), largest=9)] == [9, AREA]
    assert [one.norm for one in strengthened(middle, corner(), largest=8)] == [AREA]
    assert strengthened(middle, largest=8) == []
    assert [one.norm for one in strengthened(middle, largest=1, grown=0.0)] == [1]
    # Two pixels to each side, and three rows of five.
    assert [one.norm for one in strengthened(corner(), grown=0.25)] == [9]


def test_faint_pixels_of_a_mask_do_not_count() -> None:
    faint = patch(3, 3)
    faint.trigger.keep[0, 0], faint.trigger.keep[0, 3, 3] = 0.8, 0.5
    assert [one.norm for one in strengthened(faint)] == [9]


def test_the_first_patches_are_strengthened_and_no_others() -> None:
    shift = LatentTrigger(TARGET, {}, 1.0, 1.0, converged=True)
    additive = replace(corner(), form="additive")
    triggers = [shift, additive, corner(), patch(3, 3), patch(0, 0)]
    assert [one.norm for one in strengthened(*triggers, count=2)] == [AREA, 9]
    assert strengthened(shift, additive) == []


def test_patches_do_not_influence_each_other() -> None:
    (alone,), (together, _) = strengthened(corner()), strengthened(corner(), patch(3, 3))
    assert isinstance(alone, InvertedTrigger)
    assert isinstance(together, InvertedTrigger)
    assert torch.allclose(alone.trigger.add, together.trigger.add, atol=1e-6)


def test_a_patch_without_a_label_changes_more_answers() -> None:
    weak = patch(0, 0, colour=0.4, label=None)
    (strong,) = strengthened(weak, network=Rotated())
    before = success_of(Rotated().eval(), weak.trigger, None, CLEAN.choose, CLEAN.convention)
    assert before < 0.5
    assert strong.success == 1
    assert strong.label is None


@pytest.mark.parametrize(
    "settings",
    [{"count": 0}, {"steps": 0}, {"batch_size": 0}, {"grown": 1.0}, {"grown": -0.1}, {"rate": 0.0}],
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match="strengthening needs"):
        Strengthening(**settings)
