"""Serves the pages: `python -m dashboards`, with Streamlit's own options behind it.

What the pages import is imported before the server answers, so that whoever opens the first page does not wait for it.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from streamlit.web import cli

logging.getLogger("streamlit.runtime.caching.cache_data_api").setLevel(logging.ERROR)  # "no runtime": it comes later

from dashboards import charts, live, panels, runs, selection, tokens, views, workflow  # noqa: E402

AHEAD = (charts, live, panels, runs, selection, tokens, views, workflow)

if __name__ == "__main__":
    sys.argv[1:] = ["run", str(Path(__file__).with_name("app.py")), *sys.argv[1:]]
    sys.exit(cli.main(prog_name="streamlit"))
