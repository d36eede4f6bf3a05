import re

import pytest

from tfdist.callbacks import Throughput
from tfdist.callbacks import throughput as throughput_module
from tfdist.callbacks.throughput import THROUGHPUT_LOG


def test_in_history_and_progress_bar(model, data, capsys, monkeypatch) -> None:
    monkeypatch.setattr(throughput_module, "_REFRESH_S", 0.0)
    validation = (data[0][:8], data[1][:8])
    history = model.fit(
        *data, batch_size=8, epochs=2, validation_data=validation, verbose=1, callbacks=[Throughput()]
    ).history
    assert len(history[THROUGHPUT_LOG]) == 2
    assert all(rate > 0 for rate in history[THROUGHPUT_LOG])
    shown = [float(rate) for rate in re.findall(r"examples/s: ([\d.]+)", capsys.readouterr().out)]
    assert shown[-1] == pytest.approx(history[THROUGHPUT_LOG][-1], abs=1e-3)
    assert "val_examples/s" not in history


def test_one_step_is_too_few(model, data) -> None:
    history = model.fit(*data, batch_size=64, verbose=0, callbacks=[Throughput()]).history
    assert THROUGHPUT_LOG not in history  # the only step compiled


def test_all_workers_are_counted(model, data, become_worker) -> None:
    met = become_worker(1, 2)
    callback = Throughput(global_batch_size=8)
    history = model.fit(*data, batch_size=8, verbose=0, callbacks=[callback]).history
    assert met == ["throughput"]
    assert history[THROUGHPUT_LOG][0] > 0


def test_evaluate_alone_has_no_throughput(model, data) -> None:
    assert THROUGHPUT_LOG not in model.evaluate(*data, verbose=0, return_dict=True, callbacks=[Throughput()])
