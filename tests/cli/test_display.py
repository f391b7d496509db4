import io

import pytest
from rich.console import Console

from secateur.cli import display as module
from secateur.cli.console import printable
from secateur.cli.display import display


def shown(*, terminal: bool, quiet: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100)
    with display(quiet=quiet, console=console) as progress:
        progress.start("unlearning", 20)
        progress.advance(accuracy=0.5)
        progress.advance(accuracy=0.183)
        progress.start("choosing", 3)
        progress.advance(units_pruned=7)
    return stream.getvalue()


def test_without_a_terminal_every_stage_is_one_plain_line():
    first, second = shown(terminal=False).splitlines()
    assert first.startswith("unlearning: done in 2 steps, ")
    assert first.endswith("; accuracy 18.3%")
    assert second.startswith("choosing: done in 1 step, ")
    assert second.endswith("; units pruned 7")


def test_a_long_stage_gives_signs_of_life(monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.0)
    assert "unlearning: 1 of at most 20 steps so far" in shown(terminal=False)


def test_on_a_terminal_stages_have_bars_that_end_full_though_steps_were_left():
    text = shown(terminal=True)
    assert "\x1b[" in text
    assert "unlearning" in text
    assert "2/2" in text
    assert "units pruned 7" in text


def test_quiet_shows_nothing():
    assert shown(terminal=True, quiet=True) == ""


def test_what_was_going_on_is_not_called_done_when_it_fails():
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), display(quiet=False, console=Console(file=stream)) as progress:  # noqa: PT012
        progress.start("recovering", 20)
        raise KeyboardInterrupt
    assert "done" not in stream.getvalue()


def test_names_cannot_command_the_terminal():
    assert printable("a\x1b[2Jb\u202ec\N{NO-BREAK SPACE}é\n") == "a�[2Jb�c\N{NO-BREAK SPACE}é\n"


def test_a_log_gets_every_figure_though_nothing_is_shown():
    figures = []

    class Log:
        def add_scalar(self, tag, scalar_value, global_step):
            figures.append((tag, scalar_value, global_step))

    with display(quiet=True, log=Log()) as progress:
        progress.start("in steps", 2)
        progress.advance(accuracy=0.5, trigger=1.0)
        progress.start("other", 1)
        progress.advance()
        progress.start("in steps", 2)
        progress.advance(accuracy=0.25)
    assert figures == [
        ("in-steps/accuracy", 0.5, 1),
        ("in-steps/trigger", 1.0, 1),
        ("in-steps/accuracy", 0.25, 2),
    ]
