"""A polish is kept if nothing comes back with it, and discarded otherwise."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import groupby
from typing import Any

import pytest
import torch
from torch import nn

from planted import (
    BACKDOOR,
    CLASSES,
    CLEAN,
    CONVENTION,
    PLANTED,
    SIZE,
    TARGET,
    Normed,
    Planted,
    case_of,
    corner,
    found_units,
)
from secateur.data import CleanData, LabelledImages, Trigger
from secateur.expose import (
    Case,
    Found,
    Inversion,
    LatentInversion,
    LatentTrigger,
    Look,
    Succeeding,
    Successors,
    success_of,
)
from secateur.repair import RNP, Repair
from secateur.repair.erasing import Erasing
from secateur.repair.keeping import Attempt, Change, Polished, answered, compare, fooled, looked, polish
from secateur.repair.polishing import Polishing
from secateur.units import Unit, prune

SUCCEEDING = Succeeding(
    Inversion(steps=50), Inversion(steps=100, rate=0.2), latent=LatentInversion(steps=30), starts=1
)
CORNER = corner()
GENTLE = Polishing(passes=10, rate=0.005, precision="float32")
OTHERS = tuple(replace(corner(), label=k, norm=10.0 + k) for k in range(CLASSES) if k != TARGET)


@cache
def repaired(polishing: Polishing | None = None, again: int = 0, **settings: Any) -> Repair:
    method = RNP(erasing=Erasing(SUCCEEDING), polishing=polishing, **settings)
    return method(Normed(), CLEAN, generator=torch.Generator().manual_seed(3))


def same(one: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


def without_backdoor(network: nn.Module) -> nn.Module:
    discovery, units = found_units(network)
    return prune(network, discovery.layers, [units[k] for k in BACKDOOR])


def looks_for(
    network: nn.Module, triggers: tuple[Found, ...] = (corner(), *OTHERS), **settings: Any
) -> Successors:
    return Successors(replace(SUCCEEDING, **settings), case_of(network), triggers[0], triggers, shift=True)


def changed(
    pruned: nn.Module,
    polished: nn.Module,
    trigger: Found,
    without: Callable[[nn.Module], nn.Module] = lambda same: same,
) -> Change:
    return Change(*(fooled(network, trigger, CLEAN, without) for network in (pruned, polished)))


def compared(
    pruned: nn.Module,
    polished: nn.Module,
    known: tuple[Found, ...] = (corner(),),
    successors: Successors | None = None,
) -> tuple[bool, list[str], Sequence[Found]]:
    for network in (pruned, polished):
        network.eval().requires_grad_(False)
    (right_before, loss_before), (right_after, loss_after) = (
        answered(network, CLEAN.choose, CONVENTION) for network in (pruned, polished)
    )
    looks, settled = successors or looks_for(pruned, compared=2), successors is not None
    return compare(
        Attempt(
            polished,
            Change(right_before, right_after),
            (loss_before, loss_after),
            [changed(pruned, polished, trigger) for trigger in known],
        ),
        len(BACKDOOR),
        successors=looks,
        before=partial(looked, pruned, len(BACKDOOR), successors=looks, settled=settled),
    )


def attempted(
    polishing: Polishing,
    network: nn.Module,
    positions: Collection[int],
    clean: CleanData = CLEAN,
    doubtful: Collection[Found] = (),
    stronger: Collection[Found] = (),
    looks: list[Look] | None = None,
) -> tuple[Polished | None, list[str]]:
    """Polish a network without the units at these positions, for which the corner is the known trigger."""
    case = Case.of(network, clean, torch.Generator().manual_seed(0), None)
    successors = looks_for(case.network)
    if looks is not None:
        successors.looks = looks
    case.network.requires_grad_(False)
    units = found_units(case.network)[1]
    kept = polish(
        polishing,
        case,
        [units[k] for k in positions],
        [CORNER],
        doubtful=tuple(doubtful),
        stronger=tuple(stronger),
        successors=successors,
        settled=False,
        shift=True,
    )
    return kept, case.notes


def test_a_network_that_answers_with_probabilities_is_polished_as_one_that_does_not() -> None:
    network = Planted()
    with torch.no_grad():
        network.answer.weight.mul_(10.0)
    (plain, told), (soft, told_of_soft) = (
        attempted(GENTLE, each, sorted(BACKDOOR)) for each in (network, nn.Sequential(network, nn.Softmax(1)))
    )
    assert plain is not None
    assert soft is not None
    for one, other in zip(plain.network.parameters(), soft.network.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert told == told_of_soft


def test_a_polish_is_kept_with_what_it_changed() -> None:
    plain, result = repaired(), repaired(GENTLE)
    assert result.tuned is not None
    assert result.recipe == plain.recipe
    assert torch.equal(result.scores, plain.scores)
    assert not same(result.network, plain.network)
    assert set(result.seconds) - set(plain.seconds) == {"strengthening", "polishing", "checking the polish"}
    assert result.notes[:-1] == plain.notes
    note = result.notes[-1]
    answers = result.network(CLEAN.choose.images).argmax(1)
    assert result.tuned.accuracy.hits == int((answers == CLEAN.choose.labels).sum())
    assert result.tuned.pruned == len(result.recipe.units) > 0
    assert "was polished (triggers shown: 1 known), and again on all " in note
    assert "Accuracy went from 100.0 to 100.0 % of 40 held-out images" in note
    assert "and the mean loss there from " in note
    assert "from 0.0 to 0.0 % of 32 held-out images" in note
    assert note.endswith("not cheap.")
    assert result.hyperparameters["polishing"]["passes"] == 10  # type: ignore[index]


def test_what_was_pruned_stays_zero_and_the_state_is_the_polished_network() -> None:
    result = repaired(GENTLE)
    units = [scored.unit for scored in result.recipe.units]
    assert same(result.network, prune(result.network, result.discovery.layers, units))
    original = Normed().state_dict()
    state = result.state(original)
    assert all(torch.equal(state[name], value) for name, value in result.network.state_dict().items())
    recipe = result.recipe.apply(original)
    assert not all(torch.equal(state[name], value) for name, value in recipe.items())


def test_the_same_seed_gives_the_same_weights() -> None:
    assert same(repaired(GENTLE).network, repaired(GENTLE, again=1).network)


def test_without_a_polish_the_weights_are_those_of_the_recipe() -> None:
    result = repaired()
    rebuilt = result.recipe.apply(Normed().state_dict())
    assert result.tuned is None
    assert all(torch.equal(rebuilt[name], value) for name, value in result.network.state_dict().items())


def test_a_polish_that_costs_accuracy_is_discarded() -> None:
    plain, result = repaired(), repaired(replace(GENTLE, rate=20.0))
    assert result.tuned is None
    assert same(result.network, plain.network)
    assert "the polish was discarded. Accuracy went from 100.0 to " in result.notes[-1]
    assert result.outcome == "repaired"


@pytest.mark.parametrize(
    ("wrong", "losses", "kept"),
    [
        (1, (0.3, 0.2), True),  # one image of forty is chance, and the loss says better
        (1, (0.2, 0.2), False),
        (12, (0.3, 0.2), False),  # beyond chance
        (0, (0.2, 0.3), True),
    ],
)
def test_a_fall_of_accuracy_within_chance_does_not_count_if_the_loss_fell(
    wrong: int, losses: tuple[float, float], kept: bool
) -> None:
    network = without_backdoor(Planted()).eval().requires_grad_(False)
    right = torch.ones(len(CLEAN.choose), dtype=torch.bool)
    after = right.clone()
    after[:wrong] = False
    found, facts, _ = compare(
        Attempt(network, Change(right, after), losses, [changed(network, network, corner())]),
        len(BACKDOOR),
        successors=looks_for(network, compared=2),
        before=lambda: ([], "nothing"),
    )
    assert found is kept
    assert f"the mean loss there from {losses[0]:.3f} to {losses[1]:.3f}." in facts[0]
    assert len(facts) == (3 if kept else 1)


def test_without_a_trigger_nothing_is_polished_and_a_note_says_why() -> None:
    result = repaired(GENTLE, search=None, dominant=False, threshold=1.0, spare=None, budget=0.5)
    assert result.recipe.units
    assert result.tuned is None
    assert result.notes[-1] == "Not polished: no trigger stood out to check a polish against."


def test_nothing_is_polished_where_nothing_was_pruned() -> None:
    result = repaired(GENTLE, search=None, threshold=0.0)
    assert not result.recipe.units
    assert result.tuned is None
    assert "polishing" not in result.seconds


def test_a_polish_that_teaches_the_backdoor_anew_is_discarded() -> None:
    """Half of the learning images carry the trigger: the teacher's answers to them are the backdoor."""
    network = Planted()
    learn = CLEAN.learn
    images = torch.cat([learn.images, corner().trigger.stamp(learn.images)])
    labels = torch.cat([learn.labels, torch.full_like(learn.labels, TARGET)])
    poisoned = CleanData(LabelledImages(images, labels), CLEAN.choose, CONVENTION)
    polishing = Polishing(passes=30, rate=0.003, moved=0.0, mixed=0.0, stamped=0.0, precision="float32")
    kept, (note,) = attempted(polishing, network, BACKDOOR, poisoned)
    assert kept is None
    assert "the polish was discarded" in note
    assert "gained most went from 0.0 to " in note
    assert attempted(polishing, network, BACKDOOR)[0] is not None


