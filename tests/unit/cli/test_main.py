import subprocess
import sys
import types

import pytest

from tfdist.cli import main as cli
from tfdist.errors import ClusterError, ConfigError


@pytest.fixture
def run_fake(monkeypatch):
    """Runs the command `fake`, whose `run` is the given function."""

    def _run(function, *argv):
        module = types.ModuleType("fake_command")
        module.add_arguments = lambda parser: parser.add_argument("--word")
        module.run = function
        monkeypatch.setitem(sys.modules, "fake_command", module)
        monkeypatch.setattr(cli, "COMMANDS", (("fake", "a fake", "fake_command"),))
        return cli.main(["fake", *argv])

    return _run


def test_command_gets_its_arguments_and_gives_the_exit_code(run_fake):
    assert run_fake(lambda args: 7 if args.word == "x" else 0, "--word", "x") == 7


def _raise(error):
    raise error


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("no"), 2, "error: no\n"),
        (ClusterError("no"), 1, "error: no\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_are_messages(run_fake, capsys, error, code, message):
    assert run_fake(lambda args: _raise(error)) == code
    assert capsys.readouterr().err == message


def test_bugs_keep_their_traceback(run_fake):
    with pytest.raises(ZeroDivisionError):
        run_fake(lambda args: 1 // 0)


def test_abbreviated_flags_are_refused(run_fake, capsys):
    with pytest.raises(SystemExit) as stop:
        run_fake(lambda args: 0, "--wor", "x")
    assert stop.value.code == 2


def test_unknown_command(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["lanuch"])
    assert stop.value.code == 2
    assert "unknown command 'lanuch'" in (err := capsys.readouterr().err)
    assert "Did you mean 'launch'" in err


def test_no_command_lists_them(capsys):
    assert cli.main([]) == 2
    out = capsys.readouterr().out
    assert all(name in out for name, _, _ in cli.COMMANDS)


def _python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "argv", [["--help"], ["--version"], *([name, "--help"] for name, _, _ in cli.COMMANDS)]
)
def test_help_loads_no_tensorflow(argv):
    code = f"""
import sys
from tfdist.cli.main import main
try:
    main({argv!r})
except SystemExit as stop:
    print("code", stop.code)
print("loaded", sorted({{"tensorflow", "keras", "numpy"}} & set(sys.modules)))
"""
    done = _python(code)
    assert done.stderr == ""
    assert done.stdout.endswith("code 0\nloaded []\n")


def test_broken_pipe_is_quiet():
    code = (
        "import os, sys; from tfdist.cli.main import main\n"
        "sys.exit(main(['launch', '--num-workers', '300', '--dry-run', os.__file__]))"
    )
    done = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" | head -n 1; exit ${PIPESTATUS[0]}', sys.executable, code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.startswith("# worker 0")
    assert (done.stderr, done.returncode) == ("", 141)
