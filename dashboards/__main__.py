"""Serves the pages: `python -m dashboards`, with Streamlit's own options behind it.

What the pages import is imported before the server answers, and the newest experiment's list of
latents is read while it starts, so that whoever opens the first page waits for neither.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from pathlib import Path

from streamlit.web import cli

# "no runtime": it comes later
logging.getLogger("streamlit.runtime.caching.cache_data_api").setLevel(logging.ERROR)

from dashboards import charts, listing, live, panels, runs, selection, tokens, views, workflow  # noqa: E402

AHEAD = (charts, live, panels, selection, tokens, views, workflow)


def read_ahead() -> None:
    """Reads the list that the page of latents will most likely be asked for; what is wrong with it,
    the page says."""
    with contextlib.suppress(Exception):
        for shown in runs.experiments()[:1]:
            listing.read(shown)


if __name__ == "__main__":
    threading.Thread(target=read_ahead, daemon=True).start()
    sys.argv[1:] = ["run", str(Path(__file__).with_name("app.py")), *sys.argv[1:]]
    sys.exit(cli.main(prog_name="streamlit"))
