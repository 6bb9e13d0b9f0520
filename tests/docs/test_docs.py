"""The documentation keeps up with the code: tables, pages, links, examples, docstrings."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import secateur
from secateur.cli.app import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```+).*?^\1\s*$", re.DOTALL | re.MULTILINE)
RUNNABLE = re.compile(r"<!-- runnable -->\n```python\n(.*?)```", re.DOTALL)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def headings(page: Path) -> list[str]:
    return re.findall(r"^#+ +(.+?) *$", FENCE.sub("", text_of(page)), re.MULTILINE)


def slug(heading: str) -> str:
    """Return the anchor GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def named(paths: list[Path]) -> list[object]:
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths]


@pytest.mark.parametrize("script", ["docs/generate.py", "benchmarks/docs.py"])
def test_tables_are_up_to_date(script):
    ran = subprocess.run(
        [sys.executable, script, "--check"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert ran.returncode == 0, f"run python {script}: {ran.stdout}{ran.stderr}"


def test_a_stale_page_is_found_and_mended(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import generate

    stale = "# x\n<!-- list: scopes -->\nold\n<!-- end -->\nafter\n"
    filled = generate.filled(stale)
    assert "old" not in filled
    assert all(f"`{scope}`" in filled for scope in secateur.SCOPES)
    assert filled.endswith("<!-- end -->\nafter\n")
    assert generate.filled(filled) == filled


@pytest.fixture
def started(monkeypatch, tmp_path, capsys):
    """Run docs/generate.py --new on a copy of the documentation; return its exit code, output and errors."""
    monkeypatch.syspath_prepend(str(DOCS))
    import generate

    shutil.copytree(DOCS / "methods", tmp_path / "docs/methods")
    shutil.copy(DOCS / "README.md", tmp_path / "docs")
    monkeypatch.setattr(generate, "DOCS", tmp_path / "docs")

    def run(kind: str, name: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["generate.py", "--new", kind, name])
        code: object = 0
        try:
            generate.main()
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize(
    ("kind", "neighbour"), [("criterion", "random"), ("compensation", "fuse"), ("method", "dropout")]
)
def test_a_new_page_has_its_headings_and_stands_in_the_index(kind, neighbour, started, tmp_path):
    code, out, _ = started(kind, "my_own")
    assert code == 0
    page, index = tmp_path / "docs/methods/my_own.md", text_of(tmp_path / "docs/README.md")
    assert headings(page) == ["My own", "When to use it"]
    assert f"The {kind} `my_own` " in text_of(page)
    before, after = index.split(f"| [My own](methods/my_own.md) | the {kind} `my_own` |\n")
    assert before.splitlines()[-1].startswith("| [")
    assert f"(methods/{neighbour}.md)" in before.splitlines()[-1]
    assert before + after == text_of(DOCS / "README.md")
    assert "my_own.py" in out


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("criterion", "taylor", "a page docs/methods/taylor.md already: choose another name"),
        ("criterion", "my-own", "'my-own' is no name of a criterion: take small letters"),
        ("criterion", "../x", "is no name of a criterion"),
        ("criterion", "", "is no name of a criterion"),
        ("scope", "mine", "no pages of a 'scope': choose criterion, compensation, method"),
    ],
)
def test_a_page_that_can_not_be_started_is_one_sentence(kind, name, reason, started, tmp_path):
    code, out, err = started(kind, name)
    assert (code, out) == (2, "")
    assert reason in err
    assert err.count("\n") == 1
    assert text_of(tmp_path / "docs/README.md") == text_of(DOCS / "README.md")
    assert len(list((tmp_path / "docs/methods").iterdir())) == len(list((DOCS / "methods").iterdir()))


def test_every_command_has_a_page_with_its_options():
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {page.stem for page in (DOCS / "commands").glob("*.md")} == set(commands)
    groups = {name: getattr(command, "commands", {}) for name, command in commands.items()}
    inner = [(name, f"{name}-{own}", c) for name, group in groups.items() for own, c in group.items()]
    plain = [(name, name, command) for name, command in commands.items() if not groups[name]]
    for name, block, command in plain + inner:
        page = text_of(DOCS / "commands" / f"{name}.md")
        assert f"<!-- options: {block} -->" in page
        shown = [
            option for entry in command.params if not getattr(entry, "hidden", False) for option in entry.opts
        ]
        assert all(option in page for option in shown if option.startswith("-"))


@pytest.mark.parametrize("name", secateur.CRITERIA)
def test_every_criterion_has_a_page(name):
    page = DOCS / "methods" / f"{name}.md"
    assert page.exists()
    assert f"`{name}`" in text_of(page)
    assert any("When to use it" in heading for heading in headings(page))


@pytest.mark.parametrize("name", secateur.METHODS)
def test_every_method_has_its_options_on_a_page(name):
    pages = [text_of(page) for page in (DOCS / "methods").glob("*.md") if f"`{name}`" in text_of(page)]
    for option in secateur.METHODS[name].options:
        assert any("When to use it" in page and f"`{option}`" in page for page in pages), option


@pytest.mark.parametrize("name", secateur.SCOPES)
def test_every_scope_has_a_section(name):
    assert name in headings(DOCS / "methods" / "scopes.md")


def test_the_table_of_public_names_is_complete():
    section = text_of(DOCS / "guides" / "python.md").split("## Public names\n")[1].split("\n## ")[0]
    listed = re.findall(r"^\|[^|]*\| `(\w+)` +\|", section, re.MULTILINE)
    assert len(listed) == section.count("\n|") - 2, "a row does not name one thing"
    assert sorted(listed) == sorted(secateur.__all__)


@pytest.mark.parametrize("page", named(PAGES))
def test_relative_links_resolve(page):
    for target in LINK.findall(FENCE.sub("", text_of(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        aim = (page.parent / path).resolve() if path else page
        assert aim.exists(), f"{target} leads nowhere"
        assert aim.is_relative_to(ROOT), f"{target} leads out of the project"
        if anchor:
            assert anchor in [slug(heading) for heading in headings(aim)], f"{target} names no heading"


def test_every_page_is_reachable_from_the_index():
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        aims = [(page.parent / target.partition("#")[0]).resolve() for target in LINK.findall(text_of(page))]
        waiting += [aim for aim in aims if aim.suffix == ".md" and aim.exists()]
    assert set(PAGES) <= seen


EXAMPLES = [
    pytest.param(code, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, code in enumerate(RUNNABLE.findall(text_of(page)), start=1)
]


@pytest.mark.parametrize("code", EXAMPLES)
def test_examples_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "<example>", "exec"), {"__name__": "__main__"})


PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", named(PAGES))
def test_imports_in_examples_resolve(page):
    nodes = [node for code in PYTHON.findall(text_of(page)) for node in ast.walk(ast.parse(code))]
    for statement in (ast.unparse(node) for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))):
        if re.match(r"(from|import) secateur\b", statement):
            exec(statement, {})


def test_there_are_examples():
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("name", secateur.__all__)
def test_public_names_have_docstrings(name):
    thing = getattr(secateur, name)
    documented = thing if inspect.isclass(thing) or inspect.isroutine(thing) else type(thing)
    text = vars(documented).get("__doc__") if inspect.isclass(documented) else documented.__doc__
    assert text, f"{name} has no docstring of its own"
    assert not text.startswith(f"{name}("), f"{name} has only the docstring dataclass made up"
    members = vars(documented).items() if inspect.isclass(documented) else ()
    for member, value in members:
        code = getattr(value, "fget", None) or getattr(value, "__func__", value)
        if not member.startswith("_") and inspect.isfunction(code):
            assert code.__doc__, f"{name}.{member} has no docstring"
