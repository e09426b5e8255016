"""The plan that a gateway chose while it ran, on disk: a gateway that takes up after it runs the same.

So frames in flight outlive the restart: to the edges the plan is no news. It keeps two laws: whoever asks for something
else gets that, for a plan was chosen under the words of one command line and is not taken up under others; and a file that
does not hold together is a warning, never an error.
"""

import contextlib
import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from models.bundle import Bundle, make_bundle, open_card, with_plan
from models.results.card import Card
from schemas.contract.config import GatewayOptions
from schemas.contract.errors import DtError, PlanError
from schemas.contract.plan import PLAN_VERSION, Digest, Plan, Record, digest
from schemas.host.state import read, write

CHOSEN = "chosen.json"
MOST_BYTES = 16 * 2**20
_log = logging.getLogger(__name__)


class Chosen(Record):
    """What ran, of which model file; ``asked``: under which words; ``automatic``: whether the gateway plans again by itself.

    ``digest`` is that of the rest.
    """

    asked: tuple[str, ...]
    model: str
    automatic: bool
    plan: Plan
    card: Card
    digest: Digest = "0" * 32

    def sum(self) -> str:
        """What ``digest`` must be."""
        return digest(self.model_dump_json(exclude={"digest"}).encode())


class _Grid(Record):
    rows: Annotated[int, Field(ge=1, le=64)]
    cols: Annotated[int, Field(ge=1, le=64)]


class _EarlierPlan(Record):
    version: Annotated[int, Field(ge=1, lt=PLAN_VERSION)]
    blocks: Annotated[tuple[_Grid, ...], Field(min_length=1)]


class Earlier(Record):
    """What is still good of a file with a plan of an earlier version: which model, and the grid of its first block."""

    asked: tuple[str, ...]
    model: str
    automatic: bool
    plan: _EarlierPlan


@dataclass(frozen=True)
class PlanStore:
    """The file in ``folder``, for a gateway with these options."""

    folder: Path
    options: GatewayOptions

    @property
    def path(self) -> Path:
        return self.folder / CHOSEN

    def keep(self, bundle: Bundle, automatic: bool) -> None:
        """This runs from now on.

        Raises:
            DtError: the disk is full or gone; what was kept before still is.
        """
        chosen = Chosen(
            asked=self._asked(), model=str(bundle.path.absolute()), automatic=automatic, plan=bundle.plan, card=bundle.card
        )
        write(self.path, chosen.model_copy(update={"digest": chosen.sum()}).model_dump_json().encode())

    def take_up(self, models: Collection[Path] = ()) -> tuple[Bundle, bool] | None:
        """What ran before this process, and whether it is planned again; None: nothing, or something else is asked for.

        ``models``: files that may have been chosen besides the one that the options name.
        """
        if not self.path.exists():
            return None
        try:
            chosen = self._read()
            if chosen.asked != self._asked():
                return None
            path = Path(chosen.model)
            if path not in {self._own(), *(model.absolute() for model in models)}:
                raise PlanError(f"{path} is not among the current models")
            if isinstance(chosen, Earlier):
                first = chosen.plan.blocks[0]
                card = open_card(self.options.model or path) if path == self._own() else None
                _log.info("the saved plan is of version %d: planning again", chosen.plan.version)
                return make_bundle(path, (first.rows, first.cols), card=card), chosen.automatic
            if chosen.card != open_card((self.options.model or path) if path == self._own() else path):
                raise PlanError(f"the card of {path} has changed")
            return with_plan(path, chosen.plan, chosen.card, str(self.path)), chosen.automatic
        except DtError as error:
            _log.warning("ignoring the saved plan: %s", error)
            return None

    def _read(self) -> Chosen | Earlier:
        data = read(self.path, MOST_BYTES) or b""
        try:
            chosen = Chosen.model_validate_json(data)
        except ValidationError as error:
            with contextlib.suppress(ValidationError):
                return Earlier.model_validate_json(data, extra="ignore")
            raise PlanError(f"{self.path} is spoilt: {error.error_count()} faults") from None
        if chosen.digest != chosen.sum():
            raise PlanError(f"{self.path} is corrupt: its digest does not match")
        return chosen

    def _own(self) -> Path:
        model = self.options.model or Path()
        return (model / "model.tflite" if model.is_dir() else model).absolute()

    def _asked(self) -> tuple[str, ...]:
        options = self.options
        return str(self._own()), options.grid or "", options.cut, options.objective or ""
