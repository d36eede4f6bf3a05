"""What a user can get wrong with `tfdist train`, `evaluate` and `predict`: each message and exit code.

Most cases end before anything is trained, and share this process. Those of signals and limits have their own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tfdist.cli.main import main
from tfdist.parity.processes import QUIET, ProcessGroup, run_python, worker_environments

ROWS = [f"word{i % 7} some text\t{'ab'[i % 2]}" for i in range(40)]


def write_splits(folder: Path, **splits: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        text = "\n".join(["text\tlabel", *ROWS]) + "\n"
        (folder / f"{split}.tsv").write_text(splits.get(split, text))
    return folder


@pytest.fixture
def data(tmp_path) -> Path:
    return write_splits(tmp_path / "data")


def train(data: object, output: object, *more: str) -> list[str]:
    arguments = ["train", "--data", str(data), "--output", str(output), "--model", "bigru", "--epochs", "1"]
    return [*arguments, "--strategy", "one_device", *more]


def refused(capsys, arguments: list[str], code: int, *words: str) -> None:
    """Checks that the command ends with `code` and one message that has all `words`."""
    assert main(arguments) == code
    captured = capsys.readouterr()
    message = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(message) == 1
    for word in words:
        assert word in captured.err
    assert "Traceback" not in captured.err and "This run" not in captured.out


def test_no_data(tmp_path, capsys):
    refused(capsys, ["train", "--output", str(tmp_path / "run"), "--strategy", "one_device"], 2, "--data")


def test_no_such_file(tmp_path, capsys):
    refused(capsys, train(tmp_path / "absent.tsv", tmp_path / "run"), 1, "absent.tsv")


@pytest.mark.parametrize("content", ["", "text\tlabel\n"])
def test_an_empty_split(tmp_path, capsys, content):
    data = write_splits(tmp_path / "data", validation=content)
    refused(capsys, train(data, tmp_path / "run"), 1, "the split 'validation' has no example", "Fill it")


def test_a_header_without_the_columns(tmp_path, capsys):
    data = write_splits(tmp_path / "data", train="sentence\tlabel\nx\ta\n")
    refused(capsys, train(data, tmp_path / "run"), 1, "train.tsv", "'text'", "sentence")


def test_a_label_seen_only_in_test(tmp_path, capsys):
    data = write_splits(tmp_path / "data", test="text\tlabel\nx\ta\ny\tc\n")
    refused(capsys, train(data, tmp_path / "run"), 1, "test.tsv:3", "'c'", "not in 'train'")


def test_invalid_utf8(tmp_path, capsys):
    data = write_splits(tmp_path / "data")
    (data / "train.tsv").write_bytes(b"text\tlabel\nok\ta\n\xff\xfe\tb\n")
    refused(capsys, train(data, tmp_path / "run"), 1, "train.tsv:3", "UTF-8")


def test_a_conll_line_with_the_wrong_number_of_fields(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.conll").write_text("Paris\tB-loc\nis O extra field\n")
    arguments = train(
        tmp_path / "data", tmp_path / "run", "--task", "token-classification", "--model", "bert"
    )
    refused(capsys, arguments, 1, "train.conll:2")


def test_a_model_that_cannot_do_the_task(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.conll").write_text("Paris\tB-loc\n\n")
    arguments = train(tmp_path / "data", tmp_path / "run", "--task", "token-classification")
    refused(capsys, arguments, 1, "bigru cannot do token-classification", "--model minilm or bert")


def test_no_such_model(data, tmp_path, capsys):
    refused(
        capsys, train(data, tmp_path / "run", "--model", "minilmm"), 1, "'minilmm'", "Did you mean 'minilm'"
    )


def test_an_unknown_key(data, tmp_path, capsys):
    refused(
        capsys, train(data, tmp_path / "run", "--set", "optimizer.lr=1"), 2, "optimizer.lr", "learning_rate"
    )


def test_an_output_folder_that_is_not_empty(data, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").touch()
    refused(capsys, train(data, tmp_path / "run"), 2, "not empty", "--output")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_an_output_folder_that_cannot_be_made(data, tmp_path, capsys):
    (tmp_path / "file").touch()
    refused(capsys, train(data, tmp_path / "file" / "run"), 2, "cannot be written", "--output")


def test_malformed_tf_config(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{")
    refused(capsys, train(data, tmp_path / "run", "--strategy", "auto"), 1, "TF_CONFIG", "JSON")


def test_a_file_to_predict_that_is_absent(trained, capsys):
    refused(capsys, ["predict", "--run", str(trained), "--strategy", "one_device", "no.txt"], 1, "no.txt")


def test_a_file_to_predict_that_is_not_utf8(trained, tmp_path, capsys):
    (tmp_path / "lines.txt").write_bytes(b"fine\n\xff\n")
    arguments = ["predict", "--run", str(trained), "--strategy", "one_device", str(tmp_path / "lines.txt")]
    refused(capsys, arguments, 1, "lines.txt:2", "UTF-8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    data = write_splits(folder / "data")
    assert main(train(data, folder / "run", "--max-steps", "1")) == 0
    return folder / "run"


@pytest.fixture
def run_copy(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def evaluate_and_predict_refuse(capsys, run: Path, *words: str) -> None:
    for command in ("evaluate", "predict"):
        refused(capsys, [command, "--run", str(run), "--strategy", "one_device"], 1, *words)


def test_no_run_folder(tmp_path, capsys):
    evaluate_and_predict_refuse(capsys, tmp_path / "absent", "absent", "is not a folder")


@pytest.mark.parametrize("part", ["best.keras", "labels.json", "run.yaml", "tokenizer"])
def test_a_run_folder_without_a_part(run_copy, capsys, part):
    (run_copy / part).rename(run_copy.parent / "away")
    evaluate_and_predict_refuse(capsys, run_copy, f"lacks {part}")


def test_a_model_file_that_is_cut_off(run_copy, capsys):
    content = (run_copy / "best.keras").read_bytes()
    (run_copy / "best.keras").write_bytes(content[: len(content) // 2])
    evaluate_and_predict_refuse(capsys, run_copy, "best.keras", "cannot be read as a Keras model")


def test_a_model_file_with_damaged_weights(run_copy, capsys):
    with zipfile.ZipFile(run_copy / "best.keras") as file:
        parts = {name: file.read(name) for name in file.namelist()}
    parts["model.weights.h5"] = b"\x00" * 100
    with zipfile.ZipFile(run_copy / "best.keras", "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)
    evaluate_and_predict_refuse(capsys, run_copy, "best.keras", "cannot be read as a Keras model")


def test_the_model_of_other_labels(run_copy, capsys):
    (run_copy / "labels.json").write_text(json.dumps(["a", "b", "c"]))
    evaluate_and_predict_refuse(capsys, run_copy, "is another model", "3 labels")


def test_the_model_of_another_task(run_copy, capsys):
    text = (run_copy / "run.yaml").read_text()
    (run_copy / "run.yaml").write_text(text.replace("text-classification", "token-classification"))
    evaluate_and_predict_refuse(capsys, run_copy, "is another model", "token-classification")


def test_the_tokenizer_of_another_model(run_copy, capsys):
    from tfdist.models import WordTokenizer

    WordTokenizer.train([" ".join(f"other{i}" for i in range(500))]).save(run_copy / "tokenizer")
    evaluate_and_predict_refuse(capsys, run_copy, "is the tokenizer of another model")


def test_labels_of_the_data_that_the_model_does_not_know(trained, tmp_path, capsys):
    (tmp_path / "test.tsv").write_text("text\tlabel\nx\tz\n")
    arguments = ["evaluate", "--run", str(trained), "--strategy", "one_device", "--data", str(tmp_path)]
    refused(capsys, arguments, 1, "'z'", "none of ['a', 'b']")


# What needs processes of its own.

COMMAND = ["-m", "tfdist.cli.main"]


def ended(folder: Path, arguments: list[str], code: int, command: list[str] = COMMAND) -> str:
    """Runs the command in a process of its own, checks its exit code, and returns what it said of the error."""
    done = run_python([*command, *arguments], folder)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_global_batch_smaller_than_the_replicas(data, tmp_path):
    arguments = train(data, tmp_path / "run", "--strategy", "mirrored", "--devices", "4")
    errors = ended(tmp_path, [*arguments, "--global-batch-size", "3"], 2)
    assert "fewer than the 4 replicas. Give --global-batch-size of at least 4" in errors


@pytest.mark.parametrize(
    ("axes", "rules", "message"),
    [
        ("batch=2,modle=2", None, "there is no axis 'modle'"),
        ("model=2", "nothing/kernel$: [null, model]\n", "'nothing/kernel$' matches no variable"),
        ("model=5", "gru.*/kernel$: [null, model]\n", "axis 'model' of 5 devices, which does not divide"),
        ("model=2", "kernel$: [null, model]\ngru: [null, model]\n", "matched by two rules"),
        ("model=2", "kernel$: [null\n", "not valid YAML"),
    ],
)
def test_a_mesh_or_rules_that_do_not_fit(data, tmp_path, axes, rules, message):
    arguments = [*train(data, tmp_path / "run"), "--strategy", "mesh", "--mesh", axes]
    if rules is not None:
        (tmp_path / "rules.yaml").write_text(rules)
        arguments += ["--set", f"strategy.layout_map={tmp_path / 'rules.yaml'}"]
    assert message in ended(tmp_path, arguments, 2)


# A limit on the size of files stands for a full disk: writing fails in the same place, amid the model.
ON_A_FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
from tfdist.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk(data, tmp_path):
    errors = ended(tmp_path, train(data, tmp_path / "run"), 1, ["-c", ON_A_FULL_DISK])
    assert "Cannot write" in errors and "File too large" in errors
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert (
        "best.keras" not in names and "export" not in names and not any("partial" in name for name in names)
    )


def test_ctrl_c_while_tensorflow_is_loaded(data, tmp_path):
    command = [sys.executable, *COMMAND, *train(data, tmp_path / "run", "--epochs", "10000")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | QUIET)
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert_nothing_is_broken(tmp_path)


@pytest.mark.parametrize("moment", ["This run", "Epoch 2/"])
def test_ctrl_c(data, tmp_path, moment):
    log = tmp_path / "log.txt"
    arguments = train(data, tmp_path / "run", "--epochs", "10000")
    process = ProcessGroup([sys.executable, *COMMAND, *arguments], [{}], [log], forked=True)
    try:
        limit = time.monotonic() + 120
        while moment not in log.read_text():
            assert time.monotonic() < limit and process.poll() == [None], log.read_text()
            time.sleep(0.02)
        process.send_signal(0, signal.SIGINT)
        assert process.wait(60) == [130]
    finally:
        process.kill()
    assert "Traceback" not in log.read_text()
    assert_nothing_is_broken(tmp_path)


def assert_nothing_is_broken(folder: Path) -> None:
    if (folder / "run" / "best.keras").exists():
        with zipfile.ZipFile(folder / "run" / "best.keras") as file:
            assert file.testzip() is None
    assert not (folder / "run" / "export").exists()
    names = [path.name for path in folder.rglob("*")]
    assert not [name for name in names if name.startswith(".tmp") or ".partial" in name]


# A process reads its seed from its environment here, since all processes of a group have one command.
WITH_A_SEED = """
import json, os, sys
from tfdist.cli.main import main
sys.exit(main([*sys.argv[1:], "--seed", str(json.loads(os.environ["TF_CONFIG"])["task"]["index"])]))
"""


@pytest.mark.processes
def test_workers_with_different_configurations(data, tmp_path):
    arguments = train(data, tmp_path / "run", "--strategy", "auto")
    logs = [tmp_path / f"{index}.txt" for index in range(2)]
    workers = ProcessGroup(
        [sys.executable, "-c", WITH_A_SEED, *arguments], worker_environments(2), logs, forked=True
    )
    assert workers.wait(150) == [1, 1], [log.read_text() for log in logs]
    message = "the workers do not agree on the configuration of the run: worker 0"
    assert message in logs[0].read_text()
    assert not (tmp_path / "run").exists()
