"""A browser for the tests of the page, and pages in it that are closed afterwards."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .pages import Page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("uvicorn", reason="needs the extra play")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    from .pages import BROWSER, FLAGS

    if not BROWSER:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def address(tmp_path: Path) -> "Iterator[str]":
    pytest.importorskip("uvicorn", reason="needs the extra play")
    from .pages import serving

    with serving(tmp_path) as served:
        yield served


@pytest.fixture
def opened(browser: Any, address: str) -> "Iterator[Callable[..., Page]]":
    from .pages import Page

    pages: list[Page] = []

    def open_page(**options: Any) -> "Page":
        pages.append(Page(browser, address, **options))
        return pages[-1]

    yield open_page
    for page in pages:
        page.context.close()
