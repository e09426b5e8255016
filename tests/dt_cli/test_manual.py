"""The manual page has every command and option; the shell completes both."""

import os
import shutil
import subprocess
import sys

import pytest
import typer

from dt_cli import manual
from dt_cli.main import app
from schemas.host.process import version
from tests.test_commands import dt

PAGE = manual.page(typer.main.get_command(app))


def test_the_manual_has_every_option_of_every_command() -> None:
    told = PAGE.replace("\\-", "-")
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        if not hasattr(command, "commands"):
            assert f".SS dt {name} " in told
            for param in command.params:
                assert param.param_type_name == "argument" or param.opts[0] in told, (name, param.opts)
    assert f"deepthings-mqtt {version()}" in told


@pytest.mark.skipif(shutil.which("groff") is None, reason="there is no groff")
def test_groff_has_nothing_to_say_of_the_manual() -> None:
    done = subprocess.run(["groff", "-man", "-Tascii", "-ww", "-z"], input=PAGE, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr


def test_the_version_is_said() -> None:
    assert dt("--version").stdout == f"dt {version()}\n"


@pytest.mark.parametrize(("words", "found"), [("dt ga", "gateway"), ("dt gateway --frigate-", "--frigate-timeout")])
def test_the_shell_completes_commands_and_options(words: str, found: str) -> None:
    asked = {"_DT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    code = "import sys; sys.argv = ['dt']; from dt_cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True)
    assert found in done.stdout.split(), done.stderr
