"""`tfdist plan`: what it prints, and what it refuses."""

from __future__ import annotations

import pytest

from tfdist.cli.main import main


def test_a_plan_of_a_named_model(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["plan", "--model", "mlp", "--mesh", "batch=2,model=2", "--shard-optimizer"]) == 0
    printed = capsys.readouterr().out
    assert "mlp/hidden/kernel" in printed
    assert "on each of 4 devices" in printed


def test_rules_from_a_file(tmp_path, capsys):
    (tmp_path / "rules.yaml").write_text("logits/kernel$: [model, null]\n")
    picture = tmp_path / "mlp.svg"
    arguments = [
        "plan",
        "--model",
        "mlp",
        "--mesh",
        "model=4",
        "--optimizer",
        "none",
        "--picture",
        str(picture),
    ]
    assert main([*arguments, "--layout-map", str(tmp_path / "rules.yaml")]) == 0
    # 784 x 256 and its bias are whole.
    assert f"{(784 * 256 + 256 + 64 * 10 + 10) * 4:,}" in capsys.readouterr().out
    # Four devices, four variables: a frame for each, and rows in quarters where the logits' kernel is.
    drawn = picture.read_text()
    assert drawn.count('fill="none"') == 16
    assert drawn.count('height="5.5"') == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mesh", "batch=2,modle=2"], "there is no axis 'modle'"),
        (["--mesh", "model=2", "--shard-weights"], "has none to split over"),
        (["--mesh", "model=2", "--optimizer", "adamm"], "Keras has no such optimizer"),
        (["--mesh", "model=2", "--layout-map", "no.yaml"], "no file no.yaml"),
        (["--mesh", "model=2", "--model", "no/folder"], "no/folder"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message, capsys):
    assert main(["plan", "--model", "mlp", *arguments]) != 0
    assert message in capsys.readouterr().err


def test_a_picture_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    picture = str(tmp_path / "file" / "mlp.svg")
    assert main(["plan", "--model", "mlp", "--mesh", "model=2", "--picture", picture]) != 0
    message = capsys.readouterr().err
    assert "Cannot write" in message and picture in message and "Traceback" not in message


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("- a\n", "one rule a line"), ("", "one rule a line")]
)
def test_malformed_rules(tmp_path, capsys, text, message):
    (tmp_path / "rules.yaml").write_text(text)
    arguments = ["plan", "--model", "mlp", "--mesh", "model=2", "--layout-map", str(tmp_path / "rules.yaml")]
    assert main(arguments) != 0
    assert message in capsys.readouterr().err
