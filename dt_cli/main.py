"""`dt`: one console command. A subcommand imports what it needs when it runs, so that an edge never loads a broker."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from dt_cli import streams
from dt_cli.options import ConfigFile, takes
from schemas.contract.errors import FULL, DtError, PlanError
from schemas.contract.redact import redact
from schemas.host.process import blank_arguments, complain, version
from schemas.host.settings import Loaded

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Run one CNN on a cluster of cheap machines, over MQTT, bit for bit.",
    epilog="Exit codes: 0 done, 1 a failure, 2 usage or a bad file, 69 unreachable, 78 a bad configuration, 130 interrupted.",
)
importer = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Turn another program's network into a .tflite."
)
app.add_typer(importer, name="import")
configurer = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Check and show the configuration: files, environment, defaults."
)
app.add_typer(configurer, name="config")
installer = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Make a gateway or an edge a systemd service of this machine."
)
app.add_typer(installer, name="install")

Model = Annotated[Path, typer.Argument(help="A .tflite file.", show_default=False)]
ModelOrFolder = Annotated[
    Path, typer.Argument(help="A .tflite file, or a folder that 'dt plan' wrote.", show_default=False)
]
Grid = Annotated[Optional[str], typer.Option(help="Tiles, rows x columns. [default: 3x3]", show_default=False)]  # noqa: UP045
CutName = Annotated[str, typer.Option("--cut", help="Where to cut: a tensor's name, an operator's index, or auto.")]
Blocks = Annotated[
    str | None,
    typer.Option(help="Blocks: CUT, or CUT=2x3, 'CUT=filters 6', CUT=whole; joined by commas.", show_default=False),
]
Approximate = Annotated[
    bool, typer.Option("--approximate", help="Layers may be summed in parts (channels 6, pair 6): not the model's own bits.")
]
Whole = Annotated[
    str | None,
    typer.Option(
        help="Blocks behind those, each executed whole on one edge: their cuts, joined by commas; 'end' is the model's end.",
        show_default=False,
    ),
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the same as JSON to this file.", show_default=False)]
Sources = Annotated[
    list[str] | None,
    typer.Option(
        "--source", help="Frames: file:///clip.mp4, dir:///images, synthetic://. One for each edge with a camera."
    ),
]
Broker = Annotated[
    str | None,
    typer.Option(help="amqtt, mosquitto, auto, or yours: mqtt://HOST:PORT [default: amqtt]", show_default=False),
]
PicturesFolder = Annotated[
    Path | None, typer.Option("--pictures", help="Write annotated pictures to this folder.", show_default=False)
]
Root = Annotated[str, typer.Option(help="First topic level; one per cluster.")]
State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        help="Folder for credentials. [default: $STATE_DIRECTORY, or ~/.local/state/deepthings/ROOT]",
        show_default=False,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(help="Threads of the TFLite runtime. [default: those of a node here]", min=1, max=64, show_default=False),
]


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"dt {version()}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """What stands before a command."""


@app.command()
def manual() -> None:
    """Print the manual page: dt manual > /usr/local/share/man/man1/dt.1."""
    from dt_cli import manual as command

    print(command.page(typer.main.get_command(app)), end="")


@app.command()
def build(
    network: Annotated[
        str, typer.Argument(help="yolov2, alexnet, vgg16, extraction, xception, c3d, or mini (small, like yolov2).")
    ],
    out: Annotated[Path, typer.Option(help="The .tflite file to write.", show_default=False)],
    size: Annotated[
        int | None, typer.Option(help="Width and height. [default: the paper's]", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Weights are drawn from it.", min=0)] = 1,
    layers: Annotated[Optional[int], typer.Option(help="Only the first so many layers.", show_default=False)] = None,  # noqa: UP045
) -> None:
    """Build a network with random weights, for tests and measurements."""
    from dt_cli import offline

    offline.build_model(network, out, size, seed, layers)


@app.command()
def get(
    what: Annotated[
        str | None, typer.Argument(metavar="[NAME|URL]", help="A name of the list, or an https:// address.", show_default=False)
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="The file's SHA-256; another file is refused.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="File or folder. [default: this folder, NAME.tflite]", show_default=False)
    ] = None,
) -> None:
    """Fetch a model from its publisher, write its card and try it; without a name, list what is known."""
    from dt_cli import get as command

    if what is None:
        command.show()
    else:
        command.get(what, sha256, out)


@importer.command()
def darknet(
    cfg: Annotated[Path, typer.Argument(help="The network, as yolov3-tiny.cfg.", show_default=False)],
    weights: Annotated[Path, typer.Argument(help="Its weights, as yolov3-tiny.weights.", show_default=False)],
    out: Annotated[
        Path, typer.Option(help="The .tflite file to write; its card, a .toml, goes beside it.", show_default=False)
    ],
    names: Annotated[
        Path | None, typer.Option(help="Labels, one a line. [default: class0, class1...]", show_default=False)
    ] = None,
) -> None:
    """YOLOv2, YOLOv3 and their tiny versions from Darknet's cfg and weights, with a card."""
    from dt_cli import importing

    importing.darknet(cfg, weights, out, names)


