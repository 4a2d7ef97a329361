"""What pages and comments point to is there: files, tests, sections and links."""

import ast
import functools
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("hyper_meta", "tests", "configs", "launch", "docs", "examples", "notebooks", ".ci")
FILES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
)
CODE = [path for path in FILES if path.suffix in {".py", ".sh"}]
PAGES = [path for path in FILES if path.suffix == ".md"] + sorted(ROOT.glob("*.md"))
DOCS = sorted((ROOT / "docs").glob("*.md"))
METHOD = ROOT / "docs" / "method.md"

# A file in a code span, and a test in it: `core/losses.py`, `core/test_losses.py::test_a_sum`.
SPAN = re.compile(r"`([\w.-]+(?:/[\w.-]+)*\.(?:py|md|sh|toml|ipynb))(?:::(\w+))?`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PYTHON = re.compile(r"^(?:```python|.*<<'PYTHON')\n(.*?)^(?:```|PYTHON)$", re.DOTALL | re.MULTILINE)
# Paths in docs/ may leave these out.
BASES = (ROOT, ROOT / "hyper_meta", ROOT / "tests")


def _name(path):
    return path.relative_to(ROOT).as_posix()


def _prose(text):
    """Text as it is read: a citation may go over two lines of a comment."""
    return re.sub(r"\s*\n\s*(#\s*)?", " ", text)


def _outside_blocks(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


@functools.cache
def _anchors(path):
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", _outside_blocks(path.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@functools.cache
def _tests(path):
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def _find(name):
    return next((base / name for base in BASES if (base / name).is_file()), None)


def missing_files(text):
    """Files and tests of code spans that are not there."""
    missing = []
    for name, test in SPAN.findall(text):
        path = _find(name)
        if path is None or (test and test not in _tests(path)):
            missing.append(f"{name}::{test}" if test else name)
    return missing


def broken_links(page, text):
    """Relative links to a file or heading that is not there."""
    broken = []
    for link in LINK.findall(_outside_blocks(text)):
        target, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in _anchors(path)):
            broken.append(link)
    return broken


def wrong_citations(text):
    """Citations of the page of the method that name no section, or one that it does not have."""
    page = METHOD.read_text("utf-8")
    sections = set(re.findall(r"^## (\d+) ", page, re.MULTILINE))
    faults = page.partition("### Faults")[2].partition("\n### ")[0]
    numbers = set(re.findall(r"^(\d+)\. ", faults, re.MULTILINE))
    wrong = []
    for cited in re.findall(r"(?=(method\.md\b.{0,50}))", _prose(text)):
        match = re.match(r"method\.md sections? (\d+)(?: and (\d+))?(?:, fault (\d+))?", cited)
        if match is None or not {n for n in match.groups()[:2] if n} <= sections:
            wrong.append(cited)
        elif match[3] and (match[1] != "8" or match[3] not in numbers):
            wrong.append(cited)
    return wrong


def foreign_documents(text):
    """Pages that are named but not in the repository."""
    known = {path.name for path in PAGES}
    # What a run writes, and what a user's folder may hold.
    written = {"report.md", "comparison.md", "sweep.md"}
    return sorted(set(re.findall(r"\b[\w-]+\.md\b", text)) - known - written)


@pytest.mark.parametrize("page", DOCS, ids=_name)
def test_files_and_tests_that_docs_name_are_there(page):
    assert not missing_files(page.read_text("utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page):
    assert not broken_links(page, page.read_text("utf-8"))


@pytest.mark.parametrize("path", [*PAGES, *(p for p in CODE if p.suffix == ".sh")], ids=_name)
def test_python_in_pages_and_scripts_imports_what_is_there(path):
    for code in PYTHON.findall(path.read_text("utf-8")):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "hyper_meta":
                module = importlib.import_module(node.module)
                assert not [a.name for a in node.names if not hasattr(module, a.name)]


def test_cited_sections_and_pages_are_there():
    wrong = {}
    for path in CODE:
        if path != Path(__file__):
            text = path.read_text("utf-8")
            wrong[_name(path)] = wrong_citations(text) + foreign_documents(text)
    assert not {name: cited for name, cited in wrong.items() if cited}


def test_no_comment_cites_a_numbered_rule_of_a_document_in_capitals():
    for path in CODE:
        cited = re.findall(r"\b[A-Z]{4,} (?:section|rule)s? \d", _prose(path.read_text("utf-8")))
        assert not cited, f"{_name(path)} cites {cited}"


def test_the_page_of_the_method_has_its_nine_sections():
    titles = re.findall(r"^## (\d) (.+)$", METHOD.read_text("utf-8"), re.MULTILINE)
    assert [int(number) for number, _ in titles] == list(range(1, 10))


def test_what_is_not_there_is_found():
    assert missing_files("`core/losses.py` `core/losses.py::mask_logits`") == []
    assert missing_files("`core/no_such.py`") == ["core/no_such.py"]
    assert missing_files("`core/losses.py::no_such`") == ["core/losses.py::no_such"]
    assert broken_links(METHOD, "[a](#9-from-paper-to-code) [b](https://x.org/y)") == []
    assert broken_links(METHOD, "[a](#no-such) [b](no_such.md)") == ["#no-such", "no_such.md"]
    assert wrong_citations("method.md section\n    # 8, fault 4; method.md sections 4 and 5") == []
    assert len(wrong_citations("method.md section 10 or\n method.md, 4 or method.md here")) == 3
    assert len(wrong_citations("method.md section 8, fault 11")) == 1
    assert len(wrong_citations("method.md section 7, fault 4")) == 1
    assert foreign_documents("see method.md and no-such.md") == ["no-such.md"]
