"""The public names are the ones listed, and naming the package does not load torch."""

import subprocess
import sys

import secateur


def test_every_public_name_is_there() -> None:
    assert all(getattr(secateur, name) is not None for name in secateur.__all__)
    assert set(secateur._HOMES) | {"__version__"} == set(secateur.__all__)


def test_importing_the_package_does_not_import_torch() -> None:
    program = "import sys, secateur; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
