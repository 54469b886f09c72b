"""The page in headless Chromium: no errors, pictures that are there, controls that work, nothing that sticks out."""

import dataclasses
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from report_examples import HOSTILE, predicted_seen

from birdjepa.report.build import build_report
from birdjepa.report.contents import ReportContents

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--enable-logging=stderr"),
    *("--autoplay-policy=no-user-gesture-required", "--virtual-time-budget=4000", "--dump-dom"),
)
LISTEN = """
window.problems = [];
addEventListener("error", (event) => problems.push(String(event.message)));
addEventListener("securitypolicyviolation", (event) => problems.push("refused: " + event.violatedDirective));
"""
LOOK = """
addEventListener("load", () => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const point = (target, kind, dx, dy) => {
    const box = target.getBoundingClientRect();
    const at = { bubbles: true, clientX: box.left + dx * box.width, clientY: box.top + dy * box.height };
    target.dispatchEvent(new PointerEvent(kind, at));
  };
  const chart = document.querySelector(".chart svg");
  point(chart, "pointermove", 0.9, 0.5);
  const read = all(".chart output").map((each) => each.textContent);
  point(chart, "pointerleave", 0.9, 0.5);
  const back = all(".chart output").every((each) => each.textContent === each.dataset.last);
  const mark = document.querySelector(".points path.heard");
  point(mark, "pointermove", 0.5, 0.5);
  const tip = document.getElementById("tip");
  const told = tip.hidden ? "" : tip.textContent;
  document.querySelector(".legend button").click();
  const dim = all(".points.dim").length;
  const button = document.querySelector(".play");
  button.click();
  const playing = button.classList.contains("playing");
  button.click();
  const result = {
    problems, read, back, told, dim, playing, stopped: !button.classList.contains("playing"),
    images: all("img").map((image) => [image.naturalWidth, image.naturalHeight, image.clientWidth, image.clientHeight]),
    buttons: all(".play").length, width: document.documentElement.scrollWidth, window: innerWidth,
  };
  document.body.textContent = "";
  document.body.dataset.result = JSON.stringify(result);
});
"""


def browse(page: str, folder: Path, width: int) -> tuple[str, str]:
    """The page's final document, and what the browser logged."""
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    where = (f"--user-data-dir={folder / 'profile'}", f"--window-size={width},2000", file.as_uri())
    done = subprocess.run([str(CHROMIUM), *FLAGS, *where], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, done.stderr


def inspect(page: str, folder: Path, width: int, look: str = LOOK) -> dict[str, Any]:
    """What a script of ours finds in the page, which is let in beside the page's own."""
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    assert policy is not None
    loose = re.sub(r"script-src .*", "script-src &#x27;unsafe-inline&#x27;", policy.group(1))
    page = page.replace(policy.group(1), loose).replace("<title>", f"<script>{LISTEN}</script><title>", 1)
    document, _ = browse(page.replace("</body>", f"<script>{look}</script></body>"), folder, width)
    found = re.search(r'data-result="([^"]*)"', document)
    assert found is not None, document[:500]
    return json.loads(html.unescape(found.group(1)))


@pytest.fixture(scope="module")
def page(contents: ReportContents) -> str:
    return build_report(contents)


def test_no_errors_under_the_pages_own_policy(page: str, tmp_path: Path):
    document, log = browse(page, tmp_path, 1200)
    assert "CONSOLE" not in log, log
    assert 'class="charts"' in document


def test_pictures_buttons_and_pointers(page: str, contents: ReportContents, tmp_path: Path):
    found = inspect(page, tmp_path, 1200)
    assert found["problems"] == []
    assert all(min(sizes) > 0 for sizes in found["images"])
    assert found["buttons"] == 9  # a clip, its 3 views, 2 queries with 3 neighbours
    assert found["read"][0].endswith(" at 28")
    assert found["back"]
    assert found["told"].startswith("no label\n2 " + HOSTILE[:40])
    assert found["told"].endswith("click to play")
    assert found["dim"] == 3
    assert found["playing"]
    assert found["stopped"]


@pytest.mark.parametrize("width", [1200, 520])
def test_nothing_sticks_out(page: str, tmp_path: Path, width: int):
    found = inspect(page, tmp_path, width)
    assert found["window"] == width
    assert found["width"] <= width


def test_panels_stay_inside_on_a_narrow_screen(contents: ReportContents, tmp_path: Path):
    predicted = dataclasses.replace(contents, seen=predicted_seen(contents.heard[0]))
    found = inspect(build_report(predicted), tmp_path, 520)
    assert found["problems"] == []
    assert found["width"] <= 520
    assert all(min(sizes) > 0 for sizes in found["images"])


def test_an_empty_report_has_no_errors(bare: ReportContents, tmp_path: Path):
    _, log = browse(build_report(bare), tmp_path, 1200)
    assert "CONSOLE" not in log, log