@importer.command()
def fixed(
    model: Model,
    size: Annotated[str, typer.Option(help="Height and width of its image, as 320x640.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The .tflite file to write.", show_default=False)],
) -> None:
    """A .tflite whose image may have any size, for images of one size."""
    from dt_cli import importing

    importing.fixed(model, size, out)


@app.command()
def inspect(
    model: Model,
    all_: Annotated[bool, typer.Option("--all", help="List every operator and every cut.")] = False,
    json: Json = None,
) -> None:
    """Say how far a model can be divided, where it may be cut, and what that would cost."""
    from dt_cli import offline

    offline.inspect_model(model, json, all_)


@app.command()
def plan(
    model: Model,
    grid: Grid = None,
    cut: CutName = "auto",
    blocks: Blocks = None,
    whole: Whole = None,
    approximate: Approximate = False,
    nodes: Annotated[int | None, typer.Option(help="Plan for so many edges.", min=1, max=64, show_default=False)] = None,
    rate: Annotated[
        float | None, typer.Option(help="Mbit/s of every host's link, up and down.", min=0.01, show_default=False)
    ] = None,
    speed: Annotated[
        float | None, typer.Option(help="GFLOP/s of an edge. [default: this machine's]", min=0.001, show_default=False)
    ] = None,
    message_speed: Annotated[
        float | None,
        typer.Option(
            help="How fast an edge handles messages; a fast x86-64 core (220 GFLOP/s) is 1. [default: as --speed, of 220]",
            min=0.0001,
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="pi3, pi4 or pi5 for both speeds; pi4-1 for one thread.", show_default=False)
    ] = None,
    gateway_speed: Annotated[
        float | None, typer.Option(help="GFLOP/s of the gateway. [default: an edge's]", min=0.001, show_default=False)
    ] = None,
    direct: Annotated[
        str | None, typer.Option(help="on, or off: tiles and parts go by the broker, too. [default: on]", show_default=False)
    ] = None,
    radio: Annotated[bool, typer.Option("--radio", help="All hosts share one Wi-Fi channel of that rate.")] = False,
    memory: Annotated[
        str | None, typer.Option(help="What an edge (of --keep 1) may use at most, such as 120MB.", show_default=False)
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            help="Frames in flight, as an edge's --window. [default: 1; 2 for throughput]", min=1, max=32, show_default=False
        ),
    ] = None,
    objective: Annotated[str, typer.Option(help="latency, throughput, traffic or memory (of the largest host).")] = "latency",
    force_split: Annotated[
        bool, typer.Option("--force-split", help="Divide frames even if one node alone is faster.")
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show bytes, memory and the closest rivals.")] = False,
    compare: Annotated[
        Path | None, typer.Option(help="What bench.cluster measured: a JSON line.", show_default=False)
    ] = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder to write plan and model to.", show_default=False)] = None,  # noqa: UP045
    json: Json = None,
) -> None:
    """Divide a model into tiles and show what they cost; with --nodes and --rate, the plan that is best there."""
    from dt_cli import offline, planning

    shape = planning.Shape(grid, cut, blocks, whole, approximate)
    wishes = planning.Wishes(
        nodes, rate, speed, message_speed, device, gateway_speed, memory, window, objective, force_split, explain, compare,
        direct, radio,
    )  # fmt: skip
    if wishes.is_said:
        planning.plan_cluster(model, shape, wishes, out, json)
    else:
        offline.plan_model(model, shape, out, json)


@app.command()
def verify(
    model: ModelOrFolder,
    grid: Grid = None,
    cut: CutName = "auto",
    blocks: Blocks = None,
    whole: Whole = None,
    approximate: Approximate = False,
    image: Annotated[Path | None, typer.Option(help="A picture; random pixels otherwise.", show_default=False)] = None,
    threads: Threads = None,
    json: Json = None,
) -> None:
    """Run tiles and tail in one process and compare them with the unpartitioned model; exit 1 if a bit differs."""
    from dt_cli import offline, planning

    raise typer.Exit(offline.verify_model(model, planning.Shape(grid, cut, blocks, whole, approximate), image, threads, json))


