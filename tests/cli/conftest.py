"""The specimen that all verbs are tried on, and the command line as a function."""

from collections.abc import Callable

import pytest
from tests.cli.specimens import Specimen, make_specimen

from secateur.cli import main


@pytest.fixture(scope="session")
def specimen(tmp_path_factory: pytest.TempPathFactory) -> Specimen:
    """Return a backdoored network with its data, made once."""
    return make_specimen(tmp_path_factory.mktemp("specimen"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; returns exit code, standard output and standard error."""

    def invoke(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return invoke
