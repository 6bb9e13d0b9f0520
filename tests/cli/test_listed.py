"""The list of commands: as the commands are, and printed without them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from secateur.cli.commands import COMMANDS
from secateur.cli.listed import LISTED_COMMANDS
from secateur.steps import STEPS


def test_the_list_says_what_the_commands_say() -> None:
    told = {name: (command.help or "").partition("\n")[0] for name, command in COMMANDS.items()}
    assert list(LISTED_COMMANDS.items()) == list(told.items())
    assert list(LISTED_COMMANDS)[: len(STEPS)] == list(STEPS)


@pytest.mark.parametrize(
    ("words", "code", "mentioned"),
    [
        (["--help"], 0, "prune           Cut a run's model into a new run."),
        (["--version"], 0, "secateur "),
        ([], 2, "Usage:"),
        (["prnue"], 2, "No such command 'prnue'. Did you mean 'prune'?"),
        (["--frobnicate"], 2, "No such option"),
    ],
)
def test_what_needs_no_command_needs_no_torch(words: list[str], code: int, mentioned: str) -> None:
    program = f"import sys, secateur_command; sys.argv = ['secateur', *{words!r}]\n"
    program += "try: secateur_command.main()\n"
    program += "finally: print('loaded:', *sorted({'torch', 'numpy', 'yaml', 'pydantic'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == code
    assert mentioned in ran.stdout + ran.stderr
    assert "loaded:\n" in ran.stdout


def test_without_its_packages_the_command_says_which() -> None:
    program = "import sys, secateur_command; sys.modules['typer'] = None; secateur_command.main()"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    sentence = "secateur: The command line needs the package typer: install it with pip install typer.\n"
    assert (ran.returncode, ran.stderr) == (2, sentence)
