"""An edge that is given no address finds its gateway: in a network of our own, which only root can make."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from models.graph.build import build

pytest.importorskip("zeroconf")
needs_network = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"), reason="needs root, unshare and ip"
)
NETWORK = " && ".join(
    [
        "ip link set lo up",
        "ip link add d0 type veth peer name d1",
        "ip addr add 10.77.0.1/24 dev d0",
        "ip link set d0 up",
        "ip link set d1 up",
    ]
)
FIND = """
import os, subprocess, sys, time
from pathlib import Path
folder = Path(sys.argv[1])

def start(name, *argv):
    log = (folder / name).open("w")
    command = [sys.executable, "-m", "dt_cli.main", *argv]
    env = {**os.environ, "DT_END_WITH_STDIN": "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=env)

def said(name, words):
    deadline = time.monotonic() + 40
    while words not in (folder / name).read_text():
        assert time.monotonic() < deadline, (name, words, (folder / name).read_text())
        time.sleep(0.1)

options = ["--model", folder / "m.tflite", "--listen", "0.0.0.0:0", "--root", "farm", "--broker", "amqtt", "--insecure"]
gateway = start("gateway", "gateway", *options)
said("gateway", "gateway ready")
edge = start("edge", "edge", "--name", "e1", "--cache", folder)
said("edge", "found the gateway of cluster farm at mqtt://10.77.0.1:")
said("edge", "e1 joined the cluster at 10.77.0.1")
other = subprocess.run(
    [sys.executable, "-m", "dt_cli.main", "edge", "--name", "e2", "--root", "shop"], capture_output=True, text=True
)
assert other.returncode == 69 and "no gateway of cluster shop answers by mDNS" in other.stderr, other
assert len(other.stderr.splitlines()) == 1
for child in (edge, gateway):
    child.terminate()
    child.wait(20)
"""


@needs_network
def test_an_edge_without_an_address_joins_the_gateway_that_answers(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(build("mini", size=96).to_bytes())
    inside = f'{NETWORK} && exec "$0" -c "$1" "$2"'
    done = subprocess.run(
        ["unshare", "-n", "--kill-child", "-f", "sh", "-c", inside, sys.executable, textwrap.dedent(FIND), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
