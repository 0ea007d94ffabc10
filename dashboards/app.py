"""Navigation: which pages there are, which experiment they show, and a sentence instead of a traceback.

Run with `streamlit run dashboards/app.py` or `latentflow up`. Titles carry no Material icons: Streamlit would fetch
those from a foreign host.
"""

from __future__ import annotations

import streamlit as st

from components.errors import LatentflowError
from dashboards import runs, selection

st.set_page_config(page_title="Latentflow", layout="wide")
page = st.navigation(
    {
        "What came out": [
            st.Page("pages/overview.py", title="Overview", default=True),
            st.Page("pages/latents.py", title="Latents", url_path="latents"),
        ],
        "How well": [
            st.Page("pages/explanations.py", title="Explanations", url_path="explanations"),
            st.Page("pages/steering.py", title="Steering", url_path="steering"),
        ],
    }
)
st.html("<style>.stMainBlockContainer {padding-top: 3.2rem}</style>")
try:
    selection.pick_experiment()
    page.run()
except (LatentflowError, FileNotFoundError) as error:
    st.error(str(error).replace("*", r"\*"))
st.sidebar.caption(
    f"[Prefect]({runs.prefect_url()}) runs it · [MLflow]({runs.mlflow_url()}) holds its numbers · both are up with `make up`"
)