@app.command()
@takes("gateway")
def gateway(loaded: Loaded) -> None:
    """Coordinate a cluster: host the broker, publish the plan, merge tiles and run the tail."""
    from gateway_agent import start as agent

    raise typer.Exit(agent.main(loaded.settings))


@app.command()
@takes("edge")
def edge(loaded: Loaded) -> None:
    """Compute tiles: of this node's own frames (--source), and stolen ones when idle."""
    from edge_agent import app as agent

    raise typer.Exit(agent.main(loaded.settings))


AsJson = Annotated[bool, typer.Option("--json", help="As JSON, on stdout.")]
THE_CLUSTER = ("gateway", "root", "join", "state")  # how a command that only looks finds it and gets in


@app.command()
@takes("edge", only=THE_CLUSTER, json=AsJson)
def nodes(loaded: Loaded, json: bool) -> None:
    """List the nodes of a cluster: what they compute, and how their machines fare."""
    from dt_cli import watch as command

    command.nodes(loaded.settings, json)


@app.command()
@takes("edge", only=THE_CLUSTER)
def watch(loaded: Loaded) -> None:
    """Watch a cluster: nodes, frames a second, latency, the last results. Ctrl-C ends it."""
    from dt_cli import watch as command

    command.watch(loaded.settings)


@app.command()
@takes("edge", only=(*THE_CLUSTER, "cache"), json=AsJson)
def doctor(loaded: Loaded, json: bool) -> None:
    """Look at this machine and its way to the gateway: what is wrong, and what to do. Exit 1 if something is broken."""
    from dt_cli import doctor as command

    raise typer.Exit(command.doctor(loaded.settings, json))


@app.command()
def enroll(
    name: Annotated[str | None, typer.Argument(help="The new node's name.", show_default=False)] = None,
    gateway: Annotated[
        str | None,
        typer.Option(help="HOST:PORT under which nodes reach the gateway. [default: as it listens]", show_default=False),
    ] = None,
    root: Root = "dt",
    state: State = None,
    minutes: Annotated[float, typer.Option(help="How long the line may be used.", min=0.01, max=10080)] = 60.0,
    open_: Annotated[
        float | None,
        typer.Option(
            "--open", help="A line that anybody new may use for so many minutes.", min=0.01, max=1440, show_default=False
        ),
    ] = None,
    reader: Annotated[
        bool, typer.Option("--reader", help="Not a node, but who looks on: print the line for dt nodes and dt watch.")
    ] = False,
    ha: Annotated[
        bool, typer.Option("--ha", help="Not a node, but Home Assistant: print what to enter there.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="Show who is enrolled.")] = False,
) -> None:
    """On the gateway: print the one line by which a node joins (dt edge --join LINE)."""
    from dt_cli import enrolling

    if list_:
        enrolling.list_members(root, state)
    elif (name is None) == (open_ is None):
        raise PlanError("dt enroll NAME lets one node in, dt enroll --open MINUTES anybody new: give one of them")
    elif reader + ha + (open_ is not None) > 1:
        raise PlanError("choose one of --open, --reader and --ha")
    elif name and reader:
        enrolling.enroll_reader(name, gateway, root, state)
    elif name and ha:
        enrolling.enroll_home(name, gateway, root, state)
    else:
        enrolling.enroll(name, gateway, root, state, minutes if open_ is None else open_)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The node's name.", show_default=False)],
    root: Root = "dt",
    state: State = None,
) -> None:
    """On the gateway: take a node's rights away, within seconds."""
    from dt_cli import enrolling

    enrolling.revoke(name, root, state)


@app.command()
def demo(
    edges: Annotated[int, typer.Option(help="Edges; the first has the camera.", min=1, max=32)] = 3,
    frames: Annotated[int, typer.Option(help="Frames to run.", min=1)] = 8,
    grid: Grid = None,
    cut: CutName = "auto",
    blocks: Blocks = None,
    whole: Whole = None,
    approximate: Approximate = False,
    model: Annotated[
        Path | None,
        typer.Option(help="A .tflite file or plan folder. [default: the digit reader]", show_default=False),
    ] = None,
    source: Sources = None,
    json: Json = None,
    broker: Broker = None,
    pictures: PicturesFolder = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Then keep the cluster alive, for its dashboard, until Ctrl-C.")
    ] = False,
    http: Annotated[
        str | None, typer.Option(help="HOST:PORT of the dashboard. [default: a free port]", show_default=False)
    ] = None,
    gateway: Annotated[
        Optional[list[str]], typer.Argument(help="After --: more options for dt gateway.", show_default=False)  # noqa: UP045
    ] = None,
) -> None:
    """Run a whole cluster on this machine and check every answer against the unpartitioned model."""
    from dt_cli import demo as command
    from dt_cli.planning import Shape

    sources = source or ["synthetic://?scene=digits"]
    more = gateway or []
    shape = Shape(grid, cut, blocks, whole, approximate)
    raise typer.Exit(command.run(edges, frames, shape, model, sources, json, broker, pictures, serve, http, more))


