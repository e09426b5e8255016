"""The page in headless Chromium, on a played cluster. Set DT_SHOTS to a folder to keep its pictures, and look at them."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway_agent.dashboard import stream
from tests.gateway_agent.dashboard.played import Site

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
if CHROMIUM is None:
    pytest.skip("there is no Chromium: apt install chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        try:
            made = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except playwright.Error as error:  # Ubuntu's package is a stub
            pytest.skip(f"{CHROMIUM} does not start: {str(error).splitlines()[0]}")
        yield made
        made.close()


class Screen:
    """One page, and a cluster whose loop turns while the browser waits."""

    def __init__(self, browser: Any, site: Site, folder: Path, **context: Any) -> None:
        self.site, self._folder = site, Path(os.environ.get("DT_SHOTS", folder))
        settings = {"viewport": {"width": 1360, "height": 900}, "color_scheme": "dark", "reduced_motion": "reduce"}
        self.page = browser.new_page(**{**settings, **context})
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.extend([said.text] if said.type == "error" else []))
        self.page.set_default_timeout(15_000)
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._loop = threading.Thread(target=self._turn)
        self._loop.start()

    def _turn(self) -> None:
        while not self._ended.wait(0.05):
            with self._lock:
                self.site.turn(0.5)

    def play(self, joined: bool = False, frames: int = 0, reason: str = "") -> None:
        with self._lock:
            if joined:
                self.site.played.join(self.site.at)
            for i in range(frames):
                self.site.turn(0.25)
                self.site.frame(reason, picture=not reason and i == frames - 1)

    def shot(self, name: str, full: bool = False) -> None:
        self._folder.mkdir(exist_ok=True)
        self.page.screenshot(path=self._folder / f"{name}.png", full_page=full)

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def wait(self, script: str) -> None:
        """Until ``script`` is true. Asked from outside: the page's own policy forbids what wait_for_function does."""
        deadline = time.monotonic() + 15.0
        while not self.page.evaluate(script):
            assert time.monotonic() < deadline, script
            self.page.wait_for_timeout(30)

    def close(self) -> None:
        self._ended.set()
        self._loop.join()
        self.page.close()


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.dashboard.close()


@pytest.fixture
def screen(browser: Any, site: Site, tmp_path: Path) -> Iterator[Screen]:
    made = Screen(browser, site, tmp_path)
    made.page.goto(site.dashboard.url)
    yield made
    made.close()
    assert made.errors == []


def test_an_empty_cluster_tells_how_to_join(screen: Screen) -> None:
    screen.page.wait_for_selector("#graph .empty")
    assert "No node has joined yet" in screen.text("#graph") and "dt edge --gateway 127.0.0.1:1883" in screen.text(
        "#graph"
    )
    assert "No camera has joined yet" in screen.text("#camera-list") and "No frame has ended yet" in screen.text(
        "#gantt"
    )
    assert screen.text("#link-text") == "live"
    screen.shot("empty")


def test_nodes_steals_boxes_tiles_and_figures_are_shown(screen: Screen) -> None:
    screen.play(joined=True, frames=5)
    screen.wait("document.querySelectorAll('.camera .box').length === 1")
    page = screen.page
    assert page.locator("#graph .node").count() == 4 and page.locator("#graph .flow").count() == 2
    assert [row.split()[0] for row in screen.text("#node-rows").splitlines()] == ["gateway", "edge1", "edge2", "edge3"]
    assert page.locator(".camera .says").inner_text() == "reads 7"
    assert page.locator("#strip [role=option]").count() == 5 and page.locator("#gantt .tile").count() == 9
    assert page.locator("#gantt .tile [fill='url(#hatch)']").count() == 6
    assert page.locator("#plan-stage .share").count() == 9
    colours = {node["name"]: node["colour"] for node in screen.site.json("/api/state")["nodes"]}
    for i, area in enumerate(page.locator("#plan-stage .area").all()):
        assert area.get_attribute("fill") == colours[f"edge{i % 3 + 1}"]
    screen.wait("document.querySelector('#figures td').textContent.includes('s')")
    assert screen.text("#figures tr:first-child td:last-child") == "200 ms"
    assert "joined" in screen.text("#event-list")
    screen.shot("desktop-dark", full=True)


