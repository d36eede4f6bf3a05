from __future__ import annotations

import threading
import time

from tfdist.parity.run.slots import Slots


def test_no_more_are_busy_than_there_are_slots(tmp_path):
    busy, most, lock = 0, 0, threading.Lock()

    def work(wanted: int) -> None:
        nonlocal busy, most
        with Slots(tmp_path, 2).hold(wanted):
            with lock:
                busy += wanted
                most = max(most, busy)
            time.sleep(0.02)
            with lock:
                busy -= wanted

    threads = [threading.Thread(target=work, args=(wanted,)) for wanted in (1, 2, 1, 1, 2, 0, 1, 2, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (busy, most) == (0, 2)


def test_more_than_there_are_is_all_of_them(tmp_path):
    with Slots(tmp_path, 2).hold(5), Slots(tmp_path, 2).hold(0):
        pass
