"""Hooks of mkdocs: links out of `docs/`, the records of `benchmarks/results`, and the settings.

Pages are written for a reader of the repository, where a link may lead to any file. On the site,
links to kept results lead to copies of them, and other links out of `docs/` become plain text.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import join, normpath, relpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from condense.methods import METHODS
from condense.methods.base import Recipe
from condense.options import without_backticks
from condense.report.tables import markdown
from condense.settings import described
from condense.training.experts import Training
from condense.training.protocol import Protocol
from continual.plan import Plan
from nas.regime import Regime

ROOT = Path(__file__).parents[1]
RESULTS = "benchmarks/results"
_KEPT = (".md", ".png", ".json")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_SETTINGS = {
    "Recipe": Recipe,
    **{f"Method `{name}`": kind for name, kind in METHODS.items()},
    "Protocol of a training": Protocol,
    "Training of experts": Training,
    "Plan of a continual study": Plan,
    "Regime of a search": Regime,
}
"""The dataclasses that commands take settings of, by heading."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the kept results to the site."""
    for path in sorted((ROOT / RESULTS).rglob("*")):
        if path.suffix in _KEPT and "large" not in path.parts:
            place = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links out of `docs/` into what the site has, and fill in the settings."""
    own = page.file.src_uri
    home = PurePosixPath(own).parent.as_posix()
    in_repository = home if own.startswith(RESULTS) else normpath(join("docs", home))

    def rewritten(match: re.Match[str]) -> str:
        mark, label, target, anchor = match.groups()
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        place = normpath(join(in_repository, target))
        on_site = place.removeprefix("docs/")
        if files.get_file_from_path(on_site) or files.get_file_from_path(f"{on_site}/README.md"):
            return f"{mark}[{label}]({relpath(on_site, home)}{anchor or ''})"
        return label

    return _LINK.sub(rewritten, text.replace("<!-- settings -->", "\n".join(_settings())))


def _settings() -> Iterator[str]:
    """A table of every dataclass of settings."""
    for heading, kind in _SETTINGS.items():
        rows = [
            _row(setting) for setting in described(kind) if setting.name not in ("name", "method")
        ]
        table = markdown(["setting", "default", "meaning"], rows) if rows else ["It has none."]
        yield from ["", f"## {heading}", *table, ""]


def _row(setting: Any) -> list[str]:
    default = "" if "MISSING" in repr(setting.default) else f"`{setting.default}`"
    return [f"`{setting.name}`", default, without_backticks(setting.doc).replace("|", "\\|")]
