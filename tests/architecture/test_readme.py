"""What the README and the other pages name exists, and the README's tree is the tree."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from tfdist.cli.main import COMMANDS
from tfdist.cli.train import FLAGS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def load_tree_module():
    spec = importlib.util.spec_from_file_location("tree", ROOT / "docs" / "tree.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tree_is_up_to_date():
    block = re.search(r"```\n(README\.md .*?)\n```", README, re.DOTALL)
    assert block, "the README has no tree"
    assert block[1].splitlines() == load_tree_module().tree_lines(), "run `make tree`"


def test_every_line_of_the_tree_has_a_comment():
    for line in load_tree_module().tree_lines():
        assert len(line.split(maxsplit=1)) == 2, line


def test_every_path_beside_the_package_exists():
    missing = [name for name in load_tree_module().OTHER if not (ROOT / name).exists()]
    assert not missing


def each_page(function):
    return pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)(function)


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
    assert set(re.findall(r"^make ([a-z]+)", code, re.MULTILINE)) <= TARGETS
    named = set(re.findall(r"^(?:\$ )?tfdist ([a-z]+)", code, re.MULTILINE))
    assert named <= {name for name, _, _ in COMMANDS}


@each_page
def test_flags_of_train_exist(page):
    for command in re.findall(r"tfdist train ([^\n`]*)", page.read_text().replace("\\\n", " ")):
        given = set(re.findall(r"(?<!\S)(--[a-z-]+)", command))
        assert given <= {*FLAGS, "--config", "--set", "--help"}, command


def test_the_two_commands_are_shown():
    assert {"train", "test"} <= set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE))
