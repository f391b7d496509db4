"""Any picture becomes pixels in [0, 1] of the size and channels asked for."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from secateur.data.pixels import decode, to_tensor
from secateur.errors import DataError


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def through_file(image: Image.Image, channels: int) -> torch.Tensor:
    return to_tensor(decode(encoded(image)), size=(image.height, image.width), channels=channels)


RED = np.zeros((2, 5, 3), np.uint8)
RED[:, 1] = (255, 0, 51)


def test_rgb_keeps_its_values_and_axes():
    pixels = through_file(Image.fromarray(RED), 3)
    assert pixels.dtype == torch.float32
    assert pixels.shape == (3, 2, 5)
    assert pixels[:, 0, 1].tolist() == pytest.approx([1, 0, 0.2])
    assert pixels[:, :, 0].abs().sum() == 0


def test_grey_and_rgb_become_each_other():
    assert through_file(Image.fromarray(RED), 1)[0, 0, 1] == pytest.approx(0.299 + 0.2 * 0.114)
    grey = through_file(Image.fromarray(RED[..., 0]), 3)
    assert grey[:, 1, 1].tolist() == [1, 1, 1]


def test_palette_transparency_bilevel_and_16_bits():
    opaque = Image.fromarray(RED).convert("RGBA")
    opaque.putalpha(7)
    assert through_file(opaque, 3)[:, 0, 1].tolist() == pytest.approx([1, 0, 0.2])
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([0, 0, 0, 0, 255, 0])
    palette.info["transparency"] = b"\x00\x80"
    assert through_file(palette, 3)[:, 0, 0].tolist() == [0, 1, 0]
    assert through_file(Image.new("1", (2, 1), 1), 1).tolist() == [[[1, 1]]]
    deep = Image.fromarray(np.array([[0, 13107, 65535]], np.uint16))
    assert through_file(deep, 1).flatten().tolist() == pytest.approx([0, 0.2, 1])


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float16, np.float32, np.float64, ">f4", ">u2"])
def test_arrays_and_tensors_of_every_kind_agree(kind, first):
    kind = np.dtype(kind)
    top = 1 if kind.kind == "f" else np.iinfo(kind).max
    array = (RED.astype(np.float64) / 255 * top).round(0 if top > 1 else 6).astype(kind)
    if first:
        array = array.transpose(2, 0, 1)
    wanted = through_file(Image.fromarray(RED), 3)
    assert torch.allclose(to_tensor(array, size=(2, 5), channels=3), wanted, atol=1e-3)
    if kind.isnative:
        tensor = torch.from_numpy(array.copy())
        assert torch.allclose(to_tensor(tensor, size=(2, 5), channels=3), wanted, atol=1e-3)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (torch.zeros(4, 8, 8), "4 channels"),
        (np.zeros((8, 8, 2), np.uint8), "2 channels"),
        (torch.zeros(1, 3, 8, 8), "shape"),
        (torch.zeros(3, 0, 8), "shape"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "int64"),
        (torch.full((3, 8, 8), -1.0), "before normalisation"),
        (torch.full((3, 8, 8), torch.nan), "nan"),
        (np.full((8, 8), "a"), "uint8"),
        ("picture.png", "str"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_reason(picture, words):
    with pytest.raises(DataError, match=words):
        to_tensor(picture, size=(8, 8), channels=3)


def test_a_square_is_resized_whole_and_others_lose_their_long_sides():
    ramp = torch.linspace(0, 1, 8).expand(1, 8, 8)
    halved = to_tensor(ramp, size=(4, 4), channels=1)
    assert halved.shape == (1, 4, 4)
    assert halved.mean() == pytest.approx(0.5)
    assert halved[0, 0, 0] < 0.2
    stripes = torch.zeros(1, 4, 12)
    stripes[:, :, 4:8] = 1
    assert to_tensor(stripes, size=(4, 4), channels=1).min() == 1
    assert to_tensor(stripes, size=(2, 2), channels=1).mean() > 0.8


@given(
    source=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_every_size_becomes_the_size_asked_for(source, size):
    pixels = to_tensor(torch.ones(3, *source), size=size, channels=1)
    assert pixels.shape == (1, *size)
    assert torch.allclose(pixels, torch.ones(()), atol=1e-5)
    assert pixels.max() <= 1


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_before_it_is_decoded():
    header = struct.pack(">IIBBBBB", 100_000, 1_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    bomb += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(DataError, match="pixels"):
        decode(bomb)


def test_a_thread_of_pixels_is_refused_before_it_is_blown_up():
    thread = decode(encoded(Image.new("L", (100_000, 1))))
    with pytest.raises(DataError, match=r"100000x1 pixels .* too narrow"):
        to_tensor(thread, size=(224, 224), channels=3)
    assert to_tensor(thread, size=(2, 2), channels=3).shape == (3, 2, 2)


def test_postscript_is_not_an_image_here():
    with pytest.raises(DataError, match="not a readable image"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\nshowpage\n")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_no_truncation_escapes_as_another_error(kind):
    data = encoded(Image.effect_noise((24, 24), 80), kind)
    for length in range(0, len(data) - 1, max(1, len(data) // 60)):
        try:
            to_tensor(decode(data[:length]), size=(8, 8), channels=3)
        except DataError:
            continue


@given(st.binary(max_size=300))
def test_bytes_that_are_no_image_are_refused(data):
    with pytest.raises(DataError):
        decode(data)
