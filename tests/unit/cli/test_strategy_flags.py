"""The flags that choose a strategy: the same for every command, and open for strategies of other modules."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

import pytest

from tfdist.cli.main import main
from tfdist.cli.strategy_flags import chosen_strategy, given_options, import_modules
from tfdist.config.schema import Given, StrategyConfig
from tfdist.errors import ConfigError

NEEDED = {"train": [], "evaluate": ["--run", "x"], "predict": ["--run", "x"], "test": []}
PLAN = ["--model", "mlp"]


def parse(command: str, *arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    importlib.import_module(f"tfdist.cli.{command}").add_arguments(parser)
    return parser.parse_args([*NEEDED.get(command, PLAN), *arguments])


@pytest.mark.parametrize("command", NEEDED)
def test_every_command_takes_the_same_flags(command: str) -> None:
    args = parse(
        command,
        *("--strategy", "mesh", "--devices", "2", "--devices-per-worker", "3", "--timeout", "9"),
        *("--mesh", "batch=2,model=1", "--layout-map", "rules.yaml", "--shard-optimizer", "--shard-weights"),
        *("--strategy-option", "random_by_row=true", "--strategy-option", "mine=a=b", "--import", "x"),
    )
    assert {option: (given.value, given.origin) for option, given in given_options(args).items()} == {
        "devices": ("2", "--devices"),
        "devices_per_worker": ("3", "--devices-per-worker"),
        "timeout_s": ("9", "--timeout"),
        "mesh": ("batch=2,model=1", "--mesh"),
        "layout_map": ("rules.yaml", "--layout-map"),
        "shard_optimizer": ("true", "--shard-optimizer"),
        "shard_weights": ("true", "--shard-weights"),
        "random_by_row": ("true", "--strategy-option"),
        "mine": ("a=b", "--strategy-option"),
    }
    assert (args.strategy, args.imports) == ("mesh", ["x"])


def test_without_flags_the_strategy_is_auto_and_has_no_options() -> None:
    assert chosen_strategy(parse("evaluate")) == StrategyConfig()
    assert parse("train").strategy is None  # so that the configuration file says it


def test_parsing_twice_keeps_the_options_apart() -> None:
    assert given_options(parse("test", "--devices", "2")) == {"devices": Given("2", "")}
    assert given_options(parse("test")) == {}


def test_plan_takes_those_of_a_mesh(capsys: pytest.CaptureFixture[str]) -> None:
    assert given_options(parse("plan", "--mesh", "model=2", "--shard-weights")) == {
        "mesh": Given("model=2", ""),
        "shard_weights": Given("true", ""),
    }
    with pytest.raises(SystemExit):
        parse("plan")
    assert "--mesh" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse("plan", "--mesh", "model=2", "--devices", "2")


@pytest.mark.parametrize("text", ["random_by_row", "=true"])
def test_an_option_without_key_or_value(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse("test", "--strategy-option", text)
    assert stop.value.code == 2
    assert f"--strategy-option takes KEY=VALUE, got {text!r}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module", "no module 'no_such_module'.*PYTHONPATH"),
        ("os.no_such_part", "no module 'os.no_such_part'"),
        ("./strategies.py", "no name of a module; write it as"),
        ("", "no name of a module"),
    ],
)
def test_a_module_that_is_not_there(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"--import {name}: .*{message}"):
        import_modules([name])


def test_a_module_of_the_working_folder_and_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_in_the_working_folder.py").write_text("VALUE = 3\n")
    (tmp_path / "module_that_needs_another.py").write_text("import no_such_module\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    import_modules(["module_in_the_working_folder"])
    assert sys.modules.pop("module_in_the_working_folder").VALUE == 3
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        import_modules(["module_that_needs_another"])


def test_a_registered_strategy_is_tested_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "registers_mine.py").write_text(
        "import tensorflow as tf, tfdist\n"
        "def build(power: int): return tf.distribute.get_strategy() if power == 3 else None\n"
        "tfdist.register_strategy('mine_of_a_module', build)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    arguments = ["test", "--strategy", "mine_of_a_module", "--import", "registers_mine"]
    assert main([*arguments, "--strategy-option", "power=3"]) == 0
    assert "mine_of_a_module equals one device" in capsys.readouterr().out
    assert main([*arguments, "--strategy-option", "power=x"]) == 2
    assert "--strategy-option: power must be a whole number, got 'x'" in capsys.readouterr().err
