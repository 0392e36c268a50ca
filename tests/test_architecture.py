"""The shape of the code, held by reading it: import ranks, no printing below the command line, no unsafe loaders."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "certify"
FILES = sorted(PACKAGE.rglob("*.py"))

RANKS = {
    **dict.fromkeys(("errors", "rounding", "_version"), 0.0),
    "results": 0.1,
    **dict.fromkeys(("examples", "files"), 0.2),
    **dict.fromkeys(("norms", "stats"), 1),
    "graph": 2,
    **dict.fromkeys(("loading", "bounds", "smoothing", "layers", "curvature"), 3),
    "pairing": 3.9,
    "policy": 4.0,
    **dict.fromkeys(("report", "falsifier"), 4.1),  # verification judges the gates again
    "runs": 5,
    "cli": 6,
    "pytest_plugin": 7,
}
WITHOUT_TORCH = (
    *("errors", "results", "rounding", "examples", "files"),
    *("stats", "pairing", "policy", "report", "cli", "pytest_plugin"),
)  # fmt: skip
HOMES = {
    "typer": {"cli"},
    "rich": {"cli", "report"},
    "scipy": {"stats", "norms"},
    "statsmodels": {"stats"},
    "mpmath": {"norms", "smoothing", "stats"},
    "safetensors": {"loading"},
    "PIL": {"loading"},
    "sqlite3": {"smoothing"},
    "curvlinops": {"curvature"},
    "jinja2": {"report"},
    "markupsafe": {"report"},
    "pytest": {"pytest_plugin"},
}
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml"}
UNSAFE_CALLS = {
    *("torch.load", "torch.export.load", "torch.jit.load", "torch.jit.script", "torch.jit.trace"),
    *("eval", "exec", "compile", "os.system", "__import__"),
}  # fmt: skip
FORBIDDEN_WORDS = re.compile(r"\.\./shared|/home/|/Users/|/tmp/|\bissue \d|TODO|FIXME|XXX|raise NotImplementedError")


def part(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


@functools.cache
def source(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(source(path))


@functools.cache
def nodes(node: ast.AST) -> tuple[ast.AST, ...]:
    """Every node below one, walked once for all rules."""
    return tuple(ast.walk(node))


def imports(node: ast.AST) -> Iterator[str]:
    for found in nodes(node):
        if isinstance(found, ast.Import):
            yield from (alias.name for alias in found.names)
        elif isinstance(found, ast.ImportFrom) and found.module:
            yield from (f"{found.module}.{alias.name}" for alias in found.names)


def certify_parts(names: Iterator[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("certify.")}


def imports_point_down(path):
    own = part(path)
    for other in certify_parts(imports(tree(path))):
        if other != own and other in RANKS:
            assert RANKS[other] < RANKS[own], f"{path.name} of {own} imports {other}"
    unknown = certify_parts(imports(tree(path))) - RANKS.keys()
    assert unknown <= {"__version__"}, unknown


def test_every_part_has_a_rank():
    assert {part(path) for path in FILES} - {"__init__", "__main__"} <= RANKS.keys()


def third_party_packages_have_one_home(path):
    for name in imports(tree(path)):
        home = HOMES.get(name.split(".")[0])
        assert home is None or part(path) in home, f"{path} imports {name}"


def no_torch_at_the_top_of_what_must_start_at_once(path):
    top = [node for node in tree(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {name for node in top for name in imports(node)}
    heavy = (
        "torch",
        "certify.graph",
        "certify.norms",
        "certify.loading",
        "certify.bounds",
        "certify.smoothing",
        "certify.runs",
    )
    assert not [name for name in names if name.startswith(heavy)]


def test_help_does_not_import_torch():
    """One process for all of them: whatever one imports is still there at the end."""
    code = (
        "import sys; from certify.cli.app import main\n"
        "for line in ('--help', 'gate --help', 'verify --help', 'report --help'):\n"
        "    found = main(line.split()) or {'torch', 'statsmodels'} & set(sys.modules)\n"
        "    if found: sys.exit(f'{line}: {found}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def no_unsafe_loaders_and_no_printing(path):
    assert not {name.split(".")[0] for name in imports(tree(path))} & UNSAFE_MODULES
    calls = {ast.unparse(node.func) for node in nodes(tree(path)) if isinstance(node, ast.Call)}
    assert not calls & UNSAFE_CALLS
    assert "print" not in calls


def nothing_below_the_command_line_writes_to_the_terminal(path):
    assert not re.search(r"sys\.(stdout|stderr)", source(path))


def no_assert_guards_a_certificate(path):
    assert not [node for node in nodes(tree(path)) if isinstance(node, ast.Assert)]


def errors_are_caught_by_name(path):
    """Those that catch all map outcomes to exit codes, or translate what torch.export or a user's factory raises."""
    handlers = [node for node in nodes(tree(path)) if isinstance(node, ast.ExceptHandler)]
    passing_on = [node for node in handlers if isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None]
    broad = [
        node
        for node in handlers
        if node not in passing_on
        and (node.type is None or {"Exception", "BaseException"} & set(re.findall(r"\w+", ast.unparse(node.type))))
    ]
    allowed = {"__main__.py": 1, "app.py": 1, "trace.py": 1, "factory.py": 1}.get(path.name, 0)
    assert len(broad) <= allowed


def public_functions(path: Path) -> Iterator[ast.FunctionDef]:
    """The functions of a module, and the methods of its public classes; functions inside functions are private."""
    scopes = [tree(path), *(n for n in tree(path).body if isinstance(n, ast.ClassDef) and not n.name.startswith("_"))]
    for scope in scopes:
        yield from (n for n in scope.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_"))


def public_functions_are_documented_and_annotated(path):
    assert ast.get_docstring(tree(path))
    for node in public_functions(path):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
        overloaded = any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list)
        assert overloaded or ast.get_docstring(node), f"{path}: {node.name} has no docstring"
        assert not bare, f"{path}: {node.name} leaves {bare} without annotation"
        assert node.returns is not None, f"{path}: {node.name} has no return annotation"


def the_text_speaks_of_the_product_only(path):
    assert not FORBIDDEN_WORDS.search(source(path))


def test_no_file_is_named_after_nothing():
    assert not {path.stem for path in FILES} & {"utils", "util", "helpers", "common", "base", "manager", "misc"}


RULES = {
    imports_point_down: [p for p in FILES if part(p) not in ("__init__", "__main__")],
    third_party_packages_have_one_home: FILES,
    no_torch_at_the_top_of_what_must_start_at_once: [p for p in FILES if part(p) in WITHOUT_TORCH],
    no_unsafe_loaders_and_no_printing: FILES,
    nothing_below_the_command_line_writes_to_the_terminal: [p for p in FILES if part(p) not in ("cli", "__main__")],
    no_assert_guards_a_certificate: FILES,
    errors_are_caught_by_name: FILES,
    public_functions_are_documented_and_annotated: FILES,
    the_text_speaks_of_the_product_only: FILES,
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_file_keeps(rule):
    """All files in one test: thousands of tests of a millisecond cost more than what they look at."""
    broken = []
    for path in RULES[rule]:
        try:
            rule(path)
        except AssertionError as error:
            broken.append(f"{path.relative_to(PACKAGE)}: {error}")
    assert broken == []
