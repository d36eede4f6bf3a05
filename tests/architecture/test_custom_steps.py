"""The page on own losses and steps shows the code of the parity cases, word for word."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "custom-steps.md").read_text()
CASES = [path.read_text() for path in (ROOT / "tfdist" / "parity" / "cases" / "own").glob("*.py")]
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_every_block_is_code_of_a_case():
    assert [block for block in BLOCKS if not any(block in case for case in CASES)] == []


def test_every_model_of_a_step_is_shown():
    shown = "".join(BLOCKS)
    models = {
        name
        for case in CASES
        for name in re.findall(r"^class (\w+)\(keras\.(?:Model|Sequential)\)", case, re.M)
    }
    assert {name for name in models if f"class {name}(" not in shown} == {"Afterwards"}