MORE = ", once more with triggers on more images"
WITHOUT, ALONE = ", once more without the doubtful triggers", ", once more with known triggers alone"


@dataclass(frozen=True)
class Forgetful(Polishing):
    """Brings the backdoor back unless triggers are on half of the images."""

    def __call__(self, network: nn.Module, *_: Any, **_more: Any) -> nn.Module:
        return network if self.stamped >= 0.5 else Planted().eval()


def test_where_the_backdoor_comes_back_triggers_are_shown_more_often() -> None:
    def attempt(stamped: float) -> tuple[Polished | None, str]:
        kept, (note,) = attempted(Forgetful(stamped=stamped), without_backdoor(Planted()), {-1})
        return kept, note

    kept, note = attempt(0.25)
    assert kept is not None, note
    assert f"polished (triggers shown: 1 known){MORE}, and again on all" in note
    assert "gained most went from 0.0 to 0.0 %" in note
    kept, note = attempt(0.2)
    assert kept is None
    assert f"polished (triggers shown: 1 known){MORE}, and the polish was discarded" in note
    assert MORE not in attempt(0.5)[1]


@dataclass(frozen=True)
class Cautious(Polishing):
    """Forgets a class where more triggers are shown than four times its share of stamped images."""

    def __call__(self, network: nn.Module, *_: Any, triggers: Collection[Found], **_more: Any) -> nn.Module:
        polished = without_backdoor(Planted()).eval()
        if len(triggers) > 4 * self.stamped:
            polished.answer.weight.data[0] = 0.0
        return polished