def test_the_keyboard_reaches_frames_and_tiles(screen: Screen) -> None:
    screen.play(joined=True, frames=4)
    screen.wait("document.querySelectorAll('#plan-stage .share').length === 9")
    screen.wait("document.querySelector('#strip [aria-selected=true]')?.ariaLabel.startsWith('edge1 3')")
    page = screen.page
    page.focus("#strip [role=option][tabindex='0']")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    screen.wait("document.querySelector('#frame-title').textContent.startsWith('edge1 1 ')")
    assert page.get_attribute("#newest", "aria-pressed") == "false"
    screen.play(frames=1)
    screen.wait("document.querySelectorAll('#strip [role=option]').length === 5")
    assert screen.text("#frame-title").startswith("edge1 1 ")  # the choice stays while frames go on
    page.focus("#plan-stage .share[tabindex='0']")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    screen.wait("document.querySelector('#tile-text').textContent.startsWith('Tile 4: edge2 (stolen)')")
    assert page.locator("#plan-stage .halo").count() == 1 and page.locator("#gantt .tile:not(.dim)").count() == 1
    page.locator("#plan").scroll_into_view_if_needed()
    screen.shot("keyboard")
    page.check("#halos")
    screen.wait("document.querySelectorAll('#plan-stage .halo').length === 9")


def test_a_control_shows_what_the_gateway_says_and_not_what_was_asked_for(screen: Screen) -> None:
    page = screen.page
    screen.wait("document.querySelector('#grid').value === '3x3'")
    page.focus("#detection")
    page.keyboard.press("Space")
    screen.wait("document.querySelector('#detection').getAttribute('aria-checked') === 'false'")
    page.fill("#grid", "9x9")
    page.keyboard.press("Enter")
    screen.wait("document.querySelector('#control-text').textContent === 'grid: a tile would be empty'")
    screen.wait("document.querySelector('#grid').value === '3x3'")
    page.fill("#grid", "auto")
    page.keyboard.press("Enter")
    screen.wait("document.querySelector('#grid-hint').textContent.startsWith('Chosen by the gateway')")
    page.focus("#threshold")
    page.keyboard.press("ArrowRight")
    screen.wait("document.querySelector('#control-text').textContent === 'threshold set to 0.51'")
    page.click("#restart")
    screen.shot("restart")
    page.keyboard.press("Escape")
    assert [r.verb for r in screen.site.played.asked] == ["detection", "grid", "grid", "threshold"]
    page.click("#restart")
    page.click("#restart-dialog [value=yes]")
    screen.wait("document.querySelector('#control-text').textContent.startsWith('restart')")
    assert screen.site.played.asked[-1].verb == "restart"
    screen.errors = [error for error in screen.errors if "409" not in error]  # the refusal, which the browser logs


def test_a_degraded_camera_and_a_lost_node_show_as_such(screen: Screen) -> None:
    screen.play(joined=True, frames=2)
    screen.wait("document.querySelectorAll('.camera .box').length === 1")
    screen.play(frames=1, reason="deadline passed with 2 of 9 tiles")
    screen.site.played.board.alive(("edge1", "edge2"), screen.site.at)
    screen.wait("document.querySelector('.camera .badge').textContent === 'degraded'")
    assert "deadline passed with 2 of 9 tiles" in screen.text(".camera .trouble")
    assert "last good picture" in screen.text(".camera .trouble")
    assert screen.page.locator("#graph .node.off").count() == 1 and "1 gone" in screen.text("#summary")
    assert "failed: deadline" in screen.text("#frame-title")
    screen.shot("degraded", full=True)


