"""Reads a run's configuration: defaults, then a YAML file, then `--set a.b=c`, then explicit flags.

The schema decides the type of a field, and YAML never does: scalars are read as the text that stands in the file. So an
unquoted `off` stays a word in a text field (YAML 1.1 makes it a Boolean), and `1e-5` is a number (YAML 1.1 makes it
text). The keys of the section `strategy`, except its name, are kept as they are given. The strategy says what they
mean.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from yaml.constructor import SafeConstructor

from tfdist.config.schema import Given, RunConfig
from tfdist.config.values import check_limits, check_value, item_type, misfit, parse_text
from tfdist.errors import ConfigError, did_you_mean

_STRATEGY = "strategy"
_OPTIONS = f"{_STRATEGY}.options"

_Setting = tuple[Any, str]
"""A value and where it was given: file and line, or flag."""


def load_config(
    path: str | None = None, overrides: Sequence[str] = (), values: Mapping[str, Any] | None = None
) -> RunConfig:
    """Builds the configuration of a run from its four sources, the later ones winning.

    Args:
        path: YAML file, or None.
        overrides: `--set` arguments, each `section.key=value`.
        values: explicit flags as `{"section.key": value}`. None means that the flag was not given, and a `Given` has
            the flag's name.

    Raises:
        ConfigError: the file is missing or malformed, a key is unknown, or a value does not fit its field.
    """
    settings: dict[str, _Setting] = {}
    if path is not None:
        settings |= _read_yaml(Path(path))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set takes KEY=VALUE, got {override!r}. Write e.g. --set training.epochs=2.")
        key, text = key.strip(), text.strip()
        if _is_option(key):
            settings[key] = text, "--set"
        else:
            settings[key] = parse_text(text, key, _leaf(key, "--set"), "--set"), "--set"
    for key, value in (values or {}).items():
        if isinstance(value, Given):
            settings[key] = value.value, value.origin
        elif value is not None:
            settings[key] = check_value(value, key, _leaf(key, "flag"), "flag"), "flag"
    config: RunConfig = _build(RunConfig, settings)
    return config


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """Returns the configuration as nested plain dictionaries."""
    options = {
        name: value.value if isinstance(value, Given) else value
        for name, value in config.strategy.options.items()
    }
    return dataclasses.asdict(config) | {_STRATEGY: {"name": config.strategy.name, **options}}


def config_to_yaml(config: RunConfig) -> str:
    """Returns the configuration as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True)


def fingerprint(config: RunConfig) -> str:
    """Returns 16 hexadecimal digits that are equal for equal configurations, on every host and run."""
    text = json.dumps(config_to_dict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _leaves() -> dict[str, Any]:
    """Maps every dotted key of the schema to its type."""

    def walk(section: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for name, hint in get_type_hints(section).items():
            if dataclasses.is_dataclass(hint):
                yield from walk(hint, f"{prefix}{name}.")
            else:
                yield prefix + name, hint

    leaves = dict(walk(RunConfig, ""))
    del leaves[_OPTIONS]  # it stands for all other keys of its section
    return leaves


def _is_option(key: str) -> bool:
    """Returns whether `key` is an option of the strategy, which the schema does not know."""
    section, _, name = key.rpartition(".")
    return section == _STRATEGY and name.isidentifier() and key not in _leaves()


def _sections() -> set[str]:
    return {key.rpartition(".")[0] for key in _leaves()} - {""}


def _leaf(key: str, origin: str) -> Any:
    """Returns the type of `key`, or refuses it with the nearest key."""
    leaves = _leaves()
    if key in leaves:
        return leaves[key]
    if key in _sections():
        inside = ", ".join(name for name in leaves if name.startswith(f"{key}."))
        raise ConfigError(f"{origin}: {key!r} is a section, not a setting. Give one of its keys: {inside}.")
    # A key without a section, or with a wrong one, is found by its last part.
    last = key.rpartition(".")[2]
    same_name = [name for name in leaves if name.rpartition(".")[2] == last]
    hint = f" Did you mean {same_name[0]!r}?" if same_name else did_you_mean(key, [*leaves, *_sections()])
    section = key.rpartition(".")[0]
    siblings = [name for name in leaves if name.rpartition(".")[0] == section] or sorted(leaves)
    raise ConfigError(f"{origin}: unknown key {key!r}.{hint} Allowed here: {', '.join(siblings)}.")


def compose(path: Path, cure: str) -> yaml.Node | None:
    """Returns the root of a YAML file, whose nodes know their lines; None for an empty file.

    Raises:
        ConfigError: The file is malformed, cannot be read, or is absent; if it is absent, the message has `cure`.
    """
    try:
        root: yaml.Node | None = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}. {cure}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid UTF-8 at byte {error.start}. Save the file as UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}. {cure}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: not valid YAML: {error.problem}. Correct that line.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}.") from None
    return root