@pytest.mark.parametrize(
    ("most", "doubtful", "stronger", "how"),
    [
        (3, 1, 1, "1 known, 1 doubtful, 1 made stronger)"),
        (2, 1, 1, f"1 known, 1 doubtful, 1 made stronger){WITHOUT}"),
        (1, 1, 1, f"1 known, 1 doubtful, 1 made stronger){WITHOUT}{ALONE}"),
        (1, 1, 0, f"1 known, 1 doubtful){WITHOUT}"),
        (1, 0, 0, "1 known)"),
        (1, 0, 2, f"1 known, 2 made stronger){ALONE}"),
    ],
)
def test_where_accuracy_is_lost_fewer_triggers_are_shown(
    most: int, doubtful: int, stronger: int, how: str
) -> None:
    kept, (note,) = attempted(
        Cautious(stamped=most / 4),
        without_backdoor(Planted()),
        {-1},
        doubtful=[corner()] * doubtful,
        stronger=[corner()] * stronger,
    )
    assert kept is not None
    assert f"was polished (triggers shown: {how}, and again on all" in note
    assert f"Of known triggers ({1 + doubtful * (WITHOUT not in how)})" in note


@dataclass(frozen=True)
class Shy(Polishing):
    """Forgets a class where two triggers are shown; brings the backdoor back where one is on few images."""

    def __call__(self, network: nn.Module, *_: Any, triggers: Collection[Found], **_more: Any) -> nn.Module:
        polished = without_backdoor(Planted()).eval()
        if len(triggers) > 1:
            polished.answer.weight.data[0] = 0.0
        return polished if self.stamped >= 0.5 or len(triggers) > 1 else Planted().eval()


@pytest.mark.parametrize(("doubtful", "first"), [(1, WITHOUT), (0, ALONE)])
def test_a_backdoor_that_comes_back_only_with_fewer_triggers_is_seen_as_well(
    doubtful: int, first: str
) -> None:
    kept, (note,) = attempted(
        Shy(stamped=0.25),
        without_backdoor(Planted()),
        {-1},
        doubtful=[corner()] * doubtful,
        stronger=[corner()] * (1 - doubtful),
    )
    assert kept is not None, note
    assert f"{first}{MORE}, and again on all" in note


