"""Write the page that plays without a server into the built site, for docs/try.md."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from playloom.errors import PlayloomError
from playloom.inference.generate import open_engine
from playloom.server.static_page import write_static_page

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

_log = logging.getLogger("mkdocs.hooks")


def on_post_build(config: MkDocsConfig) -> None:
    """Write the bundled model's page; where a file of it is missing, a page that says so."""
    place = Path(config.site_dir) / "try" / "play"
    try:
        write_static_page(open_engine(None), place)
    except (OSError, PlayloomError) as error:
        _log.info("try/play is not written: %s", error)
        place.mkdir(parents=True, exist_ok=True)
        (place / "index.html").write_text("<p>This build of the documentation has no page to play on.</p>\n")
