"""The commands as a user types them: processes, exit codes, what they print and write, and that they leave nothing."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dt_cli.main import app
from gateway_agent.broker import BrokerProcess
from gateway_agent.journal import JOURNAL, Journal
from models.graph.build import build
from models.graph.file import Graph, Op, Tensor
from models.running.engine import runtime
from schemas.contract.errors import PlanError
from tests.models.sketch import splitting
from tests.nodes import ended_graph
from tests.paths import shared


def dt(*argv: object, timeout_s: float = 120.0, **env: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "dt_cli.main", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env={**os.environ, **env})


def refusal(*argv: object) -> str:
    """What a command says that is refused before it starts anything, without a process of its own."""
    with pytest.raises(PlanError) as caught:
        app([*map(str, argv)], standalone_mode=False)
    return str(caught.value)


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "mini.tflite"
    path.write_bytes(build("mini").to_bytes())
    return path


def test_no_secret_is_in_the_process_list_or_in_an_error_of_usage(tmp_path: Path) -> None:
    assert "hunter2" not in (said := dt("edge", "rtsp://me:hunter2@cam/live")).stderr and said.returncode == 2
    secret = f"mqtt://{tmp_path.name}:hunter2@127.0.0.1:1"
    command = [sys.executable, "-m", "dt_cli.main", "edge", "--gateway", secret, "--state", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as edge:
        try:
            assert edge.stderr is not None and "127.0.0.1:1" in (line := edge.stderr.readline()) and "hunter2" not in line
            (shown,) = running(tmp_path.name)
            assert "hunter2" not in shown and f"mqtt://{tmp_path.name}:***@127.0.0.1:1" in shown
        finally:
            edge.terminate()
            assert "hunter2" not in edge.communicate(timeout=60)[1]


def running(token: str) -> list[str]:
    """Command lines of processes that mention ``token``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if token in line:
                found.append(line)
    return found


