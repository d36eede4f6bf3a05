"""What the README and the other pages name exists, and the pages on the tree and on the oracles are whole."""

from __future__ import annotations

import argparse
import importlib.util
import re
from pathlib import Path

import pytest

from tfdist.cli.main import COMMANDS
from tfdist.cli.train import add_arguments
from tfdist.parity.registry import FAMILIES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "benchmarks" / "README.md"]
ORACLES = (ROOT / "docs" / "oracles.md").read_text()


def load_tree_module():
    spec = importlib.util.spec_from_file_location("tree", ROOT / "docs" / "tree.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tree_is_up_to_date():
    tree = load_tree_module()
    assert tree.PAGE.read_text() == tree.page(), "run `make tree`"


def test_every_line_of_the_tree_has_a_comment():
    for line in load_tree_module().tree_lines():
        assert len(line.split(maxsplit=1)) == 2, line


def test_every_path_beside_the_package_exists():
    missing = [name for name in load_tree_module().OTHER if not (ROOT / name).exists()]
    assert not missing


def each_page(function):
    return pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))(function)


@each_page
def test_links_to_files_exist(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@each_page
def test_commands_exist(page):
    # In code only; a sentence may make something, too.
    text = page.read_text()
    code = "\n".join(
        re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
    )
    assert set(re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)) <= TARGETS
    named = set(re.findall(r"^(?:\$ )?tfdist ([a-z-]+)", code, re.MULTILINE))
    assert named <= {name for name, _, _ in COMMANDS}


@each_page
def test_flags_of_train_exist(page):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    flags = set(re.findall(r"--[a-z-]+", parser.format_help()))
    for command in re.findall(r"tfdist train ([^\n`]*)", page.read_text().replace("\\\n", " ")):
        given = set(re.findall(r"(?<!\S)(--[a-z-]+)", command))
        assert given <= flags, command


def test_the_two_commands_are_shown():
    assert {"train", "test"} <= set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE))


def test_every_oracle_has_its_section():
    sections = [int(number) for number in re.findall(r"^### O(\d+)\. ", ORACLES, re.MULTILINE)]
    assert sections == list(range(1, 33))


def test_every_section_says_how_it_is_checked_and_where():
    for section in re.split(r"^### ", ORACLES, flags=re.MULTILINE)[1:]:
        assert {"Checked", "Shown by"} <= set(re.findall(r"\*\*(.+?)\*\*", " ".join(section.split()))), (
            section
        )


def test_every_family_of_cases_stands_on_the_page_of_oracles():
    named = {
        name
        for names in re.findall(
            r"(?:family|families) ((?:`[a-z ]+`(?:, | and )?)+)", " ".join(ORACLES.split())
        )
        for name in re.findall(r"`([a-z ]+)`", names)
    }
    assert named == set(FAMILIES)


def test_files_that_the_page_of_oracles_names_exist():
    named = set(re.findall(r"`((?:tests|benchmarks|tfdist)/[^`\s]+)`", ORACLES))
    assert not [name for name in named if not (ROOT / name).exists()]
