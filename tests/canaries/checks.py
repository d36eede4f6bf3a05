"""The canary of what the self check's reference needs."""

from __future__ import annotations

import keras
from canary import BATCH, canary, compiled, rows, strategy


@canary({"BatchNormalization.call": "is not the step of one device"})
def statistics_of_each_replica() -> None:
    mirrored = strategy()
    mirrored.self_check = "on"
    try:
        with mirrored.scope():
            layers = [
                keras.Input((4,)),
                keras.layers.Dense(4),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(3),
            ]
            model = compiled(lambda: keras.Sequential(layers))
        model.fit(*rows(24), batch_size=BATCH, verbose=0)
    finally:
        mirrored.self_check = "off"