def construct(node: yaml.Node, path: Path, *, keep_text: bool = False) -> Any:
    """Returns the value of a node of `path`, as YAML reads it; with `keep_text`, scalars other than null stay text.

    Raises:
        ConfigError: A tag is unknown, or a key is no word.
    """
    if keep_text and isinstance(node, yaml.ScalarNode) and not _is_null(node):
        return node.value
    try:
        return SafeConstructor().construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or node.start_mark
        raise ConfigError(f"{path}:{mark.line + 1}: {error.problem}. Correct that line.") from None


def _read_yaml(path: Path) -> dict[str, _Setting]:
    root = compose(path, "Check --config.")
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(
            f"{path}:{root.start_mark.line + 1}: the top level must be a mapping such as `training: "
            f"{{epochs: 2}}`, got {_kind(root)}."
        )
    return dict(_flatten(root, "", path))


def _flatten(node: yaml.MappingNode, prefix: str, path: Path) -> Iterator[tuple[str, _Setting]]:
    seen = set()
    for key_node, value_node in node.value:
        origin = f"{path}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{origin}: a key must be a word, got {_kind(key_node)}.")
        key = prefix + key_node.value
        if key in seen:
            raise ConfigError(f"{origin}: {key!r} is given twice. Keep one of them.")
        seen.add(key)
        if key in _sections():
            if isinstance(value_node, yaml.MappingNode):
                yield from _flatten(value_node, f"{key}.", path)
            elif not _is_null(value_node):
                raise ConfigError(
                    f"{origin}: {key!r} is a section and needs keys below it, got {value_node.value!r}."
                )
            continue
        if _is_option(key):
            yield key, (construct(value_node, path, keep_text=True), origin)
        else:
            yield key, (_from_node(value_node, key, _leaf(key, origin), origin), origin)


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _from_node(node: yaml.Node, key: str, hint: Any, origin: str) -> Any:
    if _is_null(node):
        return check_value(None, key, hint, origin)
    if isinstance(node, yaml.ScalarNode):
        return parse_text(node.value, key, hint, origin)
    if isinstance(node, yaml.SequenceNode) and item_type(hint) is not None:
        return tuple(_from_node(item, key, item_type(hint), origin) for item in node.value)
    raise misfit(_kind(node), key, hint, origin)


def _kind(node: yaml.Node) -> str:
    return f"a {type(node).__name__.removesuffix('Node').lower()}"


def _build(section: Any, settings: Mapping[str, _Setting], prefix: str = "") -> Any:
    chosen: dict[str, Any] = {}
    hints = get_type_hints(section)
    for field in dataclasses.fields(section):
        hint, key = hints[field.name], prefix + field.name
        if dataclasses.is_dataclass(hint):
            chosen[field.name] = _build(hint, settings, f"{key}.")
        elif key == _OPTIONS:
            chosen[field.name] = {
                name.rpartition(".")[2]: Given(*setting)
                for name, setting in settings.items()
                if _is_option(name)
            }
        elif key in settings:
            value, origin = settings[key]
            check_limits(value, key, field.metadata["at_least"], field.metadata["at_most"], origin)
            chosen[field.name] = value
    return section(**chosen)
