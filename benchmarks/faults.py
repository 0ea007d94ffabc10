"""Every fault of the stack, made for real, on the tiny experiment: what happened, what was lost,
and how long it took.

Each fault starts from a store that has everything but the last stages, hits while `evaluate` is
being made (or where the fault belongs), lets the run go on or starts it again as its message says,
and compares keys and table with an undisturbed run. `tests/flows/test_faults.py` runs the same
functions.

    python benchmarks/faults.py [--write docs/reliability.md] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from components.report.tables import REPORT  # noqa: E402
from components.store.artifact import Store  # noqa: E402
from flows.stack import processes  # noqa: E402
from tests.stacks import TINY, Room  # noqa: E402


class Outcome(NamedTuple):
    """What came of one fault.

    Attributes:
        fault: what was done.
        happened: what the run did, and what the user was told.
        lost: "nothing" when every artifact and number equals the undisturbed run's.
        seconds: from the fault to the finished experiment.
    """

    fault: str
    happened: str
    lost: str
    seconds: float


class CannotTry(Exception):
    """This machine does not allow the fault to be made."""


@dataclasses.dataclass
class Bench:
    """A folder for the faults, and an undisturbed store to compare with."""

    folder: Path
    reference: Path
    away: float = 60.0

    def room(
        self, name: str, without: tuple[str, ...] = ("evaluate", "report"), **variables: str
    ) -> Room:
        """A room whose store lacks some stages."""
        folder = self.folder / name
        shutil.copytree(
            self.reference, folder / "artifacts", ignore=shutil.ignore_patterns(".locks", *without)
        )
        return Room(folder, **variables)

    def lost(self, room: Room) -> str:
        """What differs from the undisturbed run."""
        wanted, found = contents(self.reference), contents(room.store)
        if missing := sorted(set(wanted) - set(found)):
            return f"artifacts {', '.join(missing)}"
        different = [
            key for key in wanted if key.startswith("report/") and wanted[key] != found[key]
        ]
        return f"the numbers of {', '.join(different)}" if different else "nothing"


def contents(store: Path) -> dict[str, list[dict]]:
    """Key of every complete artifact -> the rows of its report (each file verified against its
    manifest)."""
    found = {}
    for artifact in Store(store).artifacts():
        for name in artifact.files:
            artifact.path(name)
        rows = REPORT.read(artifact).to_dicts() if artifact.stage == "report" else []
        found[f"{artifact.stage}/{artifact.key}"] = rows
    return found


def only_complete(store: Path) -> bool:
    """Whether every folder with a final name is a complete artifact."""
    folders = [
        path
        for path in store.glob("*/*")
        if path.is_dir() and path.suffix != ".partial" and path.parent.name[0] != "."
    ]
    return {f"{path.parent.name}/{path.name}" for path in folders} == set(contents(store))


def experiment(room: Room) -> tuple[str, ...]:
    return (
        "experiment",
        "--params",
        str(TINY),
        f"execution.store={room.store}",
        "execution.threads=1",
    )


def evaluating(room: Room) -> Callable[[], bool]:
    return lambda: any((room.store / "evaluate").glob("*.partial"))


def finish(room: Room) -> str:
    """The same command again, to its end; its output."""
    status, output = room.run(*experiment(room))
    if status:
        raise RuntimeError(f"the run that was started again failed:\n{output[-3000:]}")
    return output


def flow_killed(bench: Bench) -> Outcome:
    room = bench.room("flow")
    process = room.start(*experiment(room))
    room.until(evaluating(room))
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    whole = only_complete(room.store)
    output = finish(room)
    room.close()
    happened = "the same command again found what was made and finished the rest"
    if "are now Crashed" in output:
        happened += "; the killed run is Crashed in Prefect"
    lost = bench.lost(room) if whole else "an incomplete artifact had a final name"
    return Outcome("kill -9 of the flow's process", happened, lost, time.monotonic() - began)


def prefect_killed(bench: Bench) -> Outcome:
    room = bench.room("prefect")
    process = room.start(*experiment(room))
    room.until(evaluating(room))
    server = processes.read_record(room.folder / "state" / "prefect" / "server.json")
    assert server is not None
    began = time.monotonic()
    os.killpg(server["pid"], signal.SIGKILL)
    status = process.wait(200)
    seconds = time.monotonic() - began
    restarted = "starting it again" in room.text()
    room.close()
    if status:
        return Outcome(
            "kill -9 of the Prefect server",
            f"the run failed:\n{room.text()[-1500:]}",
            "the run",
            seconds,
        )
    happened = (
        "the run started the server again and went on" if restarted else "the run did not notice"
    )
    return Outcome(
        "kill -9 of the Prefect server under a command line run",
        happened,
        bench.lost(room),
        seconds,
    )


def child_killed(bench: Bench, name: str, title: str) -> Outcome:
    room = bench.room(f"stack-{name}")
    stack = room.up()
    room.trigger("experiment")
    room.until(evaluating(room), log="up.log")
    began = time.monotonic()
    os.killpg(room.child(name), signal.SIGKILL)
    status = stack.wait(60)
    said = f"{name} ended with status" in room.text("up.log")
    free = all(processes.is_free(port) for port in room.ports.values())
    whole = only_complete(room.store)
    stopped = time.monotonic() - began
    finish(room)
    room.close()
    happened = (
        f"the stack named it and stopped everything in {stopped:.0f} s"
        if (status, said, free) == (1, True, True)
        else f"the stack ended with status {status}, named it: {said}, ports free: {free}"
    )
    lost = bench.lost(room) if whole else "an incomplete artifact had a final name"
    return Outcome(
        f"kill -9 of {title} under a run of the stack",
        f"{happened}; the same experiment again found what was made and finished",
        lost,
        time.monotonic() - began,
    )


def supervisor_killed(bench: Bench) -> Outcome:
    room = bench.room("supervisor")
    stack = room.up()
    run = room.trigger("experiment")
    room.until(evaluating(room), log="up.log")
    began = time.monotonic()
    os.kill(stack.pid, signal.SIGKILL)
    stack.wait()
    _, said = room.run("down", seconds=60)
    free = all(processes.is_free(port) for port in room.ports.values())
    whole = only_complete(room.store)
    again = room.up()
    ended = room.until_ended(run, 30)["type"]
    os.kill(again.pid, signal.SIGTERM)
    again.wait(60)
    finish(room)
    room.close()
    happened = f"`latentflow down` said: {said.strip()}" if free else "processes were left behind"
    lost = bench.lost(room) if whole else "an incomplete artifact had a final name"
    return Outcome(
        "kill -9 of `latentflow up` itself",
        f"{happened}; after the next `up` the run is {ended.capitalize()} in Prefect; started "
        "again, it finished",
        lost,
        time.monotonic() - began,
    )


def read_only(bench: Bench) -> Outcome:
    room = bench.room("read-only")
    with mounted(["--bind", str(room.store), str(room.store)], room.store):
        mount("-o", "remount,ro,bind", str(room.store))
        began = time.monotonic()
        status, output = room.run(*experiment(room), "--plain")
    finished(room)
    return Outcome(
        "the store becomes read-only",
        said(status, output),
        bench.lost(room),
        time.monotonic() - began,
    )


def disk_full(bench: Bench) -> Outcome:
    """The store's disk fills up in the middle of a stage; then it has room again."""
    room = bench.room("full", without=("encode", "evaluate", "report"))
    disk = room.folder / "disk"
    disk.mkdir()
    used = sum(path.stat().st_size for path in room.store.rglob("*") if path.is_file())
    with mounted(["-t", "tmpfs", "-o", f"size={used // 1024 + 4000}k", "tmpfs", str(disk)], disk):
        shutil.copytree(room.store, disk / "artifacts")
        room.store = disk / "artifacts"
        began = time.monotonic()
        status, output = room.run(*experiment(room), "--plain")
        whole = only_complete(room.store)
        mount("-o", "remount,size=400m", str(disk))
        finished(room)
        lost = bench.lost(room) if whole else "an incomplete artifact had a final name"
    return Outcome("the disk fills up", said(status, output), lost, time.monotonic() - began)


