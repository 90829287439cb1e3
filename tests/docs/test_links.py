"""What the documents point at is there."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "benchmarks" / "results" / "README.md",
]
RESULTS = ROOT / "benchmarks" / "results"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made on the usual hosts."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_document_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.S))
    for link in links:
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_of_code_that_a_document_names_is_there(page: Path) -> None:
    text = page.read_text()
    examples = set(re.findall(r"[Tt]he file is `([^`]*)`", text))
    named = set(re.findall(r"`((?:condense|continual|nas|benchmarks|tests)/[\w/.-]*\.\w+)`", text))
    for name in sorted(named - examples):
        parts = "NAME" in name or "TABLE" in name
        assert parts or (ROOT / name).exists(), name


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not in a repository")
def test_git_ignores_no_picture_that_a_document_shows() -> None:
    pages = {page: re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", page.read_text()) for page in PAGES}
    shown = [str((page.parent / link).resolve()) for page, links in pages.items() for link in links]
    ignored = subprocess.run(
        ["git", "check-ignore", "--", *shown], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert not ignored.stdout, "add it by force"


def test_every_kept_result_is_listed() -> None:
    listed = (RESULTS / "README.md").read_text()
    for path in sorted(RESULTS.glob("*.json")):
        assert f"| `{path.stem}` |" in listed
        assert path.with_suffix(".md").exists()


def test_no_kept_result_names_a_path_of_the_machine() -> None:
    for path in sorted([*RESULTS.rglob("*.json"), *RESULTS.rglob("*.md")]):
        assert not re.search(r'["\s=](/[\w.-]+){2,}', path.read_text()), path
