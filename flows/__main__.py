"""The command line: `latentflow <stage|experiment> a.b=c ...`, and what goes with it.

Every parameter is given by its dotted name, the same as in `params.yaml`, in Prefect's form and in
MLflow. Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import ast
import errno
import itertools
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.logging import RichHandler
from rich.text import Text

import components
from components.errors import ConfigError, LatentflowError, ServiceError, shortened
from components.paths import expanded
from flows import terminal
from flows.stack import environment, processes
from flows.terminal import aside, console

if TYPE_CHECKING:
    from components.store.artifact import Store

app = typer.Typer(
    help="Latentflow: from text to sparse dictionaries, explanations and steering scores, with baselines and intervals.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[name=value]...", help="for example train.dictionary.k=64"),
]
# a shell leaves the ~ of --params=~/x alone
AS_PATH = {"parser": expanded, "metavar": "PATH", "show_default": False}
Params = Annotated[
    Path | None,
    typer.Option("--params", help="parameter file; params.yaml when it is here", **AS_PATH),
]
Plain = Annotated[
    bool, typer.Option("--plain", help="run the components alone, without Prefect and MLflow")
]
Ref = Annotated[
    Path | None,
    typer.Option("--ref", help="write a pointer file (stage, key, parents) for DVC", **AS_PATH),
]
Yes = Annotated[
    bool,
    typer.Option("--yes", help="go on though it may cost more than 5 USD or 10,000 calls"),
]
AsJson = Annotated[bool, typer.Option("--json", help="machine-readable output")]


def _stages() -> dict[str, str]:
    """What each stage of the chain makes, by its name: read from the source, since importing it
    takes seconds (torch)."""
    source = (Path(components.__file__).parent / "experiment.py").read_text(encoding="utf-8")
    [declared] = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    stages = {}
    for field, sentence in itertools.pairwise(declared.body):
        match field, sentence:
            case (
                ast.AnnAssign(ast.Name(name), ast.Subscript(ast.Name("Annotated"))),
                ast.Expr(ast.Constant(str(about))),
            ):
                stages[name] = about
    return stages


def _run(
    name: str, overrides: list[str] | None, params: Path | None, plain: bool, **given: Any
) -> Any:
    """One flow by name, or the same chain of components; returns the artifact. `given` is what
    `import` and `replicate` need besides."""
    if plain and name == "replicate":
        from flows.parameters import resolve
        from flows.replicate import plainly

        return plainly(resolve(overrides or [], params), given["seeds"])
    if plain:
        from flows.chain import Chain
        from flows.parameters import resolve

        with Chain(resolve(overrides or [], params), plain=True) as chain:
            environment.warn_of_another_store(chain.store.root)
            if name == "sweep":
                from flows.sweep import compare

                return compare(chain)
            if name == "import":
                from flows import interchange

                folder = interchange.local(given["source"], given["format"], chain.config.model)
                return interchange.bring(chain, given["format"], folder)
            return chain.artifact("report" if name == "experiment" else name)
    from flows.stack.server import prefect_server

    assert "prefect" not in sys.modules, (
        "Prefect reads its address when it is imported: import flows below"
    )
    with prefect_server() as server:  # starts while the heavy imports below run
        from flows.parameters import resolve

        config = resolve(overrides or [], params)
        import httpx

        from components.store.artifact import Store
        from flows.stack.deployments import flow_of

        flow = flow_of("import_" if name == "import" else name)
        server.wait()
        _quiet_engine()
        try:
            reference = flow(config, **given)
        except httpx.HTTPError as error:
            raise ServiceError(_refusal(error, server.address)) from error
        return Store(config.execution.store).get(**reference)


def _agreed(overrides: list[str] | None, yes: bool) -> list[str]:
    """The same settings, and leave for what the run may cost."""
    return [*(overrides or []), *(["execution.confirmed=true"] if yes else [])]


def _refusal(error: Exception, address: str) -> str:
    """What Prefect's answer means for the run, in a sentence."""
    answer = getattr(error, "response", None)
    if (
        answer is not None
        and answer.status_code in (413, 422)
        and "less than" in answer.text
        and "bytes" in answer.text
    ):
        return (
            "the parameters of this run are longer than Prefect takes (half a million "
            "characters): put long lists of words into files and give the files' names, or run "
            "with --plain"
        )
    return (
        f"the Prefect server at {address} did not answer as it should ({shortened(str(error))}); "
        f"its log is {os.environ['PREFECT_HOME']}/server.log. What is made is kept: when the "
        "cause is gone, run the same command"
    )


