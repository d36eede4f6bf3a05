import dataclasses

import pytest

from tfdist.config.loader import config_to_dict, config_to_yaml, fingerprint, load_config
from tfdist.config.schema import Given, RunConfig
from tfdist.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    def _write(text):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return str(path)

    return _write


def refused(*args, **kwargs):
    with pytest.raises(ConfigError) as info:
        load_config(*args, **kwargs)
    assert info.value.exit_code == 2
    return str(info.value)


def test_nothing_given_is_the_defaults():
    assert load_config() == RunConfig()


def test_later_sources_win(write):
    path = write("training: {epochs: 5, seed: 7, max_steps: 9}\noutput: here\n")
    config = load_config(
        path, ["training.epochs=6", "training.seed=8"], {"training.epochs": 7, "output": None}
    )
    assert (config.training.epochs, config.training.seed, config.training.max_steps) == (7, 8, 9)
    assert config.output == "here"
    assert config.training.global_batch_size == RunConfig().training.global_batch_size


def test_types_come_from_the_schema_and_not_from_yaml(write):
    path = write(
        "optimizer: {learning_rate: 1e-5, weight_decay: 0, global_clipnorm: null}\n"
        "model: {name: off, dropout: ~}\n"
        "data: {shuffle: no, text_column: 12}\n"
    )
    config = load_config(path)
    assert config.optimizer.learning_rate == 1e-5
    assert type(config.optimizer.weight_decay) is float
    assert config.optimizer.global_clipnorm is None
    assert (config.model.name, config.model.dropout) == ("off", None)
    assert (config.data.shuffle, config.data.text_column) == (False, "12")


def test_empty_file_and_empty_section_are_the_defaults(write):
    assert load_config(write("# nothing yet\n")) == RunConfig()
    assert load_config(write("training:\n")) == RunConfig()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("training: {epoch: 2}", 1, ["'training.epoch'", "Did you mean 'training.epochs'"]),
        ("output: x\ntrainig: {epochs: 2}", 2, ["'trainig'", "Did you mean 'training'"]),
        ("learning_rate: 0.1", 1, ["Did you mean 'optimizer.learning_rate'"]),
        ("training: {epochs: 2.5}", 1, ["training.epochs", "whole number", "'2.5'"]),
        ("training: {epochs: yes}", 1, ["training.epochs", "whole number", "'yes'"]),
        ("training: {epochs: [1]}", 1, ["training.epochs", "a sequence"]),
        ("training: {epochs: }", 1, ["training.epochs", "None"]),
        ("training: 3", 1, ["'training' is a section", "'3'"]),
        ("training:\n  precision: float23", 2, ["float32, bfloat16, float16", "Did you mean 'float32'"]),
        ("strategy:\n  mesh: {? [a] : 2}", 2, ["unhashable", "Correct that line"]),
        ("strategy:\n  a.b: 2", 2, ["unknown key 'strategy.a.b'"]),
        ("data: {shuffle: maybe}", 1, ["true or false", "'maybe'"]),
        ("optimizer: {learning_rate: .nan}", 1, ["finite number"]),
        ("optimizer: {learning_rate: inf}", 1, ["finite number"]),
        ("training:\n  epochs: 0", 2, ["training.epochs must be at least 1, got 0."]),
        ("model: {dropout: 1.5}", 1, ["model.dropout must be at most 1, got 1.5."]),
        ("output: a\noutput: b", 2, ["given twice"]),
        ("- a\n- b", 1, ["mapping", "a sequence"]),
        ("just words", 1, ["mapping", "a scalar"]),
        ("output: a\ntraining: {epochs: 2", 2, ["not valid YAML"]),
        ("output: 'a", 1, ["not valid YAML"]),
        ("? [a]\n: b", 1, ["a key must be a word"]),
    ],
)
def test_refused_file_names_file_line_and_key(write, text, line, words):
    path = write(text)
    message = refused(path)
    assert message.startswith(f"{path}:{line}: ")
    for word in words:
        assert word in message


