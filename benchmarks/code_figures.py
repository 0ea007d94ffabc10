"""Figures of the code: sizes, widths, repetitions; of the working tree or a revision, or of two.

    python benchmarks/code_figures.py [REVISION] [--against REVISION] [--under FOLDER ...]
                                      [--list] [--json]

Without a revision the working tree is read, new files included. Counted in the folders' Python:

tokens              of Python without comments, docstrings and what only lays out; any string
                    that is a statement is a docstring
largest file        lines
longest function    lines from `def` to its last one
wide lines          of more than 100 columns
own-line comments   for each thousand lines
duplicates          runs of six or more lines that stood before somewhere else; blank lines,
                    comments, docstrings and imports are left out, and indentation
class names twice   names of classes that several modules define
parsed names        string literals that are patterns of dotted score names

`--list` names what the last four and the wide lines are made of. Compare with one version of
Python: newer ones cut f-strings into more tokens.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import subprocess
import sys
import tarfile
import tokenize
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("components", "flows", "dashboards")
WIDEST, REPEATED = 100, 6
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
STAGES = "read|capture|train|encode|interpret|steer|evaluate|compare"
PARTS = "over_|composite|concept|share|strongest|weakest|macro|average_precision|detection|simulation|fluency|cost"
SCORE_NAME = re.compile(
    rf"\b(?:{STAGES})\\\.|"
    rf"\\\.\(?(?:\?:)?(?:{PARTS})|"
    r"\\\.\(?\{?(?:STRATA|BUDGET|CONTROLS)"
)
"""An escaped dot behind a stage's name, or before a part of a score's name."""


@dataclass
class Figures:
    """What was counted, and what it is made of."""

    values: dict[str, float | str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Module:
    """One Python file, read."""

    path: str
    text: str
    tree: ast.Module
    lines: list[str]
    documentation: set[int]
    """Numbers of the lines of strings that are statements."""

    @classmethod
    def of(cls, path: str, text: str) -> Module:
        tree = ast.parse(text)
        statements = [node for node in ast.walk(tree) if isinstance(node, ast.Expr)]
        strings = [node for node in statements if _is_text(node.value)]
        return cls(path, text, tree, text.splitlines(), _covered(strings))


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _covered(nodes: Sequence[ast.stmt]) -> set[int]:
    """Numbers of the lines that these statements stand on."""
    return {
        number
        for node in nodes
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def working_tree(folders: Sequence[str]) -> dict[str, str]:
    """Path -> text of the Python files of the working tree, those new to git included."""
    every = ("--cached", "--others", "--exclude-standard")
    listed = _git("ls-files", "-z", *every, "--", *folders).decode().split("\0")
    paths = [path for path in listed if path.endswith(".py") and (REPOSITORY / path).is_file()]
    return {path: (REPOSITORY / path).read_text(encoding="utf-8") for path in sorted(paths)}


def revision(name: str, folders: Sequence[str]) -> dict[str, str]:
    """The same of a revision that git knows; folders that it lacks are empty."""
    there = _git("ls-tree", "-d", "--name-only", name, "--", *folders).decode().split()
    if not there:
        return {}
    with tarfile.open(fileobj=io.BytesIO(_git("archive", name, "--", *there))) as archive:
        files = [member for member in archive.getmembers() if member.name.endswith(".py")]
        opened = {member.name: archive.extractfile(member) for member in files}
        return {path: file.read().decode() for path, file in sorted(opened.items()) if file}


def _git(*arguments: str) -> bytes:
    command = ["git", "-C", str(REPOSITORY), *arguments]
    ran = subprocess.run(command, capture_output=True, check=False)
    if ran.returncode:
        sys.exit(f"git {' '.join(arguments[:3])}: {ran.stderr.decode().strip()}")
    return ran.stdout


def measured(files: Mapping[str, str]) -> Figures:
    """The figures of these files."""
    modules = [Module.of(path, text) for path, text in files.items()]
    lines = [
        (f"{module.path}:{at}", line)
        for module in modules
        for at, line in enumerate(module.lines, 1)
    ]  # fmt: skip
    largest = max(modules, key=lambda module: len(module.lines), default=None)
    functions = [function for module in modules for function in _functions(module)]
    length, longest = max(functions, default=(0, ""))
    wide = [f"{where} ({len(line)})" for where, line in lines if len(line) > WIDEST]
    comments = sum(line.lstrip().startswith("#") for _, line in lines)
    repeated, n_repeated = duplicates(modules)
    twice = classes_twice(modules)
    names = [pattern for module in modules for pattern in _score_patterns(module)]
    figures = Figures()
    figures.values = {
        "files": len(modules),
        "lines": len(lines),
        "tokens": sum(map(tokens, modules)),
        "largest file": len(largest.lines) if largest else 0,
        "which file": largest.path if largest else "",
        "longest function": length,
        "which function": longest,
        f"lines over {WIDEST} columns": len(wide),
        "own-line comments a thousand lines": round(1000 * comments / max(1, len(lines)), 1),
        f"duplicates of {REPEATED} lines or more": len(repeated),
        "lines in them": n_repeated,
        "class names that occur twice": len(twice),
        "patterns of dotted score names": len(names),
    }
    figures.lists = {
        "wide lines": wide,
        "duplicates": repeated,
        "class names twice": twice,
        "parsed names": names,
    }
    return figures


def tokens(module: Module) -> int:
    """Tokens of the code itself."""
    found = tokenize.generate_tokens(io.StringIO(module.text).readline)
    documented = module.documentation
    return sum(
        token.type not in LAYOUT
        and not (token.type == tokenize.STRING and token.start[0] in documented)
        for token in found
    )


def _functions(module: Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1, f"{module.path}: {node.name}"


def duplicates(modules: Sequence[Module]) -> tuple[list[str], int]:
    """Runs of lines that stood before, each with the place of the first; how many lines they
    are."""
    first: dict[tuple[str, ...], str] = {}
    found, n_lines = [], 0
    for module in modules:
        code = list(_code_lines(module))
        repeats: dict[int, str] = {}  # number of a line in `code` -> where its run stood first
        for at in range(len(code) - REPEATED + 1):
            window = tuple(line for _, line in code[at : at + REPEATED])
            here = f"{module.path}:{code[at][0]}"
            before = first.setdefault(window, here)
            if before != here and at not in repeats:
                run = range(at, at + REPEATED)
                repeats |= dict.fromkeys([line for line in run if line not in repeats], before)
            elif before != here:
                repeats.setdefault(at + REPEATED - 1, before)
        n_lines += len(repeats)
        starts = [at for at in repeats if at - 1 not in repeats]
        found += [f"{module.path}:{code[at][0]} as {repeats[at]}" for at in sorted(starts)]
    return found, n_lines


def _code_lines(module: Module) -> Iterator[tuple[int, str]]:
    nodes = ast.walk(module.tree)
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    left_out = _covered(imports) | module.documentation
    for at, line in enumerate(module.lines, 1):
        text = line.strip()
        if text and not text.startswith("#") and at not in left_out:
            yield at, text


def classes_twice(modules: Sequence[Module]) -> list[str]:
    """Names of classes, and the modules that define them."""
    places = defaultdict(list)
    for module in modules:
        for name in {node.name for node in module.tree.body if isinstance(node, ast.ClassDef)}:
            places[name].append(module.path)
    several = {name: paths for name, paths in sorted(places.items()) if len(paths) > 1}
    return [f"{name}: {', '.join(paths)}" for name, paths in several.items()]


def _score_patterns(module: Module) -> Iterator[str]:
    """Whole literals with their places: an f-string is one, with its names in braces."""
    joined = [node for node in ast.walk(module.tree) if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for node in joined for part in node.values}
    plain = [node for node in ast.walk(module.tree) if _is_text(node) and id(node) not in parts]
    for node in sorted([*joined, *plain], key=lambda node: (node.lineno, node.col_offset)):
        if node.lineno in module.documentation:
            continue
        lines = "\n".join(module.lines[node.lineno - 1 : node.end_lineno])
        if "\\." in lines:  # finding the literal itself in its file takes long
            text = ast.get_source_segment(module.text, node) or ""
            if SCORE_NAME.search(text):
                yield f"{module.path}:{node.lineno} {text}"


def table(columns: Mapping[str, Figures]) -> str:
    """One row for each figure, one column for each version."""
    names = list(next(iter(columns.values())).values)
    rows = [
        ["", *columns],
        *([name, *(_shown(each.values[name]) for each in columns.values())] for name in names),
    ]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def main() -> None:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("revision", nargs="?", default="", help="the working tree where absent")
    parser.add_argument("--against", default="", help="a revision that stands beside it")
    parser.add_argument("--under", nargs="+", default=FOLDERS, help="folders that are counted")
    parser.add_argument("--list", action="store_true", help="name what is repeated, wide or parsed")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    columns = {}
    for name in dict.fromkeys([*([wanted.against] if wanted.against else []), wanted.revision]):
        files = revision(name, wanted.under) if name else working_tree(wanted.under)
        columns[name or "working tree"] = measured(files)
    if wanted.json:
        everything = {name: each.values | each.lists for name, each in columns.items()}
        return print(json.dumps(everything, indent=1))
    print(table(columns))
    shown = columns[wanted.revision or "working tree"].lists if wanted.list else {}
    for what, listed in shown.items():
        print(f"\n{what}\n", *listed, sep="\n")


if __name__ == "__main__":
    main()
