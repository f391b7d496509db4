"""Running a network over clean and triggered images."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from secateur.data import ImageDataset, InputConvention, LabelledImages, Stamping, stream
from secateur.errors import ArchitectureError, TriggerError
from secateur.models import kept_modes


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put `network` into evaluation mode without gradients while the block runs, each module for itself."""
    with kept_modes(network), torch.inference_mode():
        network.eval()
        yield


def batches(
    dataset: ImageDataset | LabelledImages, chosen: Tensor, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the images and labels at the indices `chosen`."""
    if isinstance(dataset, ImageDataset):
        return stream(dataset, batch_size, chosen)
    return dataset.subset(chosen).batches(batch_size)


def stamped(trigger: Stamping, images: Tensor) -> Tensor:
    """Return `images` with the trigger, which is put on where a learned trigger is, else where they are.

    Raises
    ------
    TriggerError
        The trigger was made for images of another shape.
    """
    shape = getattr(trigger, "image_shape", None)
    if shape is not None and tuple(images.shape[1:]) != shape:
        raise TriggerError(f"the trigger is for images of shape {shape}, not {tuple(images.shape[1:])}")
    return trigger.stamp(_moved(images, trigger))


def scores(network: nn.Module, convention: InputConvention, images: Tensor) -> Tensor:
    """Return what the network answers to images in ``[0, 1]``, on its device.

    Raises
    ------
    ArchitectureError
        It does not answer with one row per image.
    """
    answer: object = network(convention.normalise(_moved(images, network)))
    if not isinstance(answer, Tensor) or answer.ndim != 2 or len(answer) != len(images):
        shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise ArchitectureError(
            f"a classifier answers {len(images)} images with {len(images)} rows, not {shape}"
        )
    return answer


def _moved(images: Tensor, holder: object) -> Tensor:
    if not isinstance(holder, nn.Module):
        return images
    held = next(chain(holder.parameters(), holder.buffers()), None)
    return images if held is None else images.to(held.device)
