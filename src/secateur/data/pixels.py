"""One image of any kind becomes a ``(C, H, W)`` tensor of a given size."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from secateur.errors import DataError

Picture = Image.Image | NDArray[Any] | Tensor

MAX_PIXELS = 64 << 20
# Only plain raster formats: some others that Pillow knows start an external program.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
LUMA = (0.299, 0.587, 0.114)
ROUNDING = 1e-3


def decode(data: bytes) -> Image.Image:
    """Decode the bytes of an image file.

    Raises
    ------
    DataError
        Not an image of a known format, truncated, or larger than 64 megapixels (found before decoding).
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if math.prod(image.size) > MAX_PIXELS:
            raise DataError(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS}")
        image.load()
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise DataError(f"not a readable image ({error})") from error
    return image


def decode_file(path: Path) -> Image.Image:
    """Decode an image file.

    Raises
    ------
    DataError
        It cannot be read, or `decode` refuses.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from error
    return decode(data)


def to_tensor(picture: object, *, size: tuple[int, int], channels: int) -> Tensor:
    """Turn a picture into pixels in ``[0, 1]``.

    Grey becomes RGB by repetition; RGB becomes grey by the ITU-R BT.601 weights. A transparency channel of an
    image file is dropped and a recorded orientation ignored, as loaders of training data do. A square picture
    is resized directly; any other is resized until it covers `size` and cropped around its centre. Resizing
    is bilinear with antialiasing, and happens only where the size differs.

    Parameters
    ----------
    picture
        A PIL image; an array ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)``; or a tensor
        ``(H, W)``, ``(C, H, W)`` or ``(H, W, C)``. Values are uint8, uint16, bool,
        or floating-point in ``[0, 1]``.
    size
        Height and width of the result.
    channels
        Of the result.

    Returns
    -------
    Tensor
        ``(channels, *size)``, float32 in ``[0, 1]``.

    Raises
    ------
    DataError
        The type, number of channels or range of values is not one of those, or the picture is so narrow
        that it would exceed 64 megapixels before it is cropped.
    """
    if isinstance(picture, Image.Image):
        pixels = _planes(torch.from_numpy(_from_pil(picture)), first=False)
    elif isinstance(picture, np.ndarray):
        pixels = _planes(_from_array(picture), first=False)
    elif isinstance(picture, Tensor):
        pixels = _planes(picture.detach().cpu(), first=True)
    else:
        raise DataError(f"a picture is a PIL image, an array or a tensor, not {type(picture).__name__}")
    return _resized(_with_channels(_scaled(pixels), channels), size).contiguous()


def _from_pil(image: Image.Image) -> NDArray[Any]:
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.size and not (values.min() >= 0 and values.max() <= 65535):
            raise DataError(
                "32-bit integer pixels exceed 16 bits: save the image with 8 or 16 bits per channel"
            )
        return values.astype(np.uint16)
    if image.mode == "F":
        return np.array(image)
    if image.mode in ("1", "L", "LA", "La"):
        return np.array(image.convert("L"))
    if image.mode in ("P", "PA"):
        # Straight to RGB would warn about palettes with several transparent colours.
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _from_array(picture: NDArray[Any]) -> Tensor:
    try:
        # A copy in native byte order: a memory-mapped array cannot be written to, which PyTorch asks for.
        return torch.from_numpy(np.array(picture, dtype=picture.dtype.newbyteorder("=")))
    except TypeError as error:
        raise DataError(f"an array of {picture.dtype} holds no pixels: give uint8") from error


def _planes(pixels: Tensor, *, first: bool) -> Tensor:
    """Return ``(C, H, W)``; where both readings of the axes are possible, `first` decides."""
    if pixels.ndim == 2:
        return pixels.unsqueeze(0)
    if pixels.ndim == 3 and min(pixels.shape) > 0:
        leading, trailing = (pixels.shape[axis] in (1, 3) for axis in (0, 2))
        if leading and (first or not trailing):
            return pixels
        if trailing:
            return pixels.permute(2, 0, 1)
        return pixels if first else pixels.permute(2, 0, 1)
    raise DataError(f"a picture of shape {tuple(pixels.shape)} is neither (H, W) nor (C, H, W) nor (H, W, C)")


def _scaled(pixels: Tensor) -> Tensor:
    scales: dict[torch.dtype, Callable[[Tensor], Tensor]] = {
        torch.uint8: lambda values: values.float() / 255,
        torch.uint16: lambda values: values.float() / 65535,
        torch.bool: lambda values: values.float(),
    }
    if pixels.dtype in scales:
        return scales[pixels.dtype](pixels)
    if not pixels.is_floating_point():
        raise DataError(f"pixels of type {pixels.dtype}: give uint8 or floating-point in [0, 1]")
    # NaN fails both comparisons.
    if not (pixels.min() >= -ROUNDING and pixels.max() <= 1 + ROUNDING):
        raise DataError(
            f"pixels reach from {float(pixels.min()):.3g} to {float(pixels.max()):.3g}, not within [0, 1]: "
            "give them before normalisation"
        )
    return pixels.float().clamp(0, 1)


def _with_channels(pixels: Tensor, channels: int) -> Tensor:
    given = len(pixels)
    if given == channels:
        return pixels
    if given == 1 and channels == 3:
        return pixels.expand(3, -1, -1)
    if given == 3 and channels == 1:
        return (pixels * pixels.new_tensor(LUMA).view(3, 1, 1)).sum(0, keepdim=True)
    raise DataError(f"{given} channels cannot become the {channels} that the network takes")


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = pixels.shape[1:]
    if (height, width) == size:
        return pixels
    scale = max(size[0] / height, size[1] / width)
    covering = (
        size if height == width else (max(size[0], round(height * scale)), max(size[1], round(width * scale)))
    )
    # A few thousand pixels in one row are a small file and a huge image once they cover a square.
    if math.prod(covering) > MAX_PIXELS:
        raise DataError(
            f"{width}x{height} pixels are too narrow: covering {size[1]}x{size[0]} takes "
            f"{covering[1]}x{covering[0]}, more than {MAX_PIXELS}"
        )
    resized = F.interpolate(pixels[None], covering, mode="bilinear", antialias=True, align_corners=False)[0]
    top, left = ((covering[axis] - size[axis]) // 2 for axis in (0, 1))
    # Antialiasing weights sum to one only up to rounding.
    return resized[:, top : top + size[0], left : left + size[1]].clamp(0, 1)
