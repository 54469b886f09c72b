"""The page of benchmark results in headless Chromium: no errors, tables that sort, nothing that sticks out."""

from pathlib import Path

import pytest
from test_benchmark_page import full_page
from test_browser import CHROMIUM, browse, inspect

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")

LOOK = """
addEventListener("load", () => {
  document.querySelectorAll("details").forEach((each) => { each.open = true; });
  const table = document.querySelector(".sortable table");
  const column = (k) => [...table.tBodies[0].rows].map((row) => row.cells[k].textContent);
  const heading = [...table.tHead.rows[0].cells].findIndex((each) => each.textContent === "examples");
  table.tHead.rows[0].cells[heading].click();
  const up = column(heading);
  table.tHead.rows[0].cells[heading].click();
  const down = column(heading);
  const result = { problems, up, down, width: document.documentElement.scrollWidth, window: innerWidth };
  document.body.textContent = "";
  document.body.dataset.result = JSON.stringify(result);
});
"""


def test_no_errors_under_the_pages_own_policy(tmp_path: Path):
    document, log = browse(full_page(), tmp_path, 1200)
    assert "CONSOLE" not in log, log
    assert 'class="board"' in document


@pytest.mark.parametrize("width", [1200, 520])
def test_tables_sort_and_nothing_sticks_out(tmp_path: Path, width: int):
    found = inspect(full_page(), tmp_path, width, LOOK)
    assert found["problems"] == []
    numbers = [int(text) for text in found["up"]]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 1
    assert [int(text) for text in found["down"]] == sorted(numbers, reverse=True)
    assert found["window"] == width
    assert found["width"] <= width