def test_missing_and_unreadable_files(tmp_path):
    assert "there is no file" in refused(str(tmp_path / "none.yaml"))
    assert "cannot read" in refused(str(tmp_path))
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"output: caf\xe9\n")
    assert "UTF-8 at byte 11" in refused(str(latin))
    control = tmp_path / "control.yaml"
    control.write_bytes(b"output: a\x07b\n")
    assert "not valid YAML" in refused(str(control))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.epochs", ["KEY=VALUE"]),
        ("=3", ["KEY=VALUE"]),
        ("training=3", ["section", "training.epochs"]),
        ("optimizer.lerning_rate=3", ["Did you mean 'optimizer.learning_rate'"]),
        ("training.epochs=two", ["--set: training.epochs", "'two'"]),
    ],
)
def test_refused_overrides(override, words):
    message = refused(None, [override])
    for word in words:
        assert word in message


def test_override_of_optional_field():
    assert load_config(None, ["training.max_steps=5"]).training.max_steps == 5
    assert load_config(None, ["training.max_steps=null"]).training.max_steps is None
    assert load_config(None, ["output=a=b"]).output == "a=b"


def test_every_key_of_the_strategy_but_its_name_is_an_option_as_it_was_given(write):
    path = write(
        "strategy:\n"
        "  name: mesh\n"
        "  mesh: batch=2,model=2\n"
        "  communication: off\n"
        "  timeout_s: 1e2\n"
        "  devices: [GPU:0, GPU:1]\n"
        "  layout_map: {kernel$: [null, model]}\n"
        "  tpu: ~\n"
    )
    flags = {"strategy.timeout_s": Given("7", "--timeout"), "strategy.name": None}
    config = load_config(path, ["strategy.random_by_row=true"], flags)
    assert config.strategy.name == "mesh"
    assert {name: (given.value, given.origin) for name, given in config.strategy.options.items()} == {
        "mesh": ("batch=2,model=2", f"{path}:3"),
        "communication": ("off", f"{path}:4"),
        "timeout_s": ("7", "--timeout"),
        "devices": (["GPU:0", "GPU:1"], f"{path}:6"),
        "layout_map": ({"kernel$": [None, "model"]}, f"{path}:7"),
        "tpu": (None, f"{path}:8"),
        "random_by_row": ("true", "--set"),
    }


def test_options_of_the_strategy_survive_the_round_trip(write):
    given = [
        "strategy.name=mesh",
        "strategy.mesh=batch=2",
        "strategy.shard_optimizer=yes",
        "strategy.tpu=null",
    ]
    config = load_config(None, given)
    text = config_to_yaml(config)
    assert "mesh: batch=2" in text and "options" not in text and "--set" not in text
    again = load_config(write(text))
    assert again == config
    assert fingerprint(again) == fingerprint(config) != fingerprint(load_config(None, given[:-1]))


def test_limits_hold_for_overrides_and_flags():
    assert "--set: training.epochs must be at least 1, got -1." in refused(None, ["training.epochs=-1"])
    assert "flag: training.max_steps must be at least 1, got 0." in refused(
        None, [], {"training.max_steps": 0}
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.epochs", True),
        ("training.epochs", "3"),
        ("optimizer.learning_rate", float("nan")),
        ("task", "chess"),
    ],
)
def test_refused_flags(key, value):
    assert f"flag: {key} must be" in refused(None, [], {key: value})


def test_whole_number_fits_a_float_field():
    rate = load_config(None, [], {"optimizer.learning_rate": 1}).optimizer.learning_rate
    assert type(rate) is float


def test_yaml_round_trip(write):
    config = load_config(
        None, ["optimizer.learning_rate=3e-5", "model.name=off", "output=1e-5", "training.seed=3"]
    )
    assert load_config(write(config_to_yaml(config))) == config


def test_dict_has_every_field():
    assert config_to_dict(RunConfig())["training"]["epochs"] == RunConfig().training.epochs


def test_fingerprint_tells_configurations_apart():
    same, other = load_config(), load_config(None, ["training.seed=1"])
    assert fingerprint(same) == fingerprint(dataclasses.replace(RunConfig()))
    assert fingerprint(same) != fingerprint(other)
    assert len(fingerprint(same)) == 16
