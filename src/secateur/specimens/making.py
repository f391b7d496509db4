"""From a recipe to a specimen: weights, trigger and card in one folder."""

import copy
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from secateur.attacks import Attack, Surrogate, attacks, read_any_trigger, write_any_trigger
from secateur.attacks.attack import as_float
from secateur.data import ImageDataset, InputConvention, LabelledImages, open_images
from secateur.errors import InputError
from secateur.evaluation import evaluate
from secateur.files import sha256, write_text
from secateur.models import LoadedModel, check_convention, load_model, resolve, write_weights
from secateur.progress import Log, Progress, Silent
from secateur.specimens.card import circumstances, judge, numbers, versions
from secateur.specimens.images import TrainingImages, read_images
from secateur.specimens.recipe import WEIGHTS, SpecimenRecipe
from secateur.specimens.training import Lesson, Share, train

TRIGGER, CARD = "trigger.safetensors", "card.json"
UNFINISHED = ".unfinished"
POISON, STATE = "poison.safetensors", "training.safetensors"
USUAL_EDGE = 32
CHECKED = 500
"""Training images on which a clean network must do better than chance."""


@dataclass(frozen=True)
class Data:
    """The images of a specimen, opened once for all that share them."""

    train: TrainingImages
    test: ImageDataset


def open_data(recipe: SpecimenRecipe, progress: Progress | None = None) -> Data:
    """Open the images at the size that the recipe says, 32 pixels and colour by default."""
    size, channels = recipe.size or (USUAL_EDGE, USUAL_EDGE), recipe.channels or 3
    train, test = (
        open_images(recipe.data, split=split, root=recipe.root, size=size, channels=channels)
        for split in ("train", "test")
    )
    return Data(read_images(train, progress or Silent()), test)


def make_specimen(
    recipe: SpecimenRecipe,
    folder: Path,
    *,
    data: Data | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    log: Log | None = None,
) -> dict[str, Any]:
    """Train a specimen, or go on with one that was interrupted, and return its card.

    Parameters
    ----------
    folder
        Gets the weights, the trigger and the card. What is needed to go on after a kill is kept in its
        subfolder ``.unfinished``, which is removed at the end.
    data
        What `open_data` returned; opened here by default.
    device
        Where the network is trained.
    progress, log
        Told about every stage; takes figures of every epoch.

    Raises
    ------
    InputError
        Something in the recipe cannot be used, or the folder holds the unfinished training of another one.
    """
    progress = progress or Silent()
    began = time.perf_counter()
    share = Share()
    attack = recipe.create_attack()
    data = data or open_data(recipe, progress)
    digest = recipe.digest(data.train.digest)
    work = folder / UNFINISHED
    _claim(work, digest)
    network, convention = _network(recipe, data.train)
    surrogate = _clean_network(recipe, network, convention, data.train)
    if attack is not None and attack.needs_surrogate and surrogate is None:
        raise InputError(f"{recipe.attack} needs a clean network, to start from (--from) or as --surrogate")
    clean_accuracy = None
    if surrogate is not None:
        surrogate.network.to(device)
        clean = evaluate(surrogate.network, data.test, surrogate.convention, progress=progress)
        clean_accuracy = clean.acc.value
    lesson = _prepared(recipe, attack, data.train, surrogate, work)
    train(
        network,
        convention,
        lesson,
        recipe.training,
        seed=recipe.seed,
        device=device,
        state=work / STATE,
        progress=progress,
        log=log,
    )
    seconds = time.perf_counter() - began
    target = None if attack is None else attack.goal.wanted(data.train.classes).tolist()
    measured = evaluate(
        network, data.test, convention, trigger=lesson.trigger, target=target, progress=progress
    )
    card: dict[str, Any] = {
        "verdict": judge(measured, clean_accuracy),
        "remark": recipe.remark,
        "digest": digest,
        "recipe": recipe.describe(),
        "attack": None if attack is None else _published(recipe.attack),
        "data": {
            "name": Path(recipe.data).name,
            "train": len(data.train.labels),
            "test": len(data.test),
            "classes": data.train.classes,
            "sha256": data.train.digest,
            "poisoned": lesson.poisoned,
        },
        "start": _fingerprint(recipe.start),
        "surrogate": _fingerprint(recipe.surrogate),
        "convention": convention.describe(),
        "clean_accuracy": clean_accuracy,
        "measured": numbers(measured),
        "versions": versions(),
        "trained_on": circumstances(recipe.training, device, seconds),
    }
    if share.rank == 0:
        for stale in (CARD, TRIGGER):
            (folder / stale).unlink(missing_ok=True)
        card["sha256"] = _write(folder, network, recipe.attack, lesson)
        write_text(folder / CARD, json.dumps(card, indent=1) + "\n")
        shutil.rmtree(work)
    # Other specimens of a list may start from this one.
    share.wait()
    # As whoever reads the file will see it.
    return dict(json.loads(json.dumps(card)))


