"""`tfdist train`, `evaluate` and `predict`, from the command line to the files, on tiny models and texts."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from tfdist.cli.main import main
from tfdist.parity.processes import ProcessGroup, worker_environments

GOOD, BAD = ["good", "great", "superb", "lovely"], ["bad", "awful", "poor", "dull"]
FILL = ["the", "film", "was", "a", "very", "plot", "and", "scene"]


def write_texts(folder: Path, train: int = 160, validation: int = 30, test: int = 37) -> Path:
    """Texts whose label one word tells."""
    chance = random.Random(0)
    folder.mkdir(parents=True)
    for split, count in {"train": train, "validation": validation, "test": test}.items():
        lines = ["text\tlabel"]
        for _ in range(count):
            label, words = chance.choice([("positive", GOOD), ("negative", BAD)])
            text = chance.choices(FILL, k=chance.randint(1, 8)) + [chance.choice(words)]
            chance.shuffle(text)
            lines.append(f"{' '.join(text)}\t{label}")
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def write_sentences(folder: Path) -> Path:
    """Sentences in which every city is a place, and `new` before it belongs to it."""
    chance = random.Random(0)
    folder.mkdir(parents=True)
    for split, count in {"train": 160, "validation": 30, "test": 37}.items():
        lines = []
        for _ in range(count):
            lines += [f"{word}\tO" for word in chance.choices(FILL, k=chance.randint(1, 5))]
            if chance.random() < 0.7:
                lines += ["New\tB-place", f"{chance.choice(['york', 'delhi'])}\tI-place"]
            lines += [f"{chance.choice(FILL)}\tO", ""]
        (folder / f"{split}.conll").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts") / "data")


@pytest.fixture(scope="module")
def text_run(tmp_path_factory, texts) -> Path:
    """A run of the smallest model by flags, a file and --set together."""
    folder = tmp_path_factory.mktemp("text_run")
    config = folder / "config.yaml"
    config.write_text(
        "model: {name: bigru}\ntraining: {epochs: 9, seed: 3}\noptimizer: {learning_rate: 1.0}\n"
    )
    arguments = ["--config", str(config), "--set", "optimizer.learning_rate=0.01", "--epochs", "3"]
    arguments += ["--data", str(texts), "--strategy", "one_device", "--global-batch-size", "16"]
    assert main(["train", *arguments, "--output", str(folder / "run")]) == 0
    return folder / "run"


def test_the_run_folder_is_complete(text_run):
    names = {path.name for path in text_run.iterdir()}
    assert names == {"run.yaml", "labels.json", "tokenizer", "best.keras", "logs", "metrics.json", "export"}
    config = yaml.safe_load((text_run / "run.yaml").read_text())
    assert config["training"] | {"epochs": 3, "seed": 3} == config["training"]
    assert config["optimizer"]["learning_rate"] == 0.01
    assert json.loads((text_run / "labels.json").read_text()) == ["negative", "positive"]


def test_it_has_learnt_and_says_so(text_run):
    metrics = json.loads((text_run / "metrics.json").read_text())
    assert len(metrics["history"]["val_loss"]) == 3
    assert metrics["test"]["accuracy"] > 0.95
    report = metrics["test"]["report"]
    assert report["negative"]["support"] + report["positive"]["support"] == 37
    assert report["weighted avg"]["recall"] == pytest.approx(metrics["test"]["accuracy"])


def test_logs_hold_losses_of_both_splits(text_run):
    tags = set()
    for file in (text_run / "logs").rglob("events.*"):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            tags |= {f"{file.parent.name}/{value.tag}" for value in event.summary.value}
    assert {"train/epoch_loss", "validation/epoch_loss", "train/run/config"} <= tags


def test_evaluate_gives_what_training_gave(text_run, capsys):
    assert main(["evaluate", "--run", str(text_run), "--strategy", "one_device"]) == 0
    out = capsys.readouterr().out
    metrics = json.loads((text_run / "metrics.json").read_text())["test"]
    assert f"test accuracy {metrics['accuracy']:.4f}, test loss {metrics['loss']:.4f}" in out
    assert "weighted avg" in out


def test_evaluate_on_other_data(text_run, tmp_path, capsys):
    (tmp_path / "test.tsv").write_text("text\tlabel\na good film\tpositive\nbad plot\tpositive\n")
    arguments = ["--data", str(tmp_path), "--batch-size", "1", "--strategy", "one_device"]
    assert main(["evaluate", "--run", str(text_run), *arguments]) == 0
    assert "test accuracy 0.5000" in capsys.readouterr().out


def test_predict_and_the_saved_model_agree(text_run, tmp_path, capsys):
    lines = ["a superb film", "", "the plot was awful", "ünknown wörds"]
    (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert (
        main(["predict", "--run", str(text_run), "--strategy", "one_device", str(tmp_path / "lines.txt")])
        == 0
    )
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["text"] for answer in answers] == lines
    assert (answers[0]["label"], answers[2]["label"]) == ("positive", "negative")
    from tfdist.models import WordTokenizer

    ids = WordTokenizer.load(text_run / "tokenizer").encode_texts(lines)
    served = tf.saved_model.load(text_run / "export").signatures["serving_default"]
    for answer, row in zip(answers, ids, strict=True):
        if len(row):
            given = served(token_ids=row[None])["probabilities"][0].numpy()
            assert list(answer["probabilities"].values()) == pytest.approx(given.tolist(), abs=2e-6)


def test_predict_reads_the_standard_input(text_run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"good film\r\nbad film")))
    assert main(["predict", "--run", str(text_run), "--strategy", "one_device"]) == 0
    assert [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()] == [
        "positive",
        "negative",
    ]


def test_the_best_epoch_is_what_is_kept(text_run):
    metrics = json.loads((text_run / "metrics.json").read_text())
    model = keras.saving.load_model(text_run / "best.keras")
    best = int(np.argmin(metrics["history"]["val_loss"]))
    steps = 10  # of 160 examples in batches of 16
    assert int(model.optimizer.iterations) == (best + 1) * steps


def test_token_classification_with_a_bert_from_nothing(tmp_path, capsys):
    data, run = write_sentences(tmp_path / "data"), tmp_path / "run"
    arguments = [
        "--task",
        "token-classification",
        "--data",
        str(data),
        "--model",
        "bert",
        "--strategy",
        "one_device",
    ]
    arguments += ["--epochs", "4", "--learning-rate", "3e-3", "--dropout", "0", "--max-length", "16"]
    assert main(["train", *arguments, "--output", str(run)]) == 0
    out = capsys.readouterr().out
    assert "This run" in out and "token-classification, 3 labels" in out and "micro avg" in out
    report = json.loads((run / "metrics.json").read_text())["test"]["report"]
    assert report["place"]["f1-score"] > 0.9

    (tmp_path / "lines.txt").write_text("the film New york was\n\n" + "plot " * 30 + "\n")
    assert main(["predict", "--run", str(run), "--strategy", "one_device", str(tmp_path / "lines.txt")]) == 0
    first, empty, long = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["tokens"] == ["the", "film", "New", "york", "was"]
    assert first["tags"] == ["O", "O", "B-place", "I-place", "O"]
    assert empty["tags"] == []
    assert len(long["tags"]) == 30 and long["probabilities"][-1] is None


def test_accumulation_steps_limit_float16_and_no_test_split(tmp_path, texts, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.tsv").write_bytes((texts / "train.tsv").read_bytes())
    arguments = ["--data", str(tmp_path / "data"), "--model", "bert", "--strategy", "one_device"]
    arguments += [
        "--precision",
        "float16",
        "--set",
        "training.gradient_accumulation_steps=2",
        "--max-steps",
        "7",
    ]
    assert main(["train", *arguments, "--output", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "32 = 16 x 1 replicas x 2 batches accumulated" in out and "3 updates" in out
    model = keras.saving.load_model(tmp_path / "run" / "best.keras")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    keras.config.set_dtype_policy("float32")
    assert "test" not in json.loads((tmp_path / "run" / "metrics.json").read_text())


def test_a_run_that_ends_amid_an_epoch_says_so(tmp_path, texts, capsys):
    """Three and a bit executions of four steps: ten steps of the first epoch, and three of the second."""
    run = tmp_path / "run"
    arguments = ["--data", str(texts), "--model", "bigru", "--strategy", "one_device", "--epochs", "3"]
    arguments += ["--global-batch-size", "16", "--max-steps", "13", "--set", "training.steps_per_execution=4"]
    assert main(["train", *arguments, "--output", str(run)]) == 0
    out = capsys.readouterr().out
    assert "13 updates in 2 epochs" in out
    lines = [line for line in out.splitlines() if line.startswith(("Epoch", "10/10", "3/3"))]
    assert [line.partition(" - ")[0] for line in lines] == ["Epoch 1/2", "10/10", "Epoch 2/2", "3/3"]
    history = json.loads((run / "metrics.json").read_text())["history"]
    assert len(history["val_loss"]) == len(history["examples/s"]) == 2


@pytest.mark.wide
def test_evaluate_and_predict_on_a_mesh(text_run, tmp_path):
    (tmp_path / "lines.txt").write_text("a superb film\nthe plot was awful\nbad\n")
    chosen = ["--run", str(text_run), "--strategy", "mesh", "--mesh", "batch=2,model=1"]
    commands = [["evaluate", *chosen], ["predict", *chosen, str(tmp_path / "lines.txt")]]
    outputs = []
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "tfdist", *command],
            capture_output=True,
            text=True,
            timeout=250,
            env={name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        # On some processors oneDNN has a word of its own in the middle of the run.
        lines = [line for line in done.stderr.splitlines() if "oneDNN supports" not in line]
        assert not [line for line in lines if ".cc:" in line or "absl" in line]
        outputs.append(done.stdout)
    metrics = json.loads((text_run / "metrics.json").read_text())["test"]
    assert f"test accuracy {metrics['accuracy']:.4f}, test loss {metrics['loss']:.4f}" in outputs[0]
    labels = [json.loads(line)["label"] for line in outputs[1].splitlines()]
    assert labels == ["positive", "negative", "negative"]


WAYS = {
    "mirrored": ["--devices", "2"],
    "multi_worker_mirrored": [],
    "mesh": ["--mesh", "batch=2,model=2"],
}


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.busy(2)
@pytest.mark.timeout(1200)  # the mesh's unrolled GRU takes long to compile
@pytest.mark.parametrize("model", ["bigru", pytest.param("bert", marks=pytest.mark.wide)])
def test_every_strategy_trains_as_one_device_does(tmp_path, model):
    """Batches of 14 leave an uneven last one, and the second epoch ends after three of its five steps.

    Steps are few, since it is their meaning that is compared.
    """
    texts = write_texts(tmp_path / "data", train=62, validation=14, test=20)
    found = {}
    for name, options in {"one_device": [], **WAYS}.items():
        run = tmp_path / name
        environments = worker_environments(2 if name == "multi_worker_mirrored" else 1)
        for environment in environments:
            # A mesh would compile its unrolled steps once more.
            environment["TFDIST_SELF_CHECK"] = "off" if name == "mesh" else "on"
        logs = [tmp_path / f"{name}.{index}.log" for index in range(len(environments))]
        # A mesh unrolls the time steps, so there are few.
        arguments = ["--data", str(texts), "--model", model, "--dropout", "0", "--max-length", "4"]
        arguments += ["--epochs", "2", "--max-steps", "8", "--set", "training.steps_per_execution=2"]
        arguments += ["--global-batch-size", "14", "--strategy", name, *options, "--output", str(run)]
        group = ProcessGroup(
            [sys.executable, "-m", "tfdist.cli.main", "train", *arguments], environments, logs, forked=True
        )
        codes = group.wait(500)
        outputs = [log.read_text() for log in logs]
        assert codes == [0] * len(codes), "\n".join(outputs)
        # Others than the chief print no table and no progress.
        told = ["This run" in output and "5/5" in output and "3/3" in output for output in outputs]
        assert told == [True, False][: len(codes)]
        assert ("self check" in outputs[0]) == ("mirrored" in name)
        found[name] = json.loads((run / "metrics.json").read_text())
        assert len(found[name]["history"]["loss"]) == 2
    expected = found["one_device"]
    for name in WAYS:
        for log in ("loss", "accuracy", "val_loss", "val_accuracy"):
            np.testing.assert_allclose(found[name]["history"][log], expected["history"][log], rtol=1e-4)
        assert found[name]["test"]["loss"] == pytest.approx(expected["test"]["loss"], rel=1e-4)
        assert found[name]["test"]["report"] == expected["test"]["report"]
