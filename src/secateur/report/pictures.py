"""Triggers as pictures."""

import base64
import io

import torch
from PIL import Image

from secateur.data import Trigger

GREY = 0.5
"""Brightness of the image that the trigger is stamped on to be seen."""
SIDE = 160
"""Pixels that the shorter side of a picture has at least; small triggers are enlarged by whole factors."""


def picture(trigger: Trigger) -> Image.Image:
    """Return a trigger stamped on grey, enlarged so that its pixels can be told apart.

    Of more than three channels the first three are shown, of fewer the first, as grey.
    """
    channels, height, width = trigger.keep.shape
    stamped = trigger.stamp(torch.full((1, channels, height, width), GREY))[0]
    shown = stamped[:3] if channels >= 3 else stamped[:1].expand(3, -1, -1)
    pixels = shown.mul(255).round().byte().permute(1, 2, 0).contiguous().numpy()
    factor = max(1, -(-SIDE // min(height, width)))
    return Image.fromarray(pixels).resize((factor * width, factor * height), Image.Resampling.NEAREST)


def embedded(trigger: Trigger) -> str:
    """Return the picture of a trigger as a PNG in base64."""
    stream = io.BytesIO()
    picture(trigger).save(stream, format="PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")