def finished(folder: Path, digest: str) -> dict[str, Any] | None:
    """Return the card of the specimen in `folder` if it is the one that `digest` stands for, and whole."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if card["digest"] != digest or any(
            sha256(folder / Path(name).name) != expected for name, expected in card["sha256"].items()
        ):
            return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    return dict(card)


def _write(folder: Path, network: nn.Module, name: str, lesson: Lesson) -> dict[str, str]:
    """Write weights and trigger; return the SHA-256 of each file."""
    write_weights(folder / WEIGHTS, network.state_dict(), {"format": "pt"})
    files = [WEIGHTS]
    if lesson.attack is not None and lesson.trigger is not None:
        shape = tuple(lesson.images.shape[1:])
        write_any_trigger(folder / TRIGGER, name, lesson.attack, lesson.trigger, shape)
        files.append(TRIGGER)
    return {file: sha256(folder / file) for file in files}


def _claim(work: Path, digest: str) -> None:
    """Make the folder of what is needed to go on, for this recipe alone."""
    mark = work / "digest"
    if mark.is_file() and mark.read_text(encoding="utf-8") != digest:
        raise InputError(
            f"{work}: holds the unfinished training of another recipe; remove it, or choose another folder"
        )
    work.mkdir(parents=True, exist_ok=True)
    write_text(mark, digest)


def _network(recipe: SpecimenRecipe, images: TrainingImages) -> tuple[nn.Module, InputConvention]:
    """Return the network to train and how it is fed."""
    if recipe.start is not None:
        mean, std = _written_beside(recipe.start)
        started = _load(recipe, recipe.start, images, recipe.mean or mean, recipe.std or std)
        return started.network, started.convention
    _, channels, height, width = images.images.shape
    mean, std = images.statistics()
    convention = InputConvention((height, width), channels, recipe.mean or mean, recipe.std or std)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        network = resolve(recipe.model).build(num_classes=images.classes, channels=channels, size=height)
    return network, convention


def _load(
    recipe: SpecimenRecipe,
    checkpoint: Path,
    images: TrainingImages,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> LoadedModel:
    """Load a clean network and make sure that it knows these images."""
    _, channels, height, width = images.images.shape
    model = load_model(
        checkpoint,
        recipe.model,
        num_classes=images.classes,
        size=(height, width),
        channels=channels,
        mean=mean,
        std=std,
    )
    some = slice(None, None, max(1, len(images.labels) // CHECKED))
    check_convention(model, LabelledImages(as_float(images.images[some]), images.labels[some]))
    return model


def _written_beside(
    checkpoint: Path,
) -> tuple[tuple[float, ...], tuple[float, ...]] | tuple[None, None]:
    """Return mean and deviation that the card beside a checkpoint tells, if it is a specimen's."""
    if checkpoint.name != WEIGHTS:
        return None, None
    try:
        card = json.loads((checkpoint.parent / CARD).read_text(encoding="utf-8"))
        mean, std = (tuple(float(value) for value in card["convention"][key]) for key in ("mean", "std"))
    except (OSError, ValueError, LookupError, TypeError):
        return None, None
    return mean, std


def _clean_network(
    recipe: SpecimenRecipe, network: nn.Module, convention: InputConvention, images: TrainingImages
) -> Surrogate | None:
    """Return the attacker's clean network: the surrogate, or what training starts from."""
    if recipe.surrogate is not None:
        mean, std = _written_beside(recipe.surrogate)
        model = _load(recipe, recipe.surrogate, images, mean or convention.mean, std or convention.std)
        return Surrogate(model.network, model.convention)
    return None if recipe.start is None else Surrogate(copy.deepcopy(network).eval(), convention)


def _prepared(
    recipe: SpecimenRecipe,
    attack: Attack | None,
    data: TrainingImages,
    surrogate: Surrogate | None,
    work: Path,
) -> Lesson:
    """Return what to train on; trigger and poison are made once and read again after a kill."""
    if attack is None:
        return Lesson(data.images, data.labels, data.classes)
    trigger_file, poison_file = work / TRIGGER, work / POISON
    if Share().rank == 0 and not poison_file.is_file():
        generator = torch.Generator().manual_seed(recipe.seed)
        trigger = attack.trigger(data.images, data.labels, generator, surrogate=surrogate)
        write_any_trigger(trigger_file, recipe.attack, attack, trigger, tuple(data.images.shape[1:]))
        chosen = torch.empty(0, dtype=torch.int64)
        images, labels = data.images[chosen], data.labels[chosen]
        if not attack.online:
            poisoned = attack.poison(
                data.images,
                data.labels,
                generator,
                trigger=trigger,
                surrogate=surrogate,
                classes=data.classes,
            )
            chosen = torch.cat([poisoned.poisoned, poisoned.covers])
            images, labels = poisoned.images[chosen], poisoned.labels[chosen]
        write_weights(poison_file, {"chosen": chosen, "images": images, "labels": labels}, {"format": "pt"})
    Share().wait()
    changes = load_file(poison_file)
    images = data.images.index_copy(0, changes["chosen"], changes["images"])
    labels = data.labels.index_copy(0, changes["chosen"], changes["labels"])
    count = None if attack.online else len(changes["chosen"])
    return Lesson(images, labels, data.classes, attack, read_any_trigger(trigger_file), count)


def _published(name: str) -> dict[str, Any]:
    entry = attacks()[name]
    return {"name": name, "title": entry.title, "paper": entry.paper, "year": entry.year}


def _fingerprint(checkpoint: Path | None) -> dict[str, str] | None:
    return None if checkpoint is None else {"file": checkpoint.name, "sha256": sha256(checkpoint)}
