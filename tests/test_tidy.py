"""The house style, as far as it can be checked: sizes, names, leftovers, and the few places that may break a rule."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FUNCTION_LINES_MAX = 70
SOURCE_LINES_MAX = 500

# A failure is translated at the borders and rises; these are where it ends. Path -> how many, and why.
CATCHES_ALL = {
    "src/antiphon/engine/run.py": (1, "a bug ends the response as a failed one"),
    "src/antiphon/engine/errands.py": (1, "a failing tool fails its item"),
    "src/antiphon/api/routes.py": (1, "a bug before the first event is a 500 with the envelope"),
}

# Where the shape of an object is not ours to declare. Path -> why.
UNTYPED_OBJECTS = {
    "src/antiphon/api/meta.py": "JSON Schema, written into openapi.json",
    "src/antiphon/config.py": "the settings of a plug-in are declared by it alone",
    "src/antiphon/core/fold.py": "the oracle reads events as plain JSON, so that it shares no type with the builder",
    "src/antiphon/core/prompt.py": "a function's parameters are JSON Schema",
    "src/antiphon/models/chatbody.py": "what an upstream is sent is nobody's declared type",
    "src/antiphon/models/responsesbody.py": "what an upstream is sent is nobody's declared type",
    "src/antiphon/tools/mcp.py": "the arguments of a call, which only its server can judge",
    "src/antiphon/tools/mcp_speech.py": "the arguments of a call, which only its server can judge",
    "src/antiphon/wire/codec.py": "raw JSON, before it is normalised and converted",
    "src/antiphon/wire/tolerance.py": "raw JSON, before its types are checked",
    "src/antiphon/wire/tools.py": "a function's parameters are JSON Schema",
}

BANNED_NAME = re.compile(r"(Manager|Handler|Helper|Utils?)(?![a-z])")
BANNED_MODULE = re.compile(r"(manager|handler|helper|util)s?$")
LEFTOVER = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
MACHINE_PATH = re.compile(r"(?<![\w.~}])/(home|Users|root|work|opt|mnt)/\w")
REGISTRY = re.compile(r"\b(pypi\.org|pythonhosted\.org|npmjs\.(org|com)|crates\.io)\b|--(extra-)?index-url\b")


def tracked() -> list[Path]:
    """What is, or is about to be, in the repository; in an unpacked archive, everything that is not hidden."""
    git = shutil.which("git")
    if git and (ROOT / ".git").exists():
        command = [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=True)
        files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        files = [path for path in ROOT.rglob("*") if not any(map(is_made, path.relative_to(ROOT).parts))]
    return sorted(path for path in files if path.is_file())


def is_made(part: str) -> bool:
    return part.startswith(".") or part == "node_modules"


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


TRACKED = tracked()
PYTHON = [path for path in TRACKED if path.suffix == ".py"]
SOURCE = [path for path in PYTHON if name(path).startswith("src/")]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PYTHON}


def texts() -> Iterator[tuple[str, int, str]]:
    """Every line of every text file: its file, its number, itself. Recordings are quoted, not written."""
    for path in TRACKED:
        data = path.read_bytes()
        if b"\0" not in data and "recordings" not in path.parts:
            for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
                yield name(path), number, line


def test_the_tree_is_found() -> None:
    assert ROOT / "src/antiphon/config.py" in SOURCE


def test_no_function_is_longer_than_a_screen() -> None:
    long = [
        f"{name(path)}:{node.lineno} {node.name}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert long == []


def test_no_source_file_is_too_long() -> None:
    lines = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCE}
    assert {path: count for path, count in lines.items() if count > SOURCE_LINES_MAX} == {}


def test_the_first_line_of_every_module_says_what_it_is() -> None:
    silent = [name(path) for path, tree in TREES.items() if tree.body and not says_what_it_is(tree)]
    assert silent == []


def says_what_it_is(tree: ast.Module) -> bool:
    return bool(ast.get_docstring(tree)) and tree.body[0].lineno <= 2  # a script's first line is its #!


def catches_all(node: ast.AST) -> bool:
    """Whether an except clause swallows what it cannot know. One that ends by raising the same again does not."""
    if not isinstance(node, ast.ExceptHandler):
        return False
    kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    last = node.body[-1]
    raises = isinstance(last, ast.Raise) and last.exc is None
    return not raises and any(k is None or (isinstance(k, ast.Name) and k.id in CATCH_ALL) for k in kinds)


CATCH_ALL = ("Exception", "BaseException")


def test_everything_is_caught_at_the_known_places_only() -> None:
    found = {name(path): sum(map(catches_all, ast.walk(TREES[path]))) for path in SOURCE}
    allowed = {path: count for path, (count, _) in CATCHES_ALL.items()}
    assert {path: count for path, count in found.items() if count > allowed.get(path, 0)} == {}


def test_objects_without_a_declared_shape_stand_at_the_known_places_only() -> None:
    found = {name(path) for path in SOURCE if "dict[str, Any]" in path.read_text(encoding="utf-8")}
    assert sorted(found - UNTYPED_OBJECTS.keys()) == []


def test_no_exception_to_a_rule_outlives_its_reason() -> None:
    present = {name(path): path.read_text(encoding="utf-8") for path in SOURCE}
    assert [path for path in UNTYPED_OBJECTS if "dict[str, Any]" not in present.get(path, "")] == []
    assert [path for path in CATCHES_ALL if path not in present] == []


def test_nothing_is_named_for_managing_handling_or_helping() -> None:
    classes = [
        f"{name(path)} {node.name}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and BANNED_NAME.search(node.name)
    ]
    modules = [name(path) for path in PYTHON if BANNED_MODULE.search(path.stem)]
    assert classes + modules == []


@pytest.mark.parametrize("rule", [LEFTOVER, MACHINE_PATH, REGISTRY], ids=["leftover", "machine path", "registry"])
def test_no_text_holds_a_leftover_a_path_of_one_machine_or_an_address_of_a_registry(rule: re.Pattern[str]) -> None:
    assert [f"{path}:{number} {line.strip()}" for path, number, line in texts() if rule.search(line)] == []


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (LEFTOVER, "# TO" + "DO: later"),
        (MACHINE_PATH, "see /ho" + "me/me/x"),
        (REGISTRY, "pip install --index" + "-url x"),
        (BANNED_NAME, "RunManager"),
    ],
)
def test_each_rule_can_fail(rule: re.Pattern[str], text: str) -> None:
    assert rule.search(text)


def test_a_catch_of_everything_is_recognised() -> None:
    swallowing = ast.parse("try: f()\nexcept (KeyError, Exception): g()")
    passing_on = ast.parse("try: f()\nexcept BaseException:\n g()\n raise")
    assert [sum(map(catches_all, ast.walk(tree))) for tree in (swallowing, passing_on)] == [1, 0]
