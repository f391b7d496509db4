"""What ONP needs beyond the other methods."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from secateur.errors import MissingExtraError

MODULES = ("gymnasium", "networkx", "sb3_contrib", "stable_baselines3", "torch_geometric")


def check_extra() -> None:
    """Make sure that the libraries of the extra ``onp`` are there.

    Raises
    ------
    MissingExtraError
        One is not.
    """
    if missing := [name for name in MODULES if find_spec(name) is None]:
        raise MissingExtraError(
            f"ONP needs {', '.join(missing)}: install them with `pip install 'secateur[onp]'`"
        )


@contextmanager
def importing_extra() -> Iterator[None]:
    """Let the block import those libraries; raises as `check_extra` does."""
    check_extra()
    with warnings.catch_warnings():
        # PyTorch Geometric still compiles with what PyTorch has deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        yield
