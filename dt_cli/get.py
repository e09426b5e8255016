"""`dt get`: a model of the list, or of an address, with its card, tried in a child process."""

import re
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from dt_cli.download import check_url, digest_of, download, verify
from dt_cli.output import console, table
from models.bundle import open_bundle
from models.results.card import describe
from models.results.card_file import card_text, toml_text
from models.trial import try_bundle
from schemas.contract.errors import PlanError, UnreachableError
from schemas.contract.plan import Record
from schemas.host.files import write_files
from schemas.host.toml import parse

LABELS = {
    "coco": (
        "https://raw.githubusercontent.com/google-coral/test_data/104342d2d3480b3e66203073dac24f4e2dbb4c41/coco_labels.txt",
        "sha256:dc183f003fc753c4c43fae6fdf7f387559449573f13fa32e517fb7453fd380f1",
    )
}


class Entry(Record):
    """One model of the list. ``card`` is what its file does not tell; ``labels`` names a file of ``LABELS``."""

    sees: str
    publisher: str
    license: str
    url: str
    digest: str = ""
    card: dict[str, Any] = {}
    labels: str = ""


def catalog() -> dict[str, Entry]:
    """The list, by name."""
    text = resources.files("dt_cli").joinpath("catalog.toml").read_text(encoding="utf-8")
    return {name: Entry.model_validate(values) for name, values in parse(text).items()}


def show() -> None:
    """Print the list."""
    shown = table("Models that publishers give away", "name", "sees", "licence, publisher", "digest",
                  left=("name", "sees", "licence, publisher", "digest"))  # fmt: skip
    for name, entry in catalog().items():
        shown.add_row(name, entry.sees, f"{entry.license}, {entry.publisher}", "known" if entry.digest else "not verified")
    console.print(shown)


def get(what: str, digest: str | None, out: Path | None) -> None:
    """Fetch the model ``what``, a name of the list or an address, unless it is there; write its card, and try it.

    Raises:
        PlanError: there is no such name or address, or the model cannot be planned.
        DtError: it cannot be fetched, is not the file that it should be, or does not run.
    """
    entry = _entry(what)
    wanted = f"sha256:{_hexadecimal(digest)}" if digest else entry.digest
    path = _path(what, entry, out)
    console.print(f"{path.name}: {entry.license}, by {entry.publisher}")
    if path.exists():
        if wrong := wanted and verify(path, wanted):
            raise PlanError(f"{path} {wrong}: it is another file; move it away, or name one with --out")
        console.print(f"{path} is there already")
    else:
        _fetch(entry.url, path, wanted)
    if not wanted:
        console.print(
            f"not verified: its digest is not known. Compare its SHA-256 with the publisher's: {digest_of(path, 'sha256')}"
        )
    _write_card(path, entry)
    bundle = open_bundle(path)
    with console.status("trying the model in a child process"):
        try_bundle(bundle)
    card = path.with_suffix(".toml")
    if bundle.card_guessed and bundle.card.decoder != "raw":
        _write(card, card_text(bundle.card))
    console.print(f"{path}: {describe(bundle.card)}; run it: dt run {path} --source PICTURE")
    if bundle.card.decoder == "raw":
        console.print(f"nothing tells what its outputs mean: write a card, {card} (docs/MODELS.md)")


def _entry(what: str) -> Entry:
    known = catalog()
    if what in known:
        return known[what]
    if "://" not in what:
        raise PlanError(f"there is no model {what!r} in the list, which 'dt get' prints; or give its address, https://...")
    host = urlsplit(check_url(what)).hostname or ""
    return Entry(sees="", publisher=host, license="whatever licence its publisher says", url=what)


def _path(what: str, entry: Entry, out: Path | None) -> Path:
    name = unquote(Path(urlsplit(entry.url).path).name) if "://" in what else f"{what}.tflite"
    path = Path(name) if out is None else out / name if out.is_dir() else out
    if path.suffix != ".tflite" or "/" in name:
        raise PlanError(f"{path.name!r} is no name of a model: give --out FILE.tflite (docs/MODELS.md tells how to make one)")
    return path


def _hexadecimal(digest: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise PlanError(f"--sha256 {digest[:80]!r}: give 64 hexadecimal digits")
    return digest.lower()


def _fetch(url: str, path: Path, digest: str) -> None:
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
            task = shown.add_task(path.name, total=None)
            download(url, path, digest, lambda here, total: shown.update(task, completed=here, total=total))
    except UnreachableError as error:
        raise UnreachableError(
            f"{error}. Without a network: fetch {url} on another machine, copy it to {path.absolute()}, and say this again: it "
            "checks the file and writes its card"
        ) from None


def _write_card(path: Path, entry: Entry) -> None:
    """The card of the list, unless there is one."""
    card = path.with_suffix(".toml")
    if not entry.card or card.exists():
        return
    values = dict(entry.card)
    if entry.labels:
        url, digest = LABELS[entry.labels]
        labels = path.with_name(f"{entry.labels}_labels.txt")
        if not labels.exists():
            _fetch(url, labels, digest)
        values["labels"] = labels.name
    _write(card, toml_text(values))


def _write(card: Path, text: str) -> None:
    write_files({card: [text.encode()]})
    console.print(f"its card: {card}")
