"""What the documents say of the code is so: rooms and their imports, the walk of a frame, topics, links, decisions, targets."""

import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

from schemas.rights import is_sealed
from schemas.topics import TABLE
from tests.map import FLOORS, ROOT, rooms

DESIGN, PROTOCOL = (ROOT / "docs" / f"{name}.md" for name in ("DESIGN", "PROTOCOL"))
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted((ROOT / "docs").rglob("*.md"))


def section(page: Path, title: str) -> str:
    """What stands below a heading of the second level."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no section {title!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of a table, without its heading."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def named(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def steps() -> list[str]:
    """The walk of a frame, a step a line."""
    return re.split(r"^\d+\. ", section(DESIGN, "The walk of a frame"), flags=re.MULTILINE)[1:]


def test_the_design_lists_every_room_and_what_it_imports() -> None:
    table = rows(section(DESIGN, "Rooms"))
    listed = {named(room)[0].strip("/"): {top.strip("/") for top in named(imports)} for room, _, imports in table}
    drawn = {
        room.replace(".", "/"): {target.split(".")[0] for target in targets} - {room.split(".")[0]}
        for room, targets in rooms().items()
    }
    assert listed == drawn, "docs/DESIGN.md, Rooms"


def test_no_room_imports_one_above_it() -> None:
    for room, targets in rooms().items():
        for target in targets - {room}:
            ours, theirs = room.split(".")[0], target.split(".")[0]
            assert ours == theirs or FLOORS[theirs] < FLOORS[ours], f"{room} imports {target}"


def test_the_rooms_are_all_folders_of_code() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == FLOORS.keys()


def test_a_frame_walks_in_at_most_fifteen_steps_through_each_room_once() -> None:
    entered = [named(step)[0] for step in steps()]
    assert 5 <= len(entered) <= 15 and len(set(entered)) == len(entered)
    assert all((ROOT / room).exists() for room in entered)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    tops = "|".join((*FLOORS, "tests", "docs", "systemd"))
    for name in named(re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)):
        if re.fullmatch(rf"(?:{tops})/[\w./-]*", name):
            assert any((ROOT / path).exists() for path in (name, f"{name}.py", f"tests/{name}.py")), f"{page.name} names {name}"


def test_the_protocol_lists_every_topic_as_the_table_has_it() -> None:
    listed = {named(topic)[0]: cells for topic, *cells in rows(section(PROTOCOL, "Topics"))}
    assert list(listed) == [row.pattern for row in TABLE], "docs/PROTOCOL.md, Topics"
    for row in TABLE:
        way, qos, seal, payload = listed[row.pattern]
        assert way == f"{row.publisher} -> {row.subscriber}", row.pattern
        assert qos == f"{row.qos}{', retained' if row.retained else ''}", row.pattern
        assert (seal == "yes") == is_sealed(row) and payload.startswith("tensors; ") == row.tensors, row.pattern
        assert named(payload) == [name for name in row.payload.model_fields if name not in ("v", "node", "epoch")], row.pattern


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_inside_of_the_project_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}"


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_decision_is_in_the_list_of_decisions() -> None:
    folder = ROOT / "docs" / "adr"
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text())
    assert listed == sorted(path.name for path in folder.glob("0*.md"))


def test_make_help_lists_every_target_of_the_makefile() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    told = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert phony and {line.split()[0] for line in told.splitlines()} == set(phony[1].split())
