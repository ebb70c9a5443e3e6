"""Makes docs/img/playground.png and playground-train.png: the playground as Chromium shows it.

Run: python docs/screens.py (it needs Chromium, and the packages of the tests).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURES = Path(__file__).parent / "img"


def main() -> None:
    play = [sys.executable, "-m", "langevin", "play", "--no-browser", "--port", "0"]
    with subprocess.Popen(play, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as browsers:
        assert server.stdout is not None
        address = re.search(r"http://\S+/", server.stdout.readline())
        assert address is not None
        browser = browsers.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 860}, reduced_motion="reduce")
        page.goto(address[0])
        page.select_option("#worlds-world", "moons")
        page.wait_for_function("() => /moons/.test(document.getElementById('worlds').dataset.done)")
        page.screenshot(path=PICTURES / "playground.png")
        page.click("#tab-train")
        page.select_option("#train-world", "moons")
        page.check("input[name=train-levels][value=one]")
        page.click("#train-start")
        page.wait_for_function("() => document.getElementById('train').dataset.done", timeout=120_000)
        page.screenshot(path=PICTURES / "playground-train.png")
        browser.close()
        server.terminate()


if __name__ == "__main__":
    main()