def state_disk_full(bench: Bench) -> Outcome:
    """The disk of Prefect's and MLflow's databases fills up while a run goes on; the store is
    elsewhere."""
    room = bench.room("state-full")
    state = room.folder / "state"
    state.mkdir()
    with mounted(["-t", "tmpfs", "-o", "size=60m", "tmpfs", str(state)], state):
        process = room.start(*experiment(room))
        room.until(evaluating(room))
        began = time.monotonic()
        with contextlib.suppress(OSError), (state / "ballast").open("wb") as ballast:
            while True:
                ballast.write(b"\0" * 65536)
        status = process.wait(250)
        output = room.text()
        whole = only_complete(room.store)
        (state / "ballast").unlink(missing_ok=True)
        room.close()
        finish(room)
        room.close()
    happened = "the run went on" if status == 0 else said(status, output)
    lost = bench.lost(room) if whole else "an incomplete artifact had a final name"
    return Outcome(
        "the disk of Prefect's and MLflow's databases fills up",
        happened,
        lost,
        time.monotonic() - began,
    )


def mlflow_lost(bench: Bench) -> Outcome:
    """The run records to an MLflow server that dies and comes back after a while."""
    port = processes.free_port()
    room = bench.room("mlflow", MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}")
    server = mlflow_server(room, port)
    process = room.start(*experiment(room))
    room.until(evaluating(room))
    began = time.monotonic()
    processes.stop_all([server.pid], ((signal.SIGKILL, 5.0),))
    server.wait()
    time.sleep(bench.away)
    still = process.poll() is None
    server = mlflow_server(room, port)
    status = process.wait(200)
    recorded = recorded_stages(port)
    seconds = time.monotonic() - began
    processes.stop_all([server.pid])
    server.wait()
    room.close()
    warned = "MLflow could not" in room.text()
    everything = {
        "read",
        "capture",
        "train",
        "encode",
        "evaluate",
        "interpret",
        "steer",
        "report",
    } <= recorded
    happened = ("the run went on" if status == 0 else f"the run ended with status {status}") + (
        ", said that MLflow does not answer, and recorded what it had missed"
        if warned and everything
        else ""
    )
    if not everything and not still:
        happened += f"; it was over before MLflow came back and said so; recorded: {', '.join(sorted(recorded))}"
    lost = (
        bench.lost(room)
        if everything
        else "MLflow's record of " + ", ".join(sorted({"report"} - recorded))
    )
    return Outcome(f"MLflow is away for {bench.away:.0f} s", happened, lost, seconds)


