"""`dt run`: any model on any picture, folder or video, by a cluster of processes on this machine; says what it sees."""

import json as jsonlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from dt_cli.cluster import Images, PrivateCluster, Setup
from dt_cli.demo import check_sources, nodes_table, print_totals
from dt_cli.output import console
from dt_cli.pictures import Pictures
from dt_cli.streams import reader_is_gone
from models.bundle import Bundle, open_bundle
from models.planning.planner import parse_grid
from models.results.card import check_inputs, describe
from models.results.card_file import card_text
from models.trial import try_bundle
from schemas.contract import messages as m
from schemas.contract.errors import PlanError, unwritable
from schemas.contract.results import sentence
from schemas.host.process import interrupt_on_end


def run(
    model: Path,
    sources: Sequence[str],
    edges: int,
    frames: int | None,
    grid: str | None,
    cut: str,
    json: Path | None,
    pictures: Path | None,
    broker: str | None,
    write_card: Path | None = None,
) -> int:
    """Exit code 0 if no frame failed."""
    interrupt_on_end()
    edges = max(edges, len(sources))
    check_sources(sources, edges)
    with tempfile.TemporaryDirectory(prefix="dt-run-") as folder, ExitStack() as stack:
        bundle = open_bundle(model, parse_grid(grid) if grid else None, cut)
        check_inputs(bundle.card, bundle.graph, bundle.path.with_suffix(".toml"))
        with console.status("trying the model in a child process"):
            try_bundle(bundle)
        console.print(f"{'guessed' if bundle.card_guessed else 'card'}: {describe(bundle.card)}")
        if write_card is not None:
            save_card(bundle, write_card)
        report = Report(bundle, sources, json, pictures, stack)
        setup = Setup(model, edges, sources, frames, grid, cut, broker, outputs=pictures is not None)
        cluster = report.cluster = stack.enter_context(PrivateCluster(setup, bundle, Path(folder), report.tell))
        for _ in cluster.watch():
            if reader_is_gone() and not json and not pictures:
                break
        cluster.stop()
    console.print(nodes_table(cluster))
    summary = cluster.summary()
    print_totals(summary)
    return 0 if not summary["failed"] else 1


def save_card(bundle: Bundle, path: Path) -> None:
    """Writes the card that is used, to be changed by hand; beside the model, with its stem, it counts.

    Raises:
        PlanError: there is such a file, or it cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(card_text(bundle.card))
    except FileExistsError:
        raise PlanError(f"{path} already exists: name another file for --write-card, or remove it") from None
    except OSError as error:
        raise unwritable(path, error) from error
    console.print(f"written to {path}")


class Report:
    """One line a frame on the terminal, one JSON line in a file, one picture."""

    def __init__(
        self, bundle: Bundle, sources: Sequence[str], json: Path | None, pictures: Path | None, stack: ExitStack
    ) -> None:
        self.cluster: PrivateCluster
        self._file: IO[bytes] | None = None
        self._json = json or Path(os.devnull)
        if json is not None:
            with self._told():
                self._file = json.open("wb", buffering=0)  # what cannot be written is told at its line
                stack.callback(self._file.close)
        self._pictures = Pictures(pictures, bundle) if pictures else None
        self._images = {f"edge{i + 1}": Images(uri) for i, uri in enumerate(sources)} if pictures else {}
        for images in self._images.values():
            stack.callback(images.close)

    def tell(self, outcome: m.Outcome) -> None:
        """Say what one frame shows."""
        source, _, number = m.frame_source(outcome.frame)
        says = outcome.reason if outcome.result is None else sentence(outcome.result)
        failed = "" if outcome.status == "ok" else "FAILED: "
        console.print(f"{source} {number:5d}  {outcome.latency_s * 1000:6.0f} ms  {failed}{says}", markup=False)
        if self._file is not None:
            with self._told():
                written = memoryview(jsonlib.dumps(line(outcome)).encode() + b"\n")
                while written:
                    written = written[self._file.write(written) :]
        if self._pictures is not None:
            image = self._images[source].take(number)
            if outcome.result is not None:
                self._pictures.write(image, outcome, dict(self.cluster.outputs.get(outcome.frame, {})))

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Whoever read the JSON lines may go away; a disk that is full ends the command."""
        try:
            yield
        except BrokenPipeError:
            self._file = None
        except OSError as error:
            raise unwritable(self._json, error) from error


def line(outcome: m.Outcome) -> dict[str, object]:
    """One frame as JSON: number, source, time (seconds from its first word to its outcome), status, and what is seen."""
    source, _, number = m.frame_source(outcome.frame)
    told: dict[str, object] = {
        "frame": number,
        "source": source,
        "time": round(outcome.latency_s, 4),
        "status": outcome.status,
        "reason": outcome.reason,
        "picture": outcome.picture,
    }
    return told | (outcome.result.model_dump() if outcome.result else {})
