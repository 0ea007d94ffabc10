"""The experiment in MLflow that holds all runs: what its pages say and how its list is drawn."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from flows.stack import environment

EXPERIMENT = "latentflow"
VIEW = "mlflow.sharedViewState.headlines"
"""MLflow's tag for a shared view of the list of runs; its address ends in
`?viewStateShareKey=headlines`."""
COLUMNS = (
    "loss_recovered",
    "l0",
    "fvu",
    "concepts_found",
    "explanation_detection",
    "steering_add_direction",
)
"""The headlines that the shared view has as columns."""
ABOUT = (
    "Each parent run is one experiment, its stages are nested below it. The parent holds the "
    "headline scores under short names (loss_recovered, l0, fvu, concepts_found, "
    "explanation_detection, steering_add_direction, ...): add them as columns and sort. Every "
    "score with its dotted name is on the nested runs, and with interval, n and baseline in "
    "report/ of the parent."
)


def experiment_of(client: MlflowClient) -> str:
    """The id of the experiment, made where it is not there."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found:
        if VIEW not in found.tags:  # made by an older version
            client.set_experiment_tag(found.experiment_id, VIEW, _view())
        return found.experiment_id
    with contextlib.suppress(MlflowException):  # two runs at once: the other one made it
        location = (environment.state() / "mlflow-artifacts").as_uri()
        kind = {
            # opens as runs to compare, not as chats to trace
            "mlflow.experimentKind": "custom_model_development",
            "mlflow.note.content": ABOUT,
            VIEW: _view(),
        }
        return client.create_experiment(EXPERIMENT, artifact_location=location, tags=kind)
    again = client.get_experiment_by_name(EXPERIMENT)
    assert again is not None
    return again.experiment_id


def _view() -> str:
    """The list of finished experiments, best loss recovered first, the headlines as columns, as
    MLflow's page keeps it."""
    columns = [
        "attributes.`Created`",
        "tags.`dictionary`",
        *(f"metrics.`{name}`" for name in COLUMNS),
    ]
    state = {
        "searchFilter": "tags.report != ''",
        "orderByKey": "metrics.`loss_recovered`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
        **{name: {} for name in ("runsExpanded", "groupsExpanded", "globalLineChartConfig")},
        **{
            name: []
            for name in ("runsPinned", "runsHidden", "compareRunCharts", "compareRunSections")
        },
        "groupBy": None,
    }
    return json.dumps(state)


def note(values: Mapping[str, float], dashboard: str, prefect: str | None, experiment: str) -> str:
    """The text on a parent run's page: links to the other windows, and the headlines."""
    view = f"{environment.address('mlflow')}/#/experiments/{experiment}/runs?viewStateShareKey=headlines"
    links = [
        f"[read it in Streamlit]({dashboard})",
        f"[compare all runs]({view})",
        *([f"[the flow run in Prefect]({prefect})"] if prefect else []),
    ]
    rows = [f"| {name} | {value:.4g} |" for name, value in values.items()]
    return "\n".join([" · ".join(links), "", "| headline | value |", "|---|---:|", *rows])