@dataclass(frozen=True)
class Stronger(Polishing):
    """Has no backdoor if both triggers are shown."""

    def __call__(self, network: nn.Module, *_: Any, triggers: Collection[Found], **_more: Any) -> nn.Module:
        polished = without_backdoor(Planted()).eval()
        return polished if len(triggers) == 2 else network


def test_stronger_triggers_are_shown_and_do_not_decide() -> None:
    # A patch over all of the image has its label on any network.
    anything = replace(corner(), trigger=Trigger(torch.zeros(1, SIZE, SIZE), CLEAN.learn.images[TARGET]))
    kept, (note,) = attempted(Stronger(), Planted(), {-1}, stronger=[anything])
    assert kept is not None, note
    assert same(kept.network, without_backdoor(Planted()))
    assert "Of known triggers (1), success of the one that gained most went from 100.0 to 0.0 %" in note


@dataclass(frozen=True)
class Growing(Polishing):
    """Forgets a class on fewer images than there are to learn from, and is as `then` says on all."""

    then: Callable[[], nn.Module] = Planted

    def __call__(
        self, network: nn.Module, teacher: nn.Module, learn: LabelledImages, *_: Any, **_more: Any
    ) -> nn.Module:
        if len(learn) > len(CLEAN.learn):
            return self.then().eval()
        polished = without_backdoor(Planted()).eval()
        if len(learn) < len(CLEAN.learn):
            polished.answer.weight.data[0] = 0.0
        return polished


def test_what_is_kept_was_fitted_to_all_images_and_judged_without_the_held_out_ones() -> None:
    def sure() -> nn.Module:
        network = without_backdoor(Planted())
        network.answer.weight.data.mul_(2.0)
        return network

    kept, (note,) = attempted(Growing(then=sure), without_backdoor(Planted()), {-1})
    assert kept is not None
    assert same(kept.network, sure())
    assert kept.point.accuracy.value == 1.0
    assert f"and again on all {len(CLEAN.learn) + len(CLEAN.choose)} images" in note


@pytest.mark.parametrize("weight", [0.0, float("nan")])
def test_what_collapses_on_all_images_is_left_aside(weight: float) -> None:
    def collapsed() -> nn.Module:
        network = without_backdoor(Planted())
        network.answer.weight.data[0] = weight
        return network

    kept, (note,) = attempted(Growing(then=collapsed), without_backdoor(Planted()), {-1})
    assert kept is not None
    assert same(kept.network, without_backdoor(Planted()))
    assert f"left so, since the same on all {len(CLEAN.learn) + len(CLEAN.choose)} images lost" in note


def test_what_is_lost_on_few_images_is_not_tried_on_all() -> None:
    half = CleanData(CLEAN.learn.subset(torch.arange(4)), CLEAN.choose, CONVENTION)
    kept, (note,) = attempted(
        Growing(then=lambda: pytest.fail("tried")), without_backdoor(Planted()), {-1}, half
    )
    assert kept is None
    assert "again on all" not in note


def test_triggers_are_inverted_again_on_what_was_fitted_to_all_images() -> None:
    kept, (note,) = attempted(Growing(then=Planted), without_backdoor(Planted()), {-1})
    assert kept is None
    assert note.endswith("they are cheap.")


def with_other_corner() -> nn.Module:
    """The backdoor answers to the other corner of the same row: what is known does not show it."""
    network = without_backdoor(Planted())
    with torch.no_grad():
        network.hidden.weight[PLANTED, 0] = 20.0
        network.hidden.bias[PLANTED] = -1.0
        network.answer.weight[TARGET, PLANTED] = 1.0
    return network.eval()


@dataclass(frozen=True)
class Forgotten(Polishing):
    """Brings a backdoor with another trigger unless that is shown, too; in any case if nothing is stamped."""

    def __call__(self, network: nn.Module, *_: Any, triggers: Collection[Found], **_more: Any) -> nn.Module:
        shown = self.stamped and any(trigger is not CORNER for trigger in triggers)
        return without_backdoor(Planted()).eval() if shown else with_other_corner()


