"""Two models that train each other, by the Keras guide."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import case


class GAN(keras.Model):
    """A generator and a discriminator, each with its own optimizer; every loss is a mean, and so needs no word."""

    def __init__(self, discriminator: keras.Model, generator: keras.Model, latent: int) -> None:
        super().__init__()
        self.discriminator, self.generator, self.latent = discriminator, generator, latent
        self.d_loss, self.g_loss = keras.metrics.Mean(name="d_loss"), keras.metrics.Mean(name="g_loss")
        self.seed_generator = keras.random.SeedGenerator(1337)
        self.built = True  # both models are

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self.d_loss, self.g_loss]

    def compile(self, d_optimizer: Any, g_optimizer: Any, loss_fn: Any) -> None:
        super().compile()
        self.d_optimizer, self.g_optimizer, self.loss_fn = d_optimizer, g_optimizer, loss_fn
        d_optimizer.build(self.discriminator.trainable_variables)
        g_optimizer.build(self.generator.trainable_variables)

    def train_step(self, real: Any) -> dict[str, Any]:
        rows = ops.shape(real)[0]
        noise = keras.random.normal((rows, self.latent), seed=self.seed_generator)
        samples = ops.concatenate([self.generator(noise), real], axis=0)
        labels = ops.concatenate([ops.ones((rows, 1)), ops.zeros((rows, 1))], axis=0)
        with tf.GradientTape() as tape:
            d_loss = self.loss_fn(labels, self.discriminator(samples))
        gradients = tape.gradient(d_loss, self.discriminator.trainable_variables)
        self.d_optimizer.apply_gradients(zip(gradients, self.discriminator.trainable_variables, strict=True))
        noise = keras.random.normal((rows, self.latent), seed=self.seed_generator)
        with tf.GradientTape() as tape:
            g_loss = self.loss_fn(ops.zeros((rows, 1)), self.discriminator(self.generator(noise)))
        gradients = tape.gradient(g_loss, self.generator.trainable_variables)
        self.g_optimizer.apply_gradients(zip(gradients, self.generator.trainable_variables, strict=True))
        self.d_loss.update_state(d_loss)
        self.g_loss.update_state(g_loss)
        return {"d_loss": self.d_loss.result(), "g_loss": self.g_loss.result()}


@case("own steps", on=("mirrored_2", "workers_2x1", "mesh_2x2"))
def adversarial(context: Context) -> dict[str, Any]:
    """A GAN with two optimizers whose noise is drawn by row, uneven batches."""

    def network(inputs: int, outputs: int) -> keras.Model:
        layers = [keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(outputs)]
        return tiny.fix_weights(keras.Sequential([keras.layers.Input((inputs,)), *layers]))

    with context.random_by_row(), context.scope():
        model = GAN(network(tiny.FEATURES, 1), network(2, tiny.FEATURES), latent=2)
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), keras.optimizers.Adam(0.02), loss)
        history = model.fit(tiny.rows(31)[0], batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0)
    return tiny.weights(model) | {f"history/{key}": values for key, values in history.history.items()}
