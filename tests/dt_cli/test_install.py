"""`dt install`: what it writes, that it writes all or nothing, and that it touches nothing that somebody has changed."""

import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tomllib

from dt_cli.install import File, remove, require_visible, units_folder, write
from gateway_agent.mosquitto import configuration
from schemas.contract.errors import DtError
from schemas.host.settings import load
from tests.test_commands import dt

PYTHON_DT = Path(sys.executable).parent / "dt"
EDGE_UNIT, GATEWAY_UNIT = "etc/systemd/system/edge-agent@.service", "etc/systemd/system/gateway-agent.service"
CONFIG, SECRET = "etc/deepthings/edge-kitchen/edge.toml", "etc/credstore/deepthings-edge-kitchen.toml"
EDGE = ["install", "edge", "--name", "kitchen"]


def tree(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_an_edge_is_written_with_its_password_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--gateway", "mqtt://me:s3cret@pi", "--source", "v4l2:///dev/video0", "--keep", 3, "--once", "--cache", "c"]
    done = dt(*EDGE, *options, "--prefix", tmp_path)
    assert done.returncode == 0 and "systemctl enable --now edge-agent@kitchen" in done.stdout
    assert set(tree(tmp_path)) == {EDGE_UNIT, CONFIG, SECRET}
    assert f"ExecStart={PYTHON_DT} edge --name %i" in tree(tmp_path)[EDGE_UNIT]
    assert tomllib.loads(tree(tmp_path)[CONFIG]) == {
        "edge": {"source": "v4l2:///dev/video0", "keep": 3, "once": True, "cache": str(Path("c").absolute())}
    }
    assert mode(tmp_path / SECRET) == 0o600 and mode(tmp_path / CONFIG) == 0o644
    assert mode((tmp_path / SECRET).parent) == 0o700 and mode((tmp_path / CONFIG).parent) == 0o755
    # and the service reads exactly this, as systemd hands it over
    (tmp_path / "credentials").mkdir()
    shutil.copy(tmp_path / SECRET, tmp_path / "credentials" / "secrets.toml")
    monkeypatch.delenv("DT_CONFIG")
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str((tmp_path / CONFIG).parent))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    edge = load().settings.edge
    assert (edge.gateway, edge.keep, edge.once) == ("mqtt://me:s3cret@pi", 3, True)


def test_installing_again_replaces_and_takes_an_old_password_away(tmp_path: Path) -> None:
    assert dt(*EDGE, "--gateway", "mqtt://me:s3cret@pi", "--prefix", tmp_path).returncode == 0
    assert dt(*EDGE, "--gateway", "pi", "--prefix", tmp_path).returncode == 0
    assert set(tree(tmp_path)) == {EDGE_UNIT, CONFIG} and '"pi"' in tree(tmp_path)[CONFIG]


def test_a_dry_run_prints_all_but_secrets_and_writes_nothing(tmp_path: Path) -> None:
    done = dt(*EDGE, "--gateway", "mqtt://me:s3cret@pi", "--keep", 3, "--prefix", tmp_path, "--dry-run")
    assert done.returncode == 0 and not tree(tmp_path)
    assert "WatchdogSec=" in done.stdout and "keep = 3" in done.stdout and f"/{SECRET} (600)" in done.stdout
    assert "s3cret" not in done.stdout


@pytest.mark.parametrize("changed", [EDGE_UNIT, CONFIG, SECRET])
def test_what_somebody_has_changed_is_neither_overwritten_nor_removed(tmp_path: Path, changed: str) -> None:
    options = [*EDGE, "--gateway", "mqtt://me:pw@pi", "--prefix", tmp_path]
    assert dt(*options).returncode == 0
    with (tmp_path / changed).open("a") as file:
        file.write("# mine\n")
    before = tree(tmp_path)
    done = dt(*options, "--keep", 3)
    assert done.returncode == 1 and f"{changed} was changed since" in done.stderr and len(done.stderr.splitlines()) == 1
    assert tree(tmp_path) == before
    done = dt(*options, "--uninstall")
    assert done.returncode == 0 and f"kept {tmp_path}/{changed}" in done.stdout
    assert tree(tmp_path) == {changed: before[changed]}