def _stage_command(name: str, about: str) -> Callable[..., None]:
    def command(
        overrides: Overrides = None,
        params: Params = None,
        plain: Plain = False,
        ref: Ref = None,
        yes: Yes = False,
    ) -> None:
        artifact = _run(name, _agreed(overrides, yes), params, plain)
        if ref:
            from flows.steps import write_reference

            write_reference(ref, artifact)
        console.print(f"{artifact.stage}/{artifact.key}")

    command.__doc__ = about
    return command


for _name, _about in _stages().items():
    if _name != "report":  # it has options of its own, below
        app.command(_name, rich_help_panel="Stages")(_stage_command(_name, _about))


@app.command(rich_help_panel="Runs")
def experiment(
    overrides: Overrides = None, params: Params = None, plain: Plain = False, yes: Yes = False
) -> None:
    """The whole chain, from text to the report; what is already made is found, not made again."""
    artifact = _run("experiment", _agreed(overrides, yes), params, plain)
    from flows.report import show

    show(artifact, console)


@app.command(rich_help_panel="Runs")
def replicate(
    overrides: Overrides = None,
    params: Params = None,
    plain: Plain = False,
    seeds: Annotated[
        str, typer.Option(help="training seeds, each an experiment of its own")
    ] = "0,1,2",
    everything: Annotated[
        bool, typer.Option("--all", help="every row, not only the short table")
    ] = False,
    as_json: AsJson = False,
    yes: Yes = False,
) -> None:
    """The experiment under several training seeds: one table with the mean and interval over seeds;
    what is made is found."""
    try:
        listed = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise ConfigError(
            f"--seeds: wanted whole numbers with commas between, such as 0,1,2, got {seeds!r}"
        ) from None
    artifact = _run("replicate", _agreed(overrides, yes), params, plain, seeds=listed)
    from components.report.tables import REPLICATES
    from flows.replicate import show

    if as_json:
        sys.stdout.write(json.dumps(REPLICATES.read(artifact).to_dicts(), indent=1) + "\n")
    else:
        show(artifact, console, everything)


@app.command(rich_help_panel="Runs")
def plan(overrides: Overrides = None, params: Params = None, as_json: AsJson = False) -> None:
    """What an experiment will cost: seconds, memory and disk of each stage; refuses what cannot
    fit."""
    from flows import plan
    from flows.parameters import resolve

    steps = plan.plan(resolve(overrides or [], params))
    if as_json:
        sys.stdout.write(json.dumps(plan.rows(steps), indent=1) + "\n")
    else:
        plan.show(steps, console)


@app.command(rich_help_panel="Runs")
def report(
    overrides: Overrides = None,
    params: Params = None,
    plain: Plain = False,
    ref: Ref = None,
    as_json: AsJson = False,
    everything: Annotated[
        bool, typer.Option("--all", help="every row and comparison, not only the short table")
    ] = False,
    metrics: Annotated[
        Path | None, typer.Option(help="write the scores as a DVC metrics file", **AS_PATH)
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="write the training curves as a DVC plots file", **AS_PATH)
    ] = None,
    yes: Yes = False,
) -> None:
    """The table of an experiment: every score with n, failures, interval, baseline and
    direction."""
    artifact = _run("report", _agreed(overrides, yes), params, plain or as_json)
    from components.report.tables import REPORT
    from flows import pipeline
    from flows.report import rows, show

    if ref:
        from flows.steps import write_reference

        write_reference(ref, artifact)
    if metrics:
        pipeline.write_metrics(metrics, artifact)
    if plots:
        pipeline.write_plots(plots, artifact)
    if as_json:
        sys.stdout.write(json.dumps(rows(REPORT.read(artifact)), indent=1) + "\n")
    else:
        show(artifact, console, everything)


@app.command(rich_help_panel="Runs")
def sweep(
    overrides: Overrides = None,
    params: Params = None,
    plain: Plain = False,
    yes: Annotated[bool, typer.Option("--yes", help="train them however many they are")] = False,
    as_json: AsJson = False,
) -> None:
    """Architectures x widths x sparsities x seeds at equal tokens: one table, with intervals over
    seeds at matched L0."""
    artifact = _run(
        "sweep", [*(overrides or []), *(["sweep.confirmed=true"] if yes else [])], params, plain
    )
    from components.report import frontiers
    from components.report.measure import Measures
    from components.report.tables import COMPARISON

    comparison = COMPARISON.read(artifact)
    if as_json:
        return _show(comparison, as_json)
    told = frontiers.headline(comparison, Measures.read(artifact))
    _show(told.select(told.columns[: 3 + frontiers.SHORT]), as_json)
    aside.print(f"{artifact.stage}/{artifact.key}")