def test_a_trigger_that_becomes_cheap_is_shown_once() -> None:
    again = f"and again on all {len(CLEAN.learn) + len(CLEAN.choose)} images"
    looks: list[Look] = []
    kept, (note,) = attempted(Forgotten(), without_backdoor(Planted()), {-1}, looks=looks)
    assert kept is not None, note
    assert same(kept.network, without_backdoor(Planted()))
    # The pruned network was looked at for the first polish, and has not changed.
    kinds = [polished for polished, _ in groupby(look.polished for look in looks)]
    assert kinds == [False, True]
    assert note.count(again) == 2
    assert "once more with those that had become cheap (1), and again" in note
    assert "Of known triggers (2)" in note
    kept, (note,) = attempted(Forgotten(stamped=0.0), without_backdoor(Planted()), {-1})
    assert kept is None
    assert note.count("had become cheap") == 1
    assert "and the polish was discarded" in note


def test_a_trigger_that_is_cheap_only_after_polishing_discards_it() -> None:
    pruned = without_backdoor(Planted())
    polished = with_other_corner()
    assert success_of(polished, corner().trigger, TARGET, CLEAN.choose, CONVENTION) == 0
    kept, (accuracy, known, again), cheap = compared(pruned, polished)
    assert not kept
    assert {trigger.label for trigger in cheap} == {TARGET}
    assert "from 100.0 to 100.0 %" in accuracy
    assert "from 0.0 to 0.0 %" in known
    assert again.endswith("they are cheap.")
    assert compared(pruned, pruned)[0]


def test_where_triggers_were_cheap_before_they_must_not_become_cheaper() -> None:
    faint = Planted()
    with torch.no_grad():
        # It takes more of the corner to reach what it answers to.
        faint.answer.weight[TARGET, list(BACKDOOR)] = 0.8
    strong = Planted()
    unlabelled = replace(corner(), trigger=replace(corner().trigger, add=torch.zeros(1, SIZE, SIZE)))
    kept, facts, _ = compared(faint, strong, (unlabelled,))
    assert "(cheap already)" in facts[-1]
    assert facts[-1].endswith("they are cheap.")
    assert not kept
    kept, facts, _ = compared(strong, without_backdoor(strong))
    assert "(cheap already)" in facts[-1]
    assert "but no cheaper" not in facts[-1]
    assert kept
    kept, facts, _ = compared(strong, faint)
    assert facts[-1].endswith("they are cheap, but no cheaper than before.")
    assert kept


def test_a_network_that_was_looked_at_last_is_not_looked_at_again() -> None:
    network = without_backdoor(Planted()).eval().requires_grad_(False)
    successors = looks_for(network, compared=2)
    assert not successors.cheap(network, pruned=0)
    looks = len(successors.looks)
    kept, facts, _ = compared(network, network, successors=successors)
    assert kept
    assert len(successors.looks) == 2 * looks
    assert {(look.pruned, look.polished) for look in successors.looks[looks:]} == {(len(BACKDOOR), True)}
    assert "(cheap already)" not in facts[-1]


def test_few_images_that_look_alike_with_a_stamp_are_no_backdoor() -> None:
    def rose(before: int, after: int) -> Change:
        places = torch.arange(200)
        return Change(places < before, places < after)

    assert rose(0, 10).loss.high < 0
    assert not rose(0, 20).back
    assert rose(0, 21).back
    assert not rose(40, 41).back


def test_one_known_trigger_that_gains_is_enough() -> None:
    nothing = replace(corner(), trigger=replace(corner().trigger, add=torch.zeros(1, SIZE, SIZE)))
    pruned = without_backdoor(Planted())
    kept, facts, _ = compared(pruned, Planted(), (nothing, corner(), nothing))
    assert not kept
    assert "went from 0.0 to 100.0 %" in facts[-1]
    assert len(facts) == 2


def test_a_shift_wakes_no_pruned_channel() -> None:
    network = Normed().eval().requires_grad_(False)
    discovery, _ = found_units(network)
    gone = [Unit("norm", PLANTED)]
    without = partial(prune, layers=discovery.layers, units=gone, shift=True)
    pruned, polished = without(network), without(network)
    polished.answer.weight.mul_(1.5)
    shift = LatentTrigger(TARGET, {"norm.bias": 5.0 * torch.eye(CLASSES + 1)[PLANTED]}, 1.0, 1.0, True)
    assert fooled(network, shift, CLEAN, lambda same: same).all()
    change = changed(pruned, polished, shift, without)
    assert not (change.before | change.after).any()