def mlflow_server(room: Room, port: int) -> subprocess.Popen[bytes]:
    state = room.folder / "state"
    state.mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", f"sqlite:///{state / 'mlflow.db'}"]
    command += ["--artifacts-destination", (state / "mlflow-artifacts").as_uri()]
    with (room.folder / "mlflow.log").open("a", encoding="utf-8") as log:
        server = subprocess.Popen(
            command,
            env={**room.environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    room.until(lambda: processes.answers(f"http://127.0.0.1:{port}/health"), log="mlflow.log")
    return server


def recorded_stages(port: int) -> set[str]:
    """The stages that MLflow has a finished nested run of."""
    import httpx

    address = f"http://127.0.0.1:{port}/api/2.0/mlflow"
    found = httpx.get(
        f"{address}/experiments/get-by-name", params={"experiment_name": "latentflow"}, timeout=30
    )
    wanted = {"experiment_ids": [found.json()["experiment"]["experiment_id"]], "max_results": 200}
    runs = httpx.post(f"{address}/runs/search", json=wanted, timeout=30).json().get("runs", [])
    tags = [
        {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}
        for run in runs
        if run["info"]["status"] == "FINISHED"
    ]
    return {tag["stage"] for tag in tags if "stage" in tag}


def said(status: int, output: str) -> str:
    """What a failed command said at its end; a traceback is a fault of its own."""
    if "Traceback" in output:
        return f"status {status} and a traceback: {output.strip().splitlines()[-1]}"
    sentences = [
        line for line in output.splitlines() if "Error:" in line or line.startswith("Disk:")
    ]
    return f"status {status}: {sentences[-1].strip() if sentences else output.strip()[-200:]}"


def finished(room: Room) -> None:
    """The experiment to its end, without servers."""
    status, output = room.run(*experiment(room), "--plain")
    if status:
        raise RuntimeError(f"the run that was started again failed:\n{output[-3000:]}")


def mount(*arguments: str) -> None:
    done = subprocess.run(
        ["mount", *arguments],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        raise CannotTry(f"mount is not permitted here: {done.stderr.strip()}")


@contextlib.contextmanager
def mounted(arguments: list[str], where: Path) -> Iterator[None]:
    if not shutil.which("mount"):
        raise CannotTry("there is no mount here")
    mount(*arguments)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(where)], check=False)


FAULTS: dict[str, Callable[[Bench], Outcome]] = {
    "flow killed": flow_killed,
    "Prefect killed": prefect_killed,
    "stack's Prefect killed": lambda bench: child_killed(bench, "prefect", "the Prefect server"),
    "stack's MLflow killed": lambda bench: child_killed(bench, "mlflow", "the MLflow server"),
    "stack's Streamlit killed": lambda bench: child_killed(bench, "streamlit", "Streamlit"),
    "stack's live worker killed": lambda bench: child_killed(bench, "live", "the live worker"),
    "stack killed": supervisor_killed,
    "MLflow lost": mlflow_lost,
    "store read-only": read_only,
    "disk full": disk_full,
    "state's disk full": state_disk_full,
}


def undisturbed(folder: Path) -> Path:
    """The store of an undisturbed run, without servers."""
    folder.mkdir(parents=True)
    room = Room(folder)
    finished(room)
    return room.store


def page(outcomes: list[Outcome]) -> str:
    """docs/reliability.md."""
    rows = [f"| {o.fault} | {o.happened} | {o.lost} | {o.seconds:.0f} |" for o in outcomes]
    return "\n".join(
        [
            "# Reliability",
            "",
            "Written by `python benchmarks/faults.py`: every fault is made for real while the "
            "tiny experiment runs, and the",
            "result is compared with an undisturbed run (all artifact keys, every file's digest, "
            "every row of the table).",
            f"Machine: {os.cpu_count()} cores, {platform.system()}, Python "
            f"{platform.python_version()}. Seconds are from the fault to the",
            "finished experiment, a second start of servers and interpreter included.",
            "",
            "| fault | what happened | lost | seconds |",
            "|---|---|---|---|",
            *rows,
            "",
            "Why nothing is lost: an artifact gets its name by one rename after its manifest is "
            "on disk; until then it is",
            "`<key>.partial`, which the next run continues. Locks (artifacts, device slots, runs, "
            "the stack) belong to the",
            "operating system and end with their process. Prefect says what ran and MLflow holds "
            "numbers; neither holds bytes.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path, default=REPOSITORY / "docs" / "reliability.md")
    parser.add_argument("--only", nargs="*", default=list(FAULTS), choices=list(FAULTS))
    parser.add_argument("--away", type=float, default=60.0, help="seconds that MLflow is away")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="latentflow-faults-"))
    bench = Bench(folder, undisturbed(folder / "calm"), arguments.away)
    outcomes = []
    for name in arguments.only:
        try:
            outcomes.append(FAULTS[name](bench))
        except CannotTry as reason:
            outcomes.append(Outcome(name, f"not tried: {reason}", "–", 0.0))
        except Exception as error:  # the others are still worth knowing
            traceback.print_exc()
            outcomes.append(
                Outcome(
                    name, f"the fault could not be made: {type(error).__name__}", "unknown", 0.0
                )
            )
        print(
            json.dumps(outcomes[-1]._asdict()) if arguments.json else outcomes[-1],
            file=sys.stderr,
            flush=True,
        )
    if list(arguments.only) == list(FAULTS):
        arguments.write.write_text(page(outcomes).replace(f"{folder}/", ""), encoding="utf-8")
    if arguments.json:
        print(json.dumps([outcome._asdict() for outcome in outcomes], indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if all(outcome.lost in ("nothing", "–") for outcome in outcomes) else 1)


if __name__ == "__main__":
    main()
