"""Every option that more than one verb takes, once."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

INPUT = "How pixels become network input"
DATA = "Clean data"
ATTACK = "Attack"
RUNNING = "Running and printing"
# Some versions of typer print <bool> behind an option that takes no value.
FLAG = " "


class Device(StrEnum):
    """Where the network runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Model = Annotated[
    Path,
    typer.Argument(
        help="Checkpoint of the network: .safetensors, or any file that torch.save wrote. "
        "No code in it is ever run.",
        show_default=False,
    ),
]
Architecture = Annotated[
    str,
    typer.Option(
        "--arch",
        "-a",
        metavar="A",
        help="The network: timm:NAME, torchvision:NAME, secateur:NAME, path/to/file.py:factory or "
        "package.module:factory. The last two run that file or module.",
        show_default=False,
    ),
]
StateKey = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Where the weights are in a checkpoint that holds several states, such as model.ema.",
        show_default=False,
    ),
]
Classes = Annotated[
    int | None,
    typer.Option(
        metavar="K", min=2, help="Number of classes, if the checkpoint does not tell.", show_default=False
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="S|H,W",
        help="Image height and width in pixels. \\[default: as the architecture says]",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
Channels = Annotated[
    int | None,
    typer.Option(
        metavar="C",
        min=1,
        help="1 for grey, 3 for colour. \\[default: as the weights say]",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="M[,M,M]",
        help="Subtracted before --std divides: one number, or one per channel, such as 0.5,0.5,0.5.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        metavar="D[,D,D]",
        help="Divided by after --mean: one number, or one per channel.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
Range = Annotated[
    str | None,
    typer.Option(
        "--range",
        metavar="LOW,HIGH",
        help="What black and white become before --mean: 0,1 or -1,1 or 0,255. \\[default: 0,1]",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        "-d",
        metavar="D",
        help="Images with labels: a folder of class folders, a Parquet file or a folder of them, an .npz "
        "file, or torchvision:NAME together with --root.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Split = Annotated[
    str, typer.Option(metavar="NAME", help="Part of the data, such as train or test.", rich_help_panel=DATA)
]
Root = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder that holds a torchvision data set. Nothing is downloaded.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Samples = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=2,
        help="Clean images to use, in the proportions of the classes.",
        rich_help_panel=DATA,
    ),
]
PerClass = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Images of each class, instead of --samples.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        help="Draws the images and orders the batches; the same seed repeats the result on the same kind "
        "of CPU.",
        rich_help_panel=RUNNING,
    ),
]
RunOn = Annotated[
    Device, typer.Option("--device", help="auto takes a GPU if there is one.", rich_help_panel=RUNNING)
]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help="CPU threads. \\[default: all]", show_default=False, rich_help_panel=RUNNING
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", metavar=FLAG, help="Print nothing but errors.", rich_help_panel=RUNNING),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        metavar=FLAG,
        help="Print one JSON object on standard output; progress stays on standard error.",
        rich_help_panel=RUNNING,
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", metavar=FLAG, help="Replace outputs that exist.")]
Mapping = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="all-to-one, all-to-all (class i becomes i + 1) or source-specific. \\[default: all-to-one]",
        show_default=False,
        rich_help_panel=ATTACK,
    ),
]
Sources = Annotated[
    list[int] | None,
    typer.Option(
        "--source",
        metavar="K",
        min=0,
        help="A class that a source-specific attack is about; may be repeated.",
        show_default=False,
        rich_help_panel=ATTACK,
    ),
]
