"""TensorBoard logs, on request."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secateur.errors import InputError, MissingExtraError
from secateur.progress import Log


@contextmanager
def tensorboard(folder: Path | None) -> Iterator[Log | None]:
    """Yield a writer for TensorBoard, None if no folder is given.

    Raises
    ------
    MissingExtraError
        TensorBoard is not installed.
    InputError
        The folder is a file.
    """
    if folder is None:
        yield None
        return
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is no folder; --tensorboard writes several files into one")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError(
            "--tensorboard needs TensorBoard: pip install secateur[tensorboard]"
        ) from error
    with SummaryWriter(str(folder)) as writer:
        yield writer
