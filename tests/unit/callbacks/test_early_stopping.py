import json

from tfdist.callbacks import EarlyStopping


def test_state_carries_the_patience_over_a_restart(model, data) -> None:
    stopping = EarlyStopping(monitor="loss", patience=3, min_delta=100.0)  # nothing is an improvement
    model.fit(*data, batch_size=8, epochs=2, verbose=0, callbacks=[stopping])
    state = json.loads(json.dumps(stopping.get_state()))
    assert (state["wait"], state["best_epoch"]) == (1, 0)

    resumed = EarlyStopping(monitor="loss", patience=3, min_delta=100.0)
    resumed.set_state(state)
    history = model.fit(*data, batch_size=8, epochs=9, initial_epoch=2, verbose=0, callbacks=[resumed])
    assert history.epoch == [2, 3]  # waits 2 and 3; afresh it would have gone to epoch 5

    again = model.fit(*data, batch_size=8, epochs=9, verbose=0, callbacks=[resumed])
    assert again.epoch == [0, 1, 2, 3]  # a restored state holds for one fit


def test_only_the_chief_speaks(model, data, become_worker, capsys) -> None:
    become_worker(1, 2)
    stopping = EarlyStopping(monitor="loss", patience=1, min_delta=100.0, verbose=1)
    model.fit(*data, batch_size=8, epochs=5, verbose=0, callbacks=[stopping])
    assert stopping.stopped_epoch == 1
    assert "early stopping" not in capsys.readouterr().out
