"""Flags made of the fields of ``schemas.contract.config``: names, types, limits and help stand there and nowhere else.

A flag that is not given says nothing, so that environment and files can; what is given wins.
"""

import inspect
from collections.abc import Callable, Container
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic.fields import FieldInfo

from schemas.contract.config import Settings
from schemas.host.settings import load

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Configuration file. [default: $DT_CONFIG, or *.toml in /etc/deepthings and ~/.config/deepthings]",
        show_default=False,
    ),
]


def takes(
    section: str, only: Container[str] | None = None, **more: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """For a command: one flag for each field of this section of the settings (or for ``only`` some), --config, and
    ``more`` (annotated types).

    The command gets what was loaded, and ``more`` by name; a switch that is not given is False, any other None.
    """
    record = Settings.model_fields[section].annotation
    fields = record.model_fields  # type: ignore[union-attr]
    flags = {name: _flag(name, info) for name, info in fields.items() if only is None or name in only}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(config: Path | None, **given: Any) -> None:
            rest = {name: given.pop(name) for name in more}
            command(load({(section, name): v for name, v in given.items() if v is not None}, config), **rest)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__annotations__ = {**flags, "config": ConfigFile, **more}
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [_parameter(name, kind) for name, kind in run.__annotations__.items()]
        )
        return run

    return decorate


def _parameter(name: str, kind: Any) -> inspect.Parameter:
    default = False if get_args(kind)[0] is bool else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _flag(name: str, info: FieldInfo) -> Any:
    """The typer option of one field; a switch can be turned off, too, for a file may turn it on."""
    kinds = [kind for kind in (*get_args(info.annotation), info.annotation) if kind in (bool, int, float, Path)]
    kind: Any = kinds[0] if kinds else str
    low, high = (
        next((getattr(limit, bound) for limit in info.metadata if hasattr(limit, bound)), None) for bound in ("ge", "le")
    )
    dashed = "--" + name.replace("_", "-")
    names = [f"{dashed}/--no-{dashed[2:]}"] if kind is bool else [dashed]
    default = "" if info.default in (None, False) else f" [default: {info.default}]"
    option = typer.Option(*names, help=f"{info.description}{default}", min=low, max=high, show_default=False)
    return Annotated[kind | None, option]
