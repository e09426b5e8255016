"""Image, compose file and add-on say what the program understands; with a container engine the image is built and run."""

import http.server
import importlib.util
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from dt_cli.main import app
from schemas.contract.address import Address
from schemas.host.toml import parse

ROOT = Path(__file__).parents[1]


def engine() -> str:
    """The container engine that runs here; empty: none does."""
    found = [name for name in ("docker", "podman") if shutil.which(name)]
    return next((name for name in found if subprocess.run([name, "info"], capture_output=True).returncode == 0), "")


ENGINE = engine()
PROJECT = parse((ROOT / "pyproject.toml").read_text())
COMMANDS: Any = typer.main.get_command(app)


def loaded(name: str) -> dict[str, Any]:
    yaml: Any = pytest.importorskip("yaml")
    found: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return found


@pytest.fixture(scope="module")
def addon() -> Any:
    spec = importlib.util.spec_from_file_location("addon_run", ROOT / "addon" / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def understood(words: list[str]) -> dict[str, Any]:
    """What the command makes of the words behind ``dt``."""
    options: dict[str, Any] = COMMANDS.commands[words[0]].make_context(words[0], words[1:]).params
    return options


@pytest.mark.parametrize("name", ["Dockerfile", "addon/Dockerfile"])
def test_an_image_installs_extras_that_there_are(name: str) -> None:
    (extras,) = re.findall(r"/src\[([\w,]+)\]", (ROOT / name).read_text())
    assert set(extras.split(",")) <= PROJECT["project"]["optional-dependencies"].keys()


def test_all_that_is_installed_reaches_the_image() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = {pattern.rstrip("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    files = {one.split("/")[0] for group in PROJECT["tool"]["setuptools"]["data-files"].values() for one in group}
    assert packages | files | {"pyproject.toml", "README.md", "LICENSE"} <= kept
    assert all((ROOT / one).exists() for one in kept)


def test_what_the_compose_file_says_is_understood() -> None:
    services = loaded("compose.yaml")["services"]
    ours = {name: service for name, service in services.items() if "build" in service}
    assert set(ours) == {"gateway", "edge", "camera"}
    for service in ours.values():
        options = understood(service["command"])
        assert Address.parse(options.get("broker") or options["gateway"]).host in services
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert understood(services["edge"]["healthcheck"]["test"][2:])
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service.get("ports", ()))


def test_the_addon_runs_what_its_options_say(addon: Any) -> None:
    config = loaded("addon/config.yaml")
    assert config["options"].keys() <= config["schema"].keys()
    assert all(name in config["options"] or kind.endswith("?") for name, kind in config["schema"].items())
    assert str(config["version"]) == PROJECT["project"]["version"]
    for more in ({}, {"frigate": True, "frigate_timeout": 0.5, "labels": "person,car"}):
        words = addon.command({**config["options"], **more})
        options = understood(words[1:])
        assert words[0] == "dt" and str(options["model"]) == config["options"]["model"]
        assert (options["frigate_timeout"], options["ha_labels"]) == (more.get("frigate_timeout"), more.get("labels"))


class Supervisor(http.server.BaseHTTPRequestHandler):
    """Home Assistant's, with a broker."""

    def do_GET(self) -> None:
        known = self.headers["Authorization"] == "Bearer secret"
        self.send_response(200 if known else 401)
        self.end_headers()
        told = {"host": "core-mosquitto", "port": 1883, "ssl": False, "username": "addons", "password": "a/b@c:d"}
        self.wfile.write(json.dumps({"result": "ok", "data": told}).encode())

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def supervisor() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Supervisor) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/services/mqtt"
        server.shutdown()
        thread.join()


def test_the_addon_finds_its_broker_with_a_password_of_any_letters(addon: Any, supervisor: str) -> None:
    address = Address.parse(addon.broker(supervisor, "secret"))
    assert (address.host, address.port, address.user, address.password) == ("core-mosquitto", 1883, "addons", "a/b@c:d")
    assert addon.broker(supervisor, "wrong") == ""


@pytest.mark.skipif(not ENGINE, reason="no container engine runs here")
def test_the_image_runs_a_cluster_with_a_read_only_root() -> None:
    subprocess.run([ENGINE, "build", "--tag", "deepthings-test", "."], cwd=ROOT, check=True, timeout=1800)
    run = [ENGINE, "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "none"]
    done = subprocess.run([*run, "deepthings-test", "demo", "--frames", "3"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "bit for bit" in done.stdout, done.stderr
