"""``dt gateway`` starts: model and plan, broker, journal, watchers, and then the loop (``gateway_agent.app``)."""

import contextlib
import logging
import sys
from collections.abc import Collection
from pathlib import Path

from gateway_agent.access import arrange, packet_bytes
from gateway_agent.app import Gateway
from gateway_agent.controls import Request
from gateway_agent.detectors import Detectors, sources
from gateway_agent.journal import JOURNAL, Journal
from gateway_agent.plan_store import PlanStore
from gateway_agent.plans import bind, complete
from models.bundle import Bundle, open_bundle
from models.planning.planner import parse_grid
from models.running.engine import threads
from models.trial import try_bundle
from schemas.contract.address import Address
from schemas.contract.config import GatewayOptions, Settings, is_loopback, parse_listen
from schemas.contract.errors import DtError, PlanError
from schemas.contract.text import one_line
from schemas.host.discovery import announced
from schemas.host.packages import install
from schemas.host.process import log_to_stderr, on_end
from schemas.host.service import Service
from schemas.host.state import state_folder

_log = logging.getLogger(__name__)


def main(settings: Settings) -> int:
    """``dt gateway``: runs until SIGTERM or Ctrl-C. Returns the exit code."""
    log_to_stderr(settings.log)
    options, service = settings.gateway, Service.found()
    if options.model is None:
        raise PlanError("dt gateway needs a model: --model FILE, or gateway.model in a configuration file")
    models = find_models(options.models) if options.models else {}
    folder, detectors = state_folder(options.state, options.root), sources(options)
    memory = PlanStore(folder, options)
    bundle, automatic = first_bundle(options, memory, models.values())
    access = arrange(options, packet_bytes(bundle.plan))
    if options.ha and not options.ha_broker and access.home is None:
        raise PlanError(
            "--ha in a sealed cluster takes mosquitto, for the embedded broker lets everybody command: apt install mosquitto, "
            "or name Home Assistant's own broker: --ha-broker mqtt://USER:PASSWORD@HOST"
        )
    journal = Journal(folder / JOURNAL)
    with contextlib.ExitStack() as stack:
        stack.callback(journal.close)
        if access.broker is not None:
            stack.enter_context(access.broker)
        address = access.address()
        if options.announce:
            _announce(stack, options.root, access.broker.host if access.broker is not None else "", address)
        app = Gateway(options, bundle, address, access.broker, service, journal, access.guard)
        given = options.grid is not None or options.cut != "auto" or options.model.is_dir()
        objective = options.objective or ("fixed" if given else "latency")
        if objective != "fixed" if automatic is None else automatic:
            app.plans.replan("latency" if objective == "fixed" else objective)
        app.models, app.keep = models, memory.keep
        if options.ha or options.ha_broker:
            from gateway_agent.homeassistant.watcher import PICTURES_S, HomeAssistant, settings_of

            own = access.home() if access.home is not None else ""
            app.watch(HomeAssistant(app, settings_of(options, own)), PICTURES_S)
        on_end(app.stop)
        if options.http is not None:
            serve_dashboard(app, options.http, options.root, options.state)
        if detectors:
            stack.enter_context(Detectors(options, detectors, address, access, lambda path: run_sent(app, path)))
        return app.run()


def first_bundle(options: GatewayOptions, memory: PlanStore, models: Collection[Path]) -> tuple[Bundle, bool | None]:
    """Model and plan to begin with, tried, and whether they are planned again (None: as ``options`` say): what was chosen
    before this process, or, if nothing was or that fails, what is configured.

    Raises:
        DtError: what is configured fails.
    """
    before = memory.take_up(models)
    if before is not None:
        bundle, automatic = bind(before[0]), before[1]
        try:
            try_bundle(bundle, threads(options.threads))
        except DtError as error:
            _log.error("the saved plan failed; running the configured one instead: %s", error)
        else:
            _log.info("resuming the saved plan; pass --grid, --cut, --model or --objective to replace it")
            return bundle, automatic
    assert options.model is not None
    bundle = bind(complete(open_bundle(options.model, parse_grid(options.grid) if options.grid else None, options.cut)))
    try_bundle(bundle, threads(options.threads))
    return bundle, None


def _announce(stack: contextlib.ExitStack, root: str, listens: str, address: Address) -> None:
    """Let edges find the broker at ``address`` as long as ``stack`` is open, unless it is for this machine alone.

    ``listens``: the host on which our own broker does; empty for somebody else's. Who cannot be found still works.
    """
    host = listens or address.host
    if is_loopback(host):
        return
    try:
        stack.enter_context(announced(root, host, address.port, address.tls))
    except DtError as error:
        _log.warning("edges have to name this gateway's address: %s", error)


def serve_dashboard(app: Gateway, http: str, root: str, state: Path | None = None) -> None:
    """Show ``app`` on ``http`` (HOST:PORT) as long as it runs; ``state``: the folder of its token, as in the options.

    Raises:
        PlanError: the port cannot be had, or the extra is not installed.
    """
    try:
        from gateway_agent.dashboard.watcher import PICTURES_S, Dashboard
    except ModuleNotFoundError as error:
        raise PlanError(f"--http needs {error.name}: {install('dashboard')}") from None
    dashboard = Dashboard(app, *parse_listen(http), root, state)
    app.watch(dashboard, PICTURES_S)
    print(f"dashboard at {dashboard.told(sys.stdout.isatty())}", flush=True)


def run_sent(app: Gateway, path: Path) -> None:
    """Run a model that a client has sent, once a child has tried it; one that cannot be run does not stay."""
    name = one_line(path.stem)
    is_new = name not in app.models
    app.models[name] = path

    def answer(refused: str) -> None:
        if refused:
            _log.error("the model %s that Frigate has sent does not run: %s", name, refused)
            if is_new:
                app.models.pop(name, None)
                path.unlink(missing_ok=True)

    app.ask(Request("model", name, answer))


def find_models(folder: Path) -> dict[str, Path]:
    """The models of a folder, by their files' stems.

    Raises:
        PlanError: there is none.
    """
    found = {one_line(path.stem): path for path in sorted(folder.glob("*.tflite"))}
    if not found:
        raise PlanError(f"--models {folder}: there is no .tflite file in it")
    return found