@pytest.mark.parametrize("width", [360, 1360])
def test_nothing_is_wider_than_the_screen_in_the_light(browser: Any, site: Site, tmp_path: Path, width: int) -> None:
    screen = Screen(browser, site, tmp_path, viewport={"width": width, "height": 780}, color_scheme="light")
    try:
        screen.play(joined=True, frames=5)
        screen.page.goto(site.dashboard.url)
        screen.wait("document.querySelectorAll('.camera .box').length === 1")
        assert screen.page.evaluate("document.documentElement.scrollWidth") <= width
        assert screen.errors == []
        screen.shot(f"light-{width}", full=True)
    finally:
        screen.close()


def test_a_gateway_that_ends_is_told_and_the_page_comes_back_by_itself(screen: Screen) -> None:
    screen.play(joined=True, frames=3)
    screen.wait("document.querySelectorAll('#strip [role=option]').length === 3")
    screen.site.dashboard.close()
    screen.wait("document.body.dataset.link === 'lost'")
    assert "does not answer" in screen.text("#lost")
    screen.shot("lost")
    with screen._lock:
        screen.site.reopen()
    screen.play(joined=True, frames=2)
    screen.wait("document.querySelector('#link-text').textContent === 'live'")
    screen.wait("document.querySelectorAll('#strip [role=option]').length === 2")  # none of the gateway before
    screen.errors = [error for error in screen.errors if "Failed to load" not in error]  # while it was away


def test_a_page_that_finds_no_room_tries_again(
    browser: Any, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "READERS", 0)
    screen = Screen(browser, site, tmp_path)
    try:
        with screen.page.expect_response(lambda answer: answer.status == 503):
            screen.page.goto(site.dashboard.url)
        monkeypatch.setattr(stream, "READERS", 1)
        screen.wait("document.querySelector('#link-text').textContent === 'live'")
    finally:
        screen.close()


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const lum = (c) => { const [r, g, b] = c.map((v) => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b; };
  const ground = (node) => { for (; node; node = node.parentElement) {
    const c = rgba(getComputedStyle(node).backgroundColor); if (c[3] > 250) return c; } return [255, 255, 255, 255]; };
  const poor = [];
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !node.checkVisibility() || node.closest('.stage, option, datalist, :disabled')) continue;
    const css = getComputedStyle(node), svg = node instanceof SVGElement;
    if (svg && node.closest('.tile')) continue;  // its ink is chosen by luminance
    const [a, b] = [lum(rgba(svg ? css.fill : css.color)), lum(ground(svg ? node.ownerSVGElement.parentElement : node))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) poor.push(`${node.tagName}.${node.className.baseVal ?? node.className} ${ratio.toFixed(2)}`);
  }
  return poor;
}"""


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_every_text_stands_out_from_its_ground(browser: Any, site: Site, tmp_path: Path, theme: str) -> None:
    screen = Screen(browser, site, tmp_path, color_scheme=theme)
    try:
        screen.play(joined=True, frames=3)
        screen.play(frames=1, reason="deadline passed")
        screen.page.goto(site.dashboard.url)
        screen.wait("document.querySelectorAll('#gantt .rowname').length > 0")
        assert screen.page.evaluate(CONTRAST) == []
    finally:
        screen.close()


def test_a_link_with_the_token_logs_in_and_leaves_no_trace_of_it(browser: Any, tmp_path: Path) -> None:
    site = Site("0.0.0.0", tmp_path)
    screen = Screen(browser, site, tmp_path)
    base, _, token = site.dashboard.url.replace(site.host, "127.0.0.1").partition("#token=")
    try:
        screen.page.goto(base)
        screen.page.fill("#token", "wrong")
        screen.page.keyboard.press("Enter")
        screen.wait("document.querySelector('#login-text').textContent.includes('not the gateway')")
        screen.shot("login")
        screen.page.goto(f"{base}?again#token={token}")
        screen.page.wait_for_selector("#link-text:text-is('live')")
        assert token not in screen.page.url
    finally:
        screen.close()
        site.dashboard.close()