@app.command()
def run(
    model: ModelOrFolder,
    source: Sources = None,
    edges: Annotated[int, typer.Option(help="Edges; the first ones have the sources.", min=1, max=32)] = 3,
    frames: Annotated[
        int | None, typer.Option(help="Stop after so many frames of each source.", min=1, show_default=False)
    ] = None,
    grid: Grid = None,
    cut: CutName = "auto",
    json: Annotated[
        Path | None, typer.Option("--json", help="Write one JSON line a frame.", show_default=False)
    ] = None,
    pictures: PicturesFolder = None,
    write_card: Annotated[
        Path | None, typer.Option(help="Write the card that is used to this file.", show_default=False)
    ] = None,
    broker: Broker = None,
) -> None:
    """Try any model on any picture, folder or video, by a cluster on this machine, and say what it sees."""
    from dt_cli import run as command

    if not source:
        raise PlanError("dt run needs --source: a picture, a video, a folder or a URI such as synthetic://?frames=8")
    raise typer.Exit(command.run(model, source, edges, frames, grid, cut, json, pictures, broker, write_card))


@configurer.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(help="One file. [default: those that count on this machine]", show_default=False)
    ] = None,
) -> None:
    """Exit 0 if every key is known and every value allowed, 78 with one line if not."""
    from dt_cli import configuration

    configuration.check(file)


@configurer.command()
def show(
    config: ConfigFile = None,
    json: AsJson = False,
) -> None:
    """Print every option, its value and where that comes from; no secrets."""
    from dt_cli import configuration

    configuration.show(config, json)


Installing: dict[str, Any] = {
    "dry_run": Annotated[bool, typer.Option("--dry-run", help="Print what would be written.")],
    "uninstall": Annotated[bool, typer.Option("--uninstall", help="Stop it and remove what was written.")],
    "prefix": Annotated[
        Path | None, typer.Option(help="Write below this folder instead of /, and start nothing.", show_default=False)
    ],
}


@installer.command("gateway")
@takes("gateway", **Installing)
def install_gateway(loaded: Loaded, dry_run: bool, uninstall: bool, prefix: Path | None) -> None:
    """Write the gateway's unit, and the options given here as its configuration."""
    from dt_cli import install

    install.install("gateway", loaded, prefix or Path("/"), dry_run, uninstall)


@installer.command("edge")
@takes("edge", **Installing)
def install_edge(loaded: Loaded, dry_run: bool, uninstall: bool, prefix: Path | None) -> None:
    """Write the edges' unit, and the options given here as the configuration of this one (--name)."""
    from dt_cli import install

    install.install("edge", loaded, prefix or Path("/"), dry_run, uninstall)


def main() -> None:
    """Entry point: one line for a failure that a user can act on, with its exit code."""
    blank_arguments()
    streams.open_missing()
    if not os.environ.get("DT_DEBUG"):
        from models.running.engine import silence_runtime

        silence_runtime()
    streams.guard()
    try:
        code = app(standalone_mode=False)
        if code == 130:  # newer versions of typer turn Ctrl-C into an exit code
            raise KeyboardInterrupt
        sys.stdout.flush()
        sys.exit(code)
    except DtError as error:
        complain(f"dt: {error}")
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("dt: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            complain(f"dt: {error.filename or 'a file'}: {error.strerror}: make room there")
            sys.exit(1)
        if not hasattr(error, "show"):  # a usage error: typer ships its own click, so its class has no public name
            raise
        vars(error)["message"] = redact(str(vars(error).get("message", "")))  # it may quote an argument
        error.show(file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