@app.command(rich_help_panel="Runs")
def pretrain(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[name=value]...", help="for example tokens=1e6")
    ] = None,
    to: Annotated[
        Path,
        typer.Option(
            help="folder that gets the model and its tokenizer", parser=expanded, metavar="PATH"
        ),
    ] = Path("data/scratch/model"),
) -> None:
    """Trains the embedded world's language model and writes it as a Hugging Face folder."""
    from flows.pretrain import run

    console.print(f"model written to {run(overrides or [], to)}")


@app.command("import", rich_help_panel="Share")
def import_(
    format: Annotated[
        str,
        typer.Argument(
            help="whose files: saelens, sparsify, dictionary_learning, gemma_scope, llama_scope"
        ),
    ],
    source: Annotated[str, typer.Argument(help="a folder, or a hub id (with model.online=true)")],
    overrides: Overrides = None,
    params: Params = None,
    plain: Plain = False,
) -> None:
    """Another project's dictionary, checked on these activations; `dictionary=<its key>` then takes
    it through every stage."""
    artifact = _run("import", overrides, params, plain, format=format, source=source)
    facts = artifact.facts
    console.print(f"{artifact.stage}/{artifact.key}")
    line = f"{facts['name']} at {facts['hook_point']}: fvu {facts['fvu']:.4g}, l0 {facts['l0']:.4g} on {facts['held_out']}"
    aside.print(f"{line}; next: latentflow experiment dictionary={artifact.key}")


@app.command(rich_help_panel="Share")
def export(
    what: Annotated[
        str,
        typer.Argument(
            help="key of a report; of a dictionary (train), or its name@alias in the MLflow registry"
        ),
    ],
    to: Annotated[Path, typer.Option(help="the folder to write, new or empty", **AS_PATH)],
    format: Annotated[
        str,
        typer.Option(
            help="a dictionary's files: saelens, sparsify, dictionary_learning; what is known of "
            "its latents: neuronpedia, html"
        ),
    ] = "saelens",
    latents: Annotated[
        str, typer.Option(help="which latents, such as 1,2,3 (neuronpedia: all; html)")
    ] = "",
    overrides: Overrides = None,
    params: Params = None,
) -> None:
    """A dictionary as another project's files, its activation scale folded in and checked in both
    conventions; or its latents as a folder for Neuronpedia or a page without a server."""
    from components.export.contract import targets

    if format in targets.names():
        from flows import exporting

        exporting.write(what, to, format, latents, _store(overrides, params))
    else:
        from flows import interchange
        from flows.parameters import resolve

        if latents:
            raise ConfigError(
                f"--latents: {format} files hold a whole dictionary; leave it out, or use "
                f"--format {' or '.join(targets.names())}"
            )
        interchange.write(what, to, format, resolve(overrides or [], params))
    console.print(f"{format}: {to}")


@app.command(rich_help_panel="Look")
def params(overrides: Overrides = None, path: Params = None) -> None:
    """Prints every parameter with its value, as YAML; `latentflow params > params.yaml` pins
    them."""
    import yaml

    from flows.parameters import resolve

    nested = resolve(overrides or [], path).model_dump(mode="json")
    sys.stdout.write(yaml.safe_dump(nested, sort_keys=False, allow_unicode=terminal.is_unicode()))


@app.command(rich_help_panel="Look")
def runs(
    limit: Annotated[int, typer.Option(help="how many")] = 20, as_json: AsJson = False
) -> None:
    """The latest experiments in MLflow, with their headline numbers."""
    from flows.tracking import runs

    _show(runs.runs(limit), as_json)


@app.command(rich_help_panel="Look")
def sql(
    query: Annotated[
        str,
        typer.Argument(
            help="for example \"select name, value from scores where stage = 'evaluate'\""
        ),
    ] = "",
    overrides: Overrides = None,
    params: Params = None,
    as_json: AsJson = False,
) -> None:
    """Queries all runs' tables with SQL, lazily; without a query, lists the tables and their
    columns."""
    from flows import queries

    _show(queries.run(_store(overrides, params), query) if query else queries.describe(), as_json)


@app.command(rich_help_panel="Run the stack")
def up(
    host: Annotated[
        str,
        typer.Option(
            help="address to bind to; anything but this machine's own needs --public",
            show_default=False,
        ),
    ] = "",
    public: Annotated[
        bool, typer.Option("--public", help="let other machines reach the three windows")
    ] = False,
) -> None:
    """Prefect, MLflow, Streamlit, the live worker and the deployments on this folder's state, until
    Ctrl-C or `latentflow down`."""
    from flows.stack import supervisor

    raise typer.Exit(supervisor.up(host, public))


