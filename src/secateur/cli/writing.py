"""Outputs that appear all together or not at all."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def check_folder(folder: Path, names: Sequence[str], *, force: bool) -> None:
    """Find out before the work whether its outputs can be written to `folder`.

    Raises
    ------
    InputError
        The folder is a file, or holds one of `names` already and `force` is not given.
    OSError
        Nothing can be written there.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give --out a folder")
    existing = [name for name in names if (folder / name).exists()]
    if existing and not force:
        raise InputError(
            f"{folder}: already holds {', '.join(existing)}; give another --out, or --force to replace them"
        )
    _try_out(folder)


def check_file(path: Path, *, force: bool, option: str = "--out") -> None:
    """Find out before the work whether `path`, the value of an option, can be written.

    Raises
    ------
    InputError
        It is a folder, or exists and `force` is not given.
    OSError
        Nothing can be written there.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give {option} the name of a file")
    if path.exists() and not force:
        raise InputError(f"{path}: exists; give another {option}, or --force to replace it")
    _try_out(path.parent, option)


def _try_out(folder: Path, option: str = "--out") -> None:
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir():
        raise InputError(f"{nearest}: is a file, so nothing can be written below it; give another {option}")
    _make_staging(nearest).rmdir()


@contextmanager
def published(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield an empty folder whose files are moved to `folder` if the block succeeds.

    A new `folder` appears complete in one step. In one that exists, files called `names` are replaced, or
    removed if the block wrote none; other files stay. When anything fails, an interrupt included, everything
    is as it was.

    Parameters
    ----------
    folder
        Created together with its parents if need be.
    names
        Every file that the block may write.
    """
    exists = folder.is_dir()
    if not exists:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    # Inside a folder that exists, which may be the only place on its disk that we may write to.
    staging = _make_staging(folder if exists else folder.absolute().parent)
    try:
        yield staging
        if exists:
            _replace(staging, folder, names)
        else:
            staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _make_staging(parent: Path) -> Path:
    staging = parent / f".secateur-{secrets.token_hex(6)}"
    try:
        staging.mkdir()
    except OSError as error:
        # The folder's name says more than that of a temporary one in it.
        raise OSError(error.errno, error.strerror, str(parent)) from None
    return staging


def _replace(staging: Path, folder: Path, names: Sequence[str]) -> None:
    new = sorted(path.name for path in staging.iterdir())
    previous = staging / "previous"
    previous.mkdir()
    try:
        for name in names:
            with suppress(FileNotFoundError):
                (folder / name).rename(previous / name)
        for name in new:
            (staging / name).rename(folder / name)
    except BaseException:
        for name in new:
            if not (staging / name).exists():
                (folder / name).unlink(missing_ok=True)
        for kept in previous.iterdir():
            kept.replace(folder / kept.name)
        raise


def save_weights(path: Path, state: "Mapping[str, Tensor]") -> None:
    """Write tensors to a safetensors file, atomically; equal tensors give equal files.

    Raises
    ------
    OSError
        The disk is full or the path cannot be written; safetensors' own error does not say so.
    """
    from safetensors import SafetensorError

    from secateur.models import write_weights

    try:
        # No more metadata: the order of several entries in the header would change from run to run.
        write_weights(path, state, {"format": "pt"})
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        code = int(found[1])
        raise OSError(code, os.strerror(code), str(path)) from error
