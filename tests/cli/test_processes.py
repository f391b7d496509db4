"""What only a process of its own can show: start-up, signals, limits and pipes."""

import json
import os
import signal
import subprocess
import sys

import pytest
from tests.cli.specimens import Specimen

SECATEUR = (sys.executable, "-m", "secateur")


def test_help_and_version_do_not_import_torch():
    code = """
import sys
from secateur.cli import main
assert main(["--help"]) == main(["repair", "--help"]) == main(["--version"]) == main([]) == 0
heavy = {"torch", "numpy", "torchvision", "timm", "matplotlib", "pyarrow"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "repair" in done.stdout
    assert "[default: 500]" in done.stdout


def test_the_usual_path_from_a_pickled_checkpoint(specimen: Specimen, tmp_path):
    """`python -m secateur repair`, through a pipe: no escape codes, one JSON object."""
    arguments = specimen.repair(tmp_path / "out", "--json")
    arguments[1] = str(specimen.pickled)
    done = subprocess.run([*SECATEUR, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["inputs"]["checkpoint"]["state_key"] == "state_dict"
    assert "\x1b" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupt_leaves_nothing(specimen: Specimen, tmp_path):
    arguments = specimen.repair(tmp_path / "results" / "out")
    with subprocess.Popen(
        [*SECATEUR, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has its children ignore interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        # The first line is the clean accuracy: from here on the method is at work.
        assert process.stdout.readline().startswith("Clean accuracy")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "error: interrupted; what was not finished was not written"
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="limits on file sizes are set the Linux way")
def test_a_full_disk_leaves_nothing_and_is_named(specimen: Specimen, tmp_path):
    """A limit on file sizes stops the writing in the middle, as a full disk does."""
    code = """
import resource, sys
from secateur.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
sys.exit(main(sys.argv[1:]))
"""
    arguments = specimen.repair(tmp_path / "out", "--quiet")
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "nothing was written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_a_closed_pipe_is_quiet(argument):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*SECATEUR, argument], stdout=write, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")
