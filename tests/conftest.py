"""Which tests stay together when two processes share them."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps a file in one process, for its fixtures, and of the parity cases each layout, which is one run."""
    for item in items:
        values = item.callspec.params if hasattr(item, "callspec") else {}
        group = f"{item.path} {values.get('layout_name', '')}"
        item.add_marker(pytest.mark.xdist_group(group))