def test_demo_is_exact_and_reports_every_node(tmp_path: Path) -> None:
    """Beside a gateway of this user, with whom it shares nothing."""
    report, state = tmp_path / "demo.json", tmp_path / "state" / "deepthings" / "dt"
    state.mkdir(parents=True)
    with contextlib.closing(Journal(state / JOURNAL)):
        before = sorted(state.iterdir())
        options = ["--edges", 3, "--frames", 6, "--json", report]
        done = dt("demo", *options, TMPDIR=str(tmp_path), XDG_STATE_HOME=str(tmp_path / "state"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(state.iterdir()) == before and [p.name for p in state.parent.iterdir()] == ["dt"]
    said = json.loads(report.read_text())
    assert (said["frames"], said["failed"], said["exact"], said["tiles"]) == (6, 0, True, 54)
    assert said["readings_total"] == 12 and said["readings_right"] >= 11
    assert set(said["nodes"]) == {"edge1", "edge2", "edge3"}
    assert set(said["nodes"]["edge1"]) == {"computed", "stolen", "lent", "compute_s"}
    assert said["tiles_stolen"] == sum(node["stolen"] for node in said["nodes"].values()) > 0
    assert sum(node["computed"] + node["stolen"] for node in said["nodes"].values()) == 54
    assert said["wire_bytes"] > 6 * 100_000 and 0 < said["latency_ms"]["p50"] <= said["latency_ms"]["p95"]
    assert not running(str(tmp_path)) and sorted(p.name for p in tmp_path.iterdir()) == ["demo.json", "state"]


def test_demo_on_a_video_steals_with_every_edge_without_a_camera(tmp_path: Path) -> None:
    model, report = tmp_path / "yolo.tflite", tmp_path / "demo.json"
    model.write_bytes(build("yolov2", size=320, layers=16).to_bytes())
    video = shared("data/video/car-detection.mp4")
    done = dt("demo", "--edges", 3, "--frames", 6, "--model", model, "--source", video, "--json", report)
    assert done.returncode == 0, done.stdout + done.stderr
    nodes = json.loads(report.read_text())["nodes"]
    assert nodes["edge2"]["stolen"] > 0 and nodes["edge3"]["stolen"] > 0


def test_an_edge_computes_the_models_end_where_that_is_asked_for(tmp_path: Path) -> None:
    model, report = tmp_path / "ended.tflite", tmp_path / "report.json"
    model.write_bytes(ended_graph().to_bytes())
    done = dt("verify", model, "--grid", "2x2", "--blocks", "conv0,conv0+conv2", "--whole", "end")
    assert done.returncode == 0 and "equal bit for bit" in done.stdout, done.stderr
    options = ["--grid", "2x2", "--cut", "conv0+conv2", "--whole", "end"]
    done = dt("demo", "--edges", 3, "--frames", 4, "--model", model, *options, "--json", report)
    assert done.returncode == 0, done.stderr
    said = json.loads(report.read_text())
    assert said["exact"] and said["frames"] == 4 and said["tiles"] >= 16 and said["tiles_stolen"] > 0
    done = dt("plan", model, *options, "--out", tmp_path / "plan")
    assert "block 2 of 2, whole, cut mean" in done.stdout, done.stderr
    done = dt("plan", model, *options, "--nodes", 4, "--rate", 100, "--speed", 1, "--memory", "900MB", "--explain")
    assert done.returncode == 0 and "the tail: one edge 0.00 GFLOP of it whole" in done.stdout, done.stderr
    done = dt("verify", tmp_path / "plan", "--whole", "end")
    assert done.returncode == 2 and "holds a plan already" in done.stderr


def test_demo_runs_over_somebody_elses_broker(tmp_path: Path) -> None:
    with BrokerProcess() as broker:
        options = ["--edges", 2, "--frames", 3, "--grid", "2x2", "--broker", broker.url]
        done = dt("demo", *options, XDG_STATE_HOME=str(tmp_path), TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


def test_demo_fails_loudly_when_an_answer_differs(tmp_path: Path) -> None:
    """A cluster whose edges compute something else must not pass for exact: here one edge adds noise to its results."""
    (tmp_path / "sitecustomize.py").write_text(
        "from models.running.runner import TileRunner as R\n"
        "def noisy(run):\n    return lambda *a: {k: v + v.dtype.type(1) for k, v in run(*a).items()}\n"
        "R.run, R.run_whole = noisy(R.run), noisy(R.run_whole)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    done = dt("demo", "--edges", 1, "--frames", 2, "--grid", "2x2", PYTHONPATH=path)
    assert done.returncode == 1
    assert "WRONG: frame" in done.stdout


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGHUP])
def test_interrupted_demo_leaves_no_process_and_no_file(tmp_path: Path, by: signal.Signals) -> None:
    command = [sys.executable, "-m", "dt_cli.main", "demo", "--frames", "100000"]
    demo = subprocess.Popen(
        command, env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not any("--name edge1" in line for line in running(str(tmp_path))) and time.monotonic() < deadline:
        time.sleep(0.1)
    children = running(str(tmp_path))
    demo.send_signal(by)
    _, said = demo.communicate(timeout=60)
    assert children, "the demo had not started its edges"
    assert demo.returncode == 130 and said.decode().strip() == "dt: interrupted"
    assert not running(str(tmp_path)) and not list(tmp_path.iterdir())


def test_plan_verify_and_inspect_write_what_they_print(mini: Path, tmp_path: Path) -> None:
    report, folder = tmp_path / "report.json", tmp_path / "plan"
    assert dt("plan", mini, "--grid", "2x3", "--cut", "conv9", "--out", folder, "--json", report).returncode == 0
    plan = json.loads(report.read_text())
    assert {"redundancy", "input_bytes", "output_bytes", "peak_memory_bytes", "classes", "tiles"} <= set(plan)
    assert len(plan["tiles"]) == 6 and plan["redundancy"] > 1
    assert sorted(p.name for p in folder.iterdir()) == ["card.json", "model.tflite", "plan.json"]
    assert dt("verify", folder, "--json", report).returncode == 0
    assert json.loads(report.read_text())["exact"] is True
    assert dt("inspect", mini, "--json", report).returncode == 0
    inspected = json.loads(report.read_text())
    assert inspected["divisible_share"] == 1.0 and inspected["blocked_by"] is None
    cuts = inspected["cuts"]
    assert {"2x2", "3x3", "5x5"} == set(cuts[0]["redundancy"]) and {"flop_share", "output_bytes"} <= set(cuts[0])


KEYS = {"latency_s", "throughput_fps", "redundancy", "bytes_by_hop", "memory_bytes", "blocks", "bound_s", "tail_flops"}
KEYS |= {"approximate", "places"}


def test_an_approximate_plan_is_asked_for_and_says_everywhere_that_it_is_one(mini: Path, tmp_path: Path) -> None:
    report, folder, blocks = tmp_path / "report.json", tmp_path / "plan", "max3=2x2,conv5=channels 2,conv6=filters 2"
    assert "add --approximate" in refusal("plan", mini, "--blocks", blocks)
    done = dt("plan", mini, "--blocks", blocks, "--approximate", "--out", folder, "--json", report)
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())["approximate"] is True
    done = dt("verify", folder, "--json", report)
    said = json.loads(report.read_text())
    assert done.returncode == 0 and said["exact"] is False and said["differing"] == 0 and 0 < said["difference"] < 1e-3
    within = f"within {said['difference']:.3g} of the model's own"
    done = dt("demo", "--edges", 2, "--frames", 3, "--model", folder, "--json", report)
    said = json.loads(report.read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert said["same"] and not said["exact"] and within in said["exactness"] and "bit for bit" not in done.stdout


def test_several_blocks_are_planned_saved_and_verified(mini: Path, tmp_path: Path) -> None:
    report, folder = tmp_path / "report.json", tmp_path / "plan"
    done = dt("plan", mini, "--grid", "2x2", "--blocks", "max3, conv5,max7", "--out", folder, "--json", report)
    assert done.returncode == 0, done.stderr
    assert "block 3 of 3, 2x2, cut max7" in done.stdout and "between tiles" in done.stdout
    plan = json.loads(report.read_text())
    assert (
        plan["cuts"] == ["max3", "conv5", "max7"] and [t["block"] for t in plan["tiles"]] == [0] * 4 + [1] * 4 + [2] * 4
    )
    done = dt("verify", folder, "--json", report)
    assert done.returncode == 0 and "block 2" in done.stdout
    said = json.loads(report.read_text())
    assert (said["exact"], said["blocks"]) == (True, 3) and len(said["cut"]) == 3


def test_plan_for_a_cluster_says_what_it_expects_and_why(mini: Path, tmp_path: Path) -> None:
    report, folder = tmp_path / "report.json", tmp_path / "plan"
    options = ["--nodes", 6, "--rate", 60, "--speed", 33, "--gateway-speed", 55]
    done = dt("plan", mini, *options, "--force-split", "--explain", "--out", folder, "--json", report)
    assert done.returncode == 0, done.stderr
    for words in ("The closest rivals", "the tail: ", "run by ", "bytes of a frame by hop", "memory: edge1", "(bound "):
        assert words in done.stdout
    said = json.loads(report.read_text())
    assert set(said) == KEYS and said["latency_s"] > 0 and set(said["blocks"][0]) == {"cut", "grid", "split", "flops"}
    assert dt("verify", folder).returncode == 0
    assert json.loads((folder / "plan.json").read_text())["undivided"] is True
    tight = ["--memory", f"{said['memory_bytes']['edge1'] / 1e6 + 1:.1f}MB"]
    assert dt("plan", mini, *options, *tight, "--force-split", "--out", folder).returncode == 0
    assert json.loads((folder / "plan.json").read_text())["undivided"] is False
    done = dt("plan", mini, *options[:2], "--rate", "0.5", "--speed", 33)
    assert "one node alone is faster: " in done.stdout


@pytest.mark.parametrize(
    ("speeds", "says"),
    [
        (["--speed", 11], "11.0 GFLOP/s an edge, 11.0 the gateway; messages at 0.05 of the"),
        (["--speed", 11, "--message-speed", 0.3], "11.0 GFLOP/s an edge, 11.0 the gateway; messages at 0.3 of the"),
        (["--device", "pi4-1", "--gateway-speed", 30], "10.8 GFLOP/s an edge, 30.0 the gateway; messages at 0.2 of the"),
    ],
)
def test_a_plan_is_made_for_nodes_of_these_speeds(mini: Path, speeds: list[object], says: str) -> None:
    done = dt("plan", mini, "--grid", "2x2", "--cut", "max3", "--nodes", 4, "--rate", 60, *speeds)
    assert done.returncode == 0 and says in " ".join(done.stdout.split())


def test_a_named_plan_is_costed_and_put_beside_a_run(mini: Path, tmp_path: Path) -> None:
    run, report = tmp_path / "run.json", tmp_path / "report.json"
    line = {"edges": 4, "rate_mbit": 60.0, "edge_cpu": 0.15, "gateway_cpu": 0.25, "grid": "2x2", "cut": "max7"}
    run.write_text(json.dumps({**line, "latency_s": 0.5, "throughput_fps": 2.0, "wire_bytes": 900000.0}) + "\n\n")
    done = dt("plan", mini, "--compare", run, "--speed", 33, "--json", report)
    assert done.returncode == 0, done.stderr
    assert (
        "Predicted and measured" in done.stdout
        and "on 4 edges, 60 Mbit/s, all by the broker, 33.0 GFLOP/s an edge, 55.0 the" in done.stdout
    )
    assert [b["cut"] for b in json.loads(report.read_text())["blocks"]] == ["max7"]
    done = dt("plan", mini, "--compare", run, "--blocks", "max3,max7", "--grid", "2x2", "--json", report)
    assert done.returncode == 0, done.stderr
    assert [b["grid"] for b in json.loads(report.read_text())["blocks"]] == ["2x2", "2x2"]


def test_verify_takes_a_picture(mini: Path) -> None:
    assert dt("verify", mini, "--image", shared("data/images/cat.bmp")).returncode == 0


USAGE = [
    (["plan", "{dir}/text.tflite"], "text.tflite: not a .tflite file"),
    (["plan", "{dir}/absent.tflite"], "absent.tflite: No such file or directory"),
    (
        ["plan", "{mini}", "--cut", "conv9", "--grid", "41x41"],
        "a 41x41 grid leaves tiles empty: the map at cut conv9 is 40x40",
    ),
    (["plan", "{mini}", "--grid", "3by3"], "grid '3by3': give rows x columns"),
    (["plan", "{mini}", "--cut", "nowhere"], "no legal cut 'nowhere'"),
    (["plan", "{mini}", "--blocks", "max7,max3"], "cut max3 does not follow max7"),
    (["plan", "{mini}", "--blocks", "max7", "--cut", "max3"], "give --cut for one block or --blocks for several"),
    (["verify", "{mini}", "--blocks", "max3,nowhere"], "no legal cut 'nowhere'"),
    (["plan", "{mini}", "--nodes", "6"], "give both --nodes (edges) and --rate"),
    (
        ["plan", "{mini}", "--nodes", "6", "--rate", "60", "--speed", "9", "--memory", "lots"],
        "--memory 'lots': give bytes",
    ),
    (
        ["plan", "{mini}", "--nodes", "6", "--rate", "60", "--speed", "9", "--memory", "1MB"],
        "the smallest budget that would do",
    ),
    (["plan", "{mini}", "--nodes", "6", "--rate", "60", "--speed", "9", "--objective", "x"], "choose one of latency"),
    (["plan", "{mini}", "--nodes", "6", "--rate", "60", "--device", "pi9"], "no figures for device 'pi9': choose one of pi3"),
    (["plan", "{mini}", "--nodes", "6", "--rate", "60", "--device", "pi4", "--speed", "9"], "--device pi4 sets both speeds"),
    (["plan", "{mini}", "--compare", "{dir}/text.tflite"], "text.tflite is no run of bench.cluster"),
    (["plan", "{mini}", "--compare", "{dir}/absent.json"], "cannot read"),
    (["verify", "{mini}", "--image", "{dir}/text.tflite"], "text.tflite' is not a readable video"),
    (["demo", "--source", "file:///absent.mp4"], "there is no file '/absent.mp4'"),
    (["demo", "--source", "{dir}/clip.mp4"], "clip.mp4' is not a readable video"),
    (["gateway", "--model", "{mini}", "--listen", "nonsense"], "--listen 'nonsense': give HOST:PORT"),
    (["edge", "--gateway", "127.0.0.1:1", "--name", "a/b"], "--name 'a/b': use 1 to 64 letters"),
    (["build", "resnet", "--out", "{dir}/x.tflite"], "unknown network 'resnet'"),
    (["build", "mini", "--size", "333", "--out", "{dir}/x.tflite"], "size 333 is not a multiple of 32"),
]


@pytest.mark.parametrize(("argv", "says"), USAGE, ids=[" ".join(argv) for argv, _ in USAGE])
def test_bad_input_is_one_line_that_names_the_value(argv: list[str], says: str, mini: Path, tmp_path: Path) -> None:
    (tmp_path / "text.tflite").write_text("no model")
    (tmp_path / "clip.mp4").write_text("no video")
    told = refusal(*(a.format(dir=tmp_path, mini=mini) for a in argv))
    assert says in told and "\n" not in told


def test_a_refusal_ends_the_process_with_its_line_and_code() -> None:
    done = dt("plan", "absent.tflite")
    assert (done.returncode, done.stderr) == (2, "dt: cannot read the model absent.tflite: No such file or directory\n")


def test_unreachable_gateway_exits_69_when_asked_once() -> None:
    done = dt("edge", "--gateway", "127.0.0.1:1", "--once")
    assert done.returncode == 69
    assert "no broker at 127.0.0.1:1" in done.stderr and len(done.stderr.splitlines()) == 1


def test_taken_port_is_one_line(mini: Path) -> None:
    with BrokerProcess() as broker:
        done = dt("gateway", "--model", mini, "--listen", f"127.0.0.1:{broker.port}")
    assert done.returncode == 1
    assert f"127.0.0.1:{broker.port} is taken" in done.stderr and len(done.stderr.splitlines()) == 1


def test_gateway_refuses_an_unreachable_broker(mini: Path) -> None:
    done = dt("gateway", "--model", mini, "--broker", "mqtt://127.0.0.1:1")
    assert done.returncode == 69 and len(done.stderr.splitlines()) == 1


def test_edge_imports_neither_broker_nor_opencv() -> None:
    code = (
        "import sys, edge_agent.app; print([m for m in ('amqtt', 'cv2', 'rich', 'gateway_agent') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout.strip() == "[]", done.stderr


def test_names_of_a_model_are_shown_as_they_are_and_command_no_terminal(tmp_path: Path) -> None:
    graph = build("mini", 32, layers=3)
    names = ["image", "[/red]", "[bold]x", ":smile:", "\x1b[2J", *(f"[/x{i}]" for i in range(99))]
    tensors = [replace(tensor, name=name) for tensor, name in zip(graph.tensors, names)]
    model = tmp_path / "[red]mo\x1b]0;x\x07\x9bdel.tflite"
    model.write_bytes(Graph(tensors, graph.ops, graph.inputs, graph.outputs).to_bytes())
    for command in (["inspect", model], ["plan", model, "--grid", "2x2"], ["verify", model, "--grid", "2x2"]):
        done = dt(*command)
        assert done.returncode == 0 and not set("\x1b\x07\x9b") & set(done.stdout + done.stderr)
        assert "[/x" in done.stdout
    assert "[red]mo ]0;x del.tflite" in " ".join(done.stdout.split())
    for command in (["gateway", "--model", model, "--listen", "127.0.0.1:99999"], ["inspect", tmp_path / "no\x1bmodel"]):
        done = dt(*command)
        assert done.returncode and "\x1b" not in done.stdout + done.stderr and len(done.stderr.splitlines()) == 1


def test_operators_without_inputs_or_outputs_are_listed(tmp_path: Path) -> None:
    graph = build("mini", 32, layers=2)
    ops = [*graph.ops, Op("HASHTABLE_IMPORT", (0,), ()), Op("CONV_2D", (0,), (len(graph.tensors),))]
    tensors = [*graph.tensors, Tensor("made of nothing", (1, 8, 8, 3), "float32")]
    model = tmp_path / "odd.tflite"
    model.write_bytes(Graph(tensors, ops, graph.inputs, graph.outputs).to_bytes())
    done = dt("inspect", model)
    assert done.returncode == 0 and "HASHTABLE_IMPORT" in done.stdout, done.stderr


@pytest.mark.skipif(not runtime().startswith("ai-edge-litert"), reason="the older runtime has its own ways to die")
@pytest.mark.parametrize(
    "command",
    [
        ["verify", "{model}"],
        ["gateway", "--listen", "127.0.0.1:0", "--model", "{model}"],
        ["run", "{model}", "--source", "synthetic://?frames=1"],
        ["demo", "--model", "{model}"],
    ],
    ids=lambda command: command[0],
)
def test_a_model_that_kills_the_runtime_ends_a_command_with_a_line(command: list[str], tmp_path: Path) -> None:
    model = tmp_path / "crafted.tflite"
    model.write_bytes(splitting(0).to_bytes())
    done = dt(*(word.format(model=model) for word in command), "--grid", "2x2", "--cut", "1")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].endswith(
        "the TFLite runtime dies of it (SIGSEGV in a child process): it is damaged, crafted, or too large"
    )
