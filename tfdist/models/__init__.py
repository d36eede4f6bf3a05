"""Plain single-device Keras builders; nothing here knows of distribution."""
