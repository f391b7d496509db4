"""The README's commands work as written."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("secateur ")]


@pytest.mark.timeout(3600)  # two repairs and a scan of real networks, on a machine that may be busy
def test_every_command_of_the_readme_works(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").symlink_to(shared)
    folder = tmp_path / "checkout"
    folder.mkdir()
    found = commands()
    assert {command[1] for command in found} >= {"demo", "repair", "evaluate", "apply"}
    for command in found:
        process = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, f"{command}: {process.stderr}"
    for name in ("repaired.safetensors", "recipe.json", "report.json", "report.html"):
        assert (folder / "repaired" / name).stat().st_size > 100


def test_the_python_example_names_public_things() -> None:
    import secateur

    example = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert example is not None
    imported = re.search(r"from secateur import (.*)", example[1])
    assert imported is not None
    assert {name.strip() for name in imported[1].split(",")} <= set(secateur.__all__)
    compile(example[1], "README.md", "exec")
