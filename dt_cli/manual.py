"""`dt manual`: the manual page, made of the help texts of all commands, in roff(7) with the macros of man(7)."""

import re
from collections.abc import Iterator
from typing import Any

from schemas.host.process import version


def page(command: Any) -> str:
    """The page of the command ``dt``, a group of click."""
    about = command.help.splitlines()[0]
    lines = [f'.TH DT 1 "" "deepthings-mqtt {version()}" "DeepThings over MQTT"', ".SH NAME", f"dt \\- {_text(about)}"]
    lines += [".SH SYNOPSIS", ".B dt", ".I COMMAND", "[OPTIONS]", ".SH COMMANDS", *_commands(command, "dt")]
    lines += [".SH EXIT STATUS", _text(command.epilog.removeprefix("Exit codes: ")), ".SH FILES", "/etc/deepthings/*.toml,"]
    lines += ["~/.config/deepthings/*.toml", ".SH ENVIRONMENT", "Every option of", ".B dt gateway", "and", ".B dt edge"]
    lines += ["is a variable, too: --keep of dt edge is DT_EDGE_KEEP."]
    return "\n".join(lines) + "\n"


def _commands(group: Any, path: str) -> Iterator[str]:
    for name in sorted(group.commands):
        command = group.commands[name]
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")
        elif not command.hidden:
            yield from _command(command, f"{path} {name}")


def _command(command: Any, path: str) -> Iterator[str]:
    context = command.make_context(path, [], resilient_parsing=True)
    yield f".SS {_text(path)} {_text(' '.join(command.collect_usage_pieces(context)))}"
    yield _text(" ".join((command.help or "").split()))
    for record in (param.get_help_record(context) for param in command.params):
        if record is not None:
            yield from (".TP", f".B {_text(record[0])}", _text(" ".join(record[1].split())) or "\\&")


def _text(words: str) -> str:
    """Words that roff takes as they are."""
    told = words.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", told)