def test_the_unit_of_several_edges_goes_with_the_last(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert dt("install", "edge", "--name", name, "--prefix", tmp_path).returncode == 0
    done = dt("install", "edge", "--name", "a", "--prefix", tmp_path, "--uninstall")
    assert "other edges use it" in done.stdout
    assert set(tree(tmp_path)) == {EDGE_UNIT, "etc/deepthings/edge-b/edge.toml"}
    dt("install", "edge", "--name", "b", "--prefix", tmp_path, "--uninstall")
    assert not tree(tmp_path)
    done = dt("install", "edge", "--name", "b", "--prefix", tmp_path, "--uninstall")
    assert done.returncode == 0 and "nothing of it is installed" in done.stdout


def test_a_failure_half_way_leaves_everything_as_it_was(tmp_path: Path) -> None:
    first, last = File(Path("/etc/a/one"), "1"), File(Path("/etc/b/two"), "2")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "b").write_text("a file where a folder should be")
    with pytest.raises(DtError, match=r"cannot write .*: nothing was installed"):
        write([first, last], tmp_path)
    assert tree(tmp_path) == {"etc/b": "a file where a folder should be"} and not (tmp_path / "etc/a").exists()


def test_a_rename_that_fails_puts_the_files_before_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write([File(Path("/etc/one"), "old")], tmp_path)
    old, rename = tree(tmp_path), Path.replace

    def failing(self: Path, target: Path) -> Path:
        if target.name == "three":
            raise OSError(5, "Input/output error", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    files = [File(Path(f"/etc/{name}"), "new") for name in ("one", "two", "three", "four")]
    with pytest.raises(DtError, match=r"cannot write .*three: Input/output error: nothing was installed"):
        write(files, tmp_path)
    assert tree(tmp_path) == old


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, who is to work in another user's folder")
def test_root_installs_nothing_below_another_user_s_folder(tmp_path: Path) -> None:
    theirs, target = tmp_path / "theirs", tmp_path / "target"
    for folder in (theirs, theirs / "etc", target):
        folder.mkdir(parents=True)
    os.chown(theirs, 65534, 65534)
    for root in (theirs, theirs / "new"):
        with pytest.raises(DtError, match=rf"{theirs} is not root's alone"):
            write([File(Path("/etc/one"), "new")], root)
    os.chown(theirs, 0, 0)
    (theirs / "etc/inner").symlink_to(target)
    os.lchown(theirs / "etc/inner", 65534, 65534)
    with pytest.raises(DtError, match="is not root's alone"):
        write([File(Path("/etc/inner/one"), "new")], theirs)
    assert tree(tmp_path) == {}


def test_a_link_where_a_file_should_be_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/one").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DtError, match=r"etc/one was changed since"):
        write([File(Path("/etc/one"), "new")], tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_where_a_file_should_be_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "etc/one").mkdir(parents=True)
    with pytest.raises(DtError, match=r"etc/one was changed since"):
        write([File(Path("/etc/one"), "new")], tmp_path)


def test_nothing_is_removed_that_was_not_written_here(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/one").write_text("somebody's")
    [said] = remove([File(Path("/etc/one"), "")], tmp_path)
    assert said.startswith(f"kept {tmp_path}/etc/one") and (tmp_path / "etc/one").read_text() == "somebody's"


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become somebody else")
def test_without_root_it_is_one_line() -> None:
    code = (
        "import os, sys, dt_cli.install, models.running.engine; from dt_cli.main import main; "
        "os.setgid(65534); os.setuid(65534); "
        "sys.argv = ['dt', 'install', 'gateway']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "needs root: sudo " in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_path_that_the_service_cannot_see_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DtError, match=r"cannot see /home/pi/my.tflite: units hide home"):
        require_visible([Path("/home/pi/my.tflite")])
    with pytest.raises(DtError, match=r"the service cannot read /opt/absent"):
        require_visible([Path("/opt/absent")])
    require_visible([Path("/usr/bin/env")])


def test_the_units_and_what_was_tested_are_in_the_wheel(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", "70.1")  # which makes wheels by itself
    root = Path(__file__).parents[2]
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(root / name, tmp_path)
    shutil.copytree(root / "systemd", tmp_path / "systemd")
    code = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    units = "edge-agent@.service", "gateway-agent.service", "mosquitto-deepthings.conf"
    for file in ("constraints.txt", *(f"systemd/{unit}" for unit in units)):
        assert any(name.endswith(f".data/data/share/deepthings/{file}") for name in names), names


def test_mosquitto_as_a_service_gets_the_limits_that_the_gateway_gives_its_own() -> None:
    text = (units_folder() / "mosquitto-deepthings.conf").read_text()
    told = {line for line in text.splitlines() if line and not line.startswith("#")}
    assert told == {line for line in configuration("h", 1, False).splitlines() if re.match(r"max_|set_", line)}


needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze: apt install systemd")


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both units, calling a program that exists."""
    folder = tmp_path_factory.mktemp("units")
    for unit in ("edge-agent@.service", "gateway-agent.service"):
        text = (units_folder() / unit).read_text()
        assert "/opt/deepthings/bin/dt" in text
        (folder / unit).write_text(text.replace("/opt/deepthings/bin/dt", "/bin/true"))
    return folder


@needs_systemd
@pytest.mark.parametrize("unit", ["edge-agent@kitchen.service", "gateway-agent.service"])
def test_systemd_finds_nothing_to_say_of_a_unit(units: Path, unit: str) -> None:
    done = subprocess.run(["systemd-analyze", "verify", units / unit], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize(("unit", "at_most"), [("edge-agent@.service", 2.0), ("gateway-agent.service", 1.5)])
def test_a_unit_is_exposed_no_more_than_this(units: Path, unit: str, at_most: float) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(units / unit)]
    said = subprocess.run(command, capture_output=True, text=True).stdout
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found is not None and float(found[1]) <= at_most, said


PROMISED = {
    "Type=notify", "WatchdogSec=60", "DynamicUser=yes", "MemoryDenyWriteExecute=yes", "SystemCallFilter=@system-service",
    "SystemCallErrorNumber=EPERM", "RestartPreventExitStatus=2 78", "MemoryHigh=60%", "MemoryMax=75%",
}  # fmt: skip
OF_EACH = {
    "edge-agent@.service": {
        "LoadCredential=secrets.toml:deepthings-edge-%i.toml", "ConfigurationDirectory=deepthings deepthings/edge-%i",
        "CacheDirectory=deepthings-edge-%i", "StateDirectory=deepthings-edge-%i", "DeviceAllow=char-video4linux rw",
        "DeviceAllow=char-media rw", "DeviceAllow=char-dma_heap rw", "SupplementaryGroups=video", "CPUWeight=50",
    },
    "gateway-agent.service": {
        "LoadCredential=secrets.toml:deepthings-gateway.toml", "ConfigurationDirectory=deepthings deepthings/gateway",
        "CacheDirectory=deepthings-gateway", "StateDirectory=deepthings-gateway", "CPUWeight=80", "PrivateDevices=yes",
        "PrivateUsers=yes",
    },
}  # fmt: skip


@pytest.mark.parametrize("unit", OF_EACH)
def test_a_unit_promises_what_the_agents_and_the_installer_rely_on(unit: str) -> None:
    lines = set((units_folder() / unit).read_text().splitlines())
    assert not (PROMISED | OF_EACH[unit]) - lines
    assert "ProcSubset=pid" not in lines  # it hides /proc/cpuinfo, and with it the choice of kernels
