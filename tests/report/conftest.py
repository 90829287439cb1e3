"""A headless Chromium, started once a session, that shows reports and tells of every fault."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The browser. Without one tests are skipped, but for CI, where they fail."""
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "no Chromium: `make browser` installs one"
        )
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def shown(browser: Any) -> Iterator[Callable[..., Any]]:
    """A function that opens a file in a window of some width and theme.

    The test fails at its end if the page logged an error or asked for anything from elsewhere.
    """
    faults: list[str] = []
    contexts = []

    def show(file: Path, width: int = 1280, theme: str = "light") -> Any:
        size = {"width": width, "height": 900}
        context = browser.new_context(viewport=size, color_scheme=theme, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)  # the machine may be busy
        page.on("console", lambda line: faults.append(line.text) if line.type != "log" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith("http") and faults.append(asked.url))
        page.goto(file.as_uri())
        plots = page.locator(".plot")
        page.wait_for_function(
            "count => document.querySelectorAll('.plot svg.marks').length === count",
            arg=plots.count(),
        )
        return page

    yield show
    for context in contexts:
        context.close()
    assert faults == []