@app.command(rich_help_panel="Run the stack")
def down() -> None:
    """Stops the stack of this folder's state."""
    from flows.stack import supervisor

    console.print(supervisor.down())


@app.command(rich_help_panel="Run the stack")
def status(as_json: AsJson = False) -> None:
    """Which processes of the stack run, where, with how much memory; exit status 1 when any does
    not."""
    from flows.stack import supervisor

    rows = supervisor.status()
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        for row in rows:
            memory = f"{row['memory_mb']:>5.0f} MB" if row["memory_mb"] is not None else " " * 8
            line = terminal.visible(
                f"{row['name']:<10} {row['address']:<24} {memory}  {row['state']}"
            )
            console.print(line, soft_wrap=True)
    raise typer.Exit(0 if all(row["state"] == "up" for row in rows) else 1)


@app.command(rich_help_panel="Share")
def publish(
    key: Annotated[
        str, typer.Argument(help="key of a report artifact; the latest when left out")
    ] = "",
    overrides: Overrides = None,
    params: Params = None,
) -> None:
    """Puts a run's whole closure of artifacts under DVC, ready for `dvc push`."""
    from flows import pipeline

    given = overrides or []
    if "=" in key:  # the latest, of a store that was named
        key, given = "", [key, *given]
    for line in pipeline.publish(_store(given, params), key):
        console.print(line)


def _store(overrides: list[str] | None, params: Path | None) -> Store:
    """The store of the resolved parameters; where nothing was given, without importing every stage
    for it."""
    from components.store.artifact import Store

    if overrides or params:
        from flows.parameters import resolve

        return Store(resolve(overrides or [], params).execution.store)
    from components.config import load
    from components.device import Execution

    return Store(load(Execution, environment.written().get("execution") or {}).store)


def _show(frame: Any, as_json: bool) -> None:
    if as_json:
        # ASCII: any terminal can take it
        sys.stdout.write(json.dumps(json.loads(frame.write_json())) + "\n")
        return
    from rich.table import Table

    table = Table(header_style="bold")
    for column in frame.columns:
        table.add_column(terminal.visible(column))
    for row in frame.head(1000).iter_rows():
        table.add_row(*map(_cell, row))
    terminal.for_tables().print(table)
    if frame.height > 1000:
        console.print(f"the first 1000 of {frame.height} rows; --json gives all")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else terminal.visible(str(value))


def _quiet_engine() -> None:
    """Keeps the engine's own account of a failure out of the terminal: the error itself is said
    once, by `main`.

    Prefect's record of the run keeps the whole traceback.
    """
    for handler in (*logging.getLogger("prefect").handlers, *logging.getLogger().handlers):
        handler.addFilter(
            lambda record: not record.name.startswith(("prefect.flow_runs", "prefect.task_runs"))
        )


def main() -> None:
    """Runs the command line; an error raised on purpose is one sentence and status 2, never a
    traceback."""
    terminal.speak_any_encoding()
    handler = RichHandler(console=aside, show_path=False, show_time=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    # each try of a server that is away; the last one is said
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        app()
    except (
        processes.Ended
    ) as ended:  # in order; whoever sent the signal hears that it was the signal
        sys.stdout.flush()
        signal.signal(ended.number, signal.SIG_DFL)
        os.kill(os.getpid(), ended.number)
    except LatentflowError as error:
        _fail(f"{type(error).__name__}:", str(error))
    except UnicodeEncodeError as error:
        if error.encoding != sys.getfilesystemencoding():
            raise
        _fail(
            "Locale:",
            f"this locale ({error.encoding}) has no letter {error.object[error.start]!r} for the "
            f"name of a file ({error.object[:80]}); set LC_ALL=C.UTF-8, or PYTHONUTF8=1",
        )
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = f" ({shortened(str(error.filename))})" if error.filename else ""
        _fail(
            "Disk:",
            f"{error.strerror}{where}; {DISK[error.errno]}, then run the same command: what is "
            "made is kept",
        )


DISK = {
    errno.ENOSPC: "free space, or set LATENTFLOW_STATE and execution.store to another disk",
    errno.EDQUOT: "free space, or set LATENTFLOW_STATE and execution.store to another disk",
    errno.EROFS: "make it writable, or set LATENTFLOW_STATE and execution.store to another folder",
    errno.EACCES: "make it writable, or set LATENTFLOW_STATE and execution.store to another folder",
    errno.ENAMETOOLONG: "give a shorter path",
}


def _fail(kind: str, sentence: str) -> NoReturn:
    sentence = sentence.encode(
        errors="backslashreplace"
    ).decode()  # half a character that somebody typed
    told = Text.assemble((f"{kind} ", "red"), terminal.visible(sentence))
    aside.print(told, soft_wrap=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
