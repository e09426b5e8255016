"""What a private cluster's processes are started with."""

import subprocess
from pathlib import Path
from unittest.mock import Mock

import pytest

from dt_cli.cluster import PrivateCluster, Setup


@pytest.mark.parametrize(("cores", "edges", "each"), [(8, 3, "2"), (4, 3, "1"), (2, 3, "1"), (4, 1, "4")])
def test_edges_share_the_machine_s_cores_and_keep_what_they_write_to_themselves(
    cores: int, edges: int, each: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dt_cli.cluster.cores", lambda: cores)
    cluster = PrivateCluster(Setup(tmp_path / "m.tflite", edges, [], None), Mock(), tmp_path, Mock())
    started: dict[str, list[str]] = {}
    monkeypatch.setattr(cluster, "_spawn", lambda name, argv: started.update({name: argv}))
    monkeypatch.setattr(cluster, "_said", lambda *_: "mqtt://127.0.0.1:9")
    for name in ("Verdicts", "TileRunner", "parse"):
        monkeypatch.setattr(f"dt_cli.cluster.{name}", Mock())
    cluster._start_gateway("127.0.0.1:0", None)
    for n in range(edges):
        cluster._edge(f"edge{n + 1}", "mqtt://127.0.0.1:9")
    folders = [argv[argv.index("--state") + 1] for argv in started.values()]
    assert len({*folders}) == edges + 1 and all(Path(folder).parent == tmp_path for folder in folders)
    assert {argv[argv.index("--threads") + 1] for argv in started.values()} == {each}


def test_children_get_secrets_by_variables_and_the_rest_by_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda argv, env, **_: started.append((argv[3:], env)))
    cluster = PrivateCluster(Setup(tmp_path / "m.tflite", 1, [], None), Mock(), tmp_path, Mock())
    broker, source = "mqtt://me:hunter2@pi", "rtsp://hunter2@cam/live"
    cluster._spawn("gateway", ["gateway", "--root", "dt", "--ha-broker", broker, "--outputs"])
    cluster._spawn("edge1", ["edge", "--gateway", broker, "--source", source, "--name", "edge1"])
    (gateway, its), (edge, own) = started
    assert gateway == ["gateway", "--root", "dt", "--outputs"] and its["DT_GATEWAY_HA_BROKER"] == broker
    assert edge == ["edge", "--name", "edge1"] and (own["DT_EDGE_GATEWAY"], own["DT_EDGE_SOURCE"]) == (broker, source)
