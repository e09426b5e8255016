"""The flags of the agents' commands and the fields of the settings are the same, in name, type, limits and help."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from dt_cli.main import app
from schemas.contract.config import Settings
from schemas.host.settings import fields
from tests.test_commands import dt

COMMANDS: Any = typer.main.get_command(app)


@pytest.mark.parametrize("section", ["gateway", "edge"])
def test_every_field_is_a_flag_and_every_flag_a_field(section: str) -> None:
    flags = {option.name: option for option in COMMANDS.commands[section].params}
    record: Any = Settings.model_fields[section].annotation
    assert set(flags) - {"config"} == set(record.model_fields)
    for name, info in record.model_fields.items():
        assert flags[name].opts == ["--" + name.replace("_", "-")] and flags[name].default is None
        assert flags[name].help.startswith(info.description)


def test_every_option_has_a_help_text_and_a_default_that_holds() -> None:
    for key, info in fields().items():
        assert info.description, key
    Settings.model_validate(Settings().model_dump())  # defaults are not validated when they are taken


def test_limits_and_defaults_reach_the_help() -> None:
    said = " ".join(dt("edge", "--help", COLUMNS="200").stdout.split())
    assert "[default: 2] [1<=x<=32]" in said and "--once / --no-once" in said


def test_a_switch_that_is_turned_off_says_so_to_the_files_beneath() -> None:
    assert "once = false\n" in dt("install", "edge", "--no-once", "--dry-run").stdout


def test_config_show_tells_values_and_origins_without_secrets(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[edge]\ngateway = 'mqtt://me:s3cret@pi'\n")
    done = dt("config", "show", "--config", file, "--json", DT_EDGE_KEEP="4")
    said = json.loads(done.stdout)
    assert said["edge.gateway"] == {"value": "mqtt://me:***@pi", "from": str(file)}
    assert said["edge.keep"] == {"value": 4, "from": "DT_EDGE_KEEP"}
    assert said["edge.threads"] == {"value": None, "from": "default"}
    table = dt("config", "show", "--config", file)
    assert table.returncode == 0 and "mqtt://me:***@pi" in table.stdout and "s3cret" not in table.stdout


def test_config_check_exits_78_with_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[edge]\nname = 'a'\n")
    done = dt("config", "check", file)
    assert (done.returncode, done.stdout) == (0, f"good: {file}\n")
    file.write_text("[edge]\nnam = 'a'\n")
    done = dt("config", "check", file)
    assert done.returncode == 78 and done.stderr == f"dt: {file}: edge.nam: there is no such key: did you mean edge.name?\n"


def test_an_agent_obeys_a_file_and_a_flag_wins(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[edge]\ngateway = '127.0.0.1:1'\nonce = true\n")
    done = dt("edge", "--config", file)
    assert done.returncode == 69 and "no broker at 127.0.0.1:1:" in done.stderr
    done = dt("edge", "--config", file, "--gateway", "127.0.0.1:2")
    assert done.returncode == 69 and "no broker at 127.0.0.1:2:" in done.stderr
    done = dt("edge", "--config", file, "--keep", "0")
    assert done.returncode == 2
