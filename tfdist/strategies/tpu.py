"""`tpu`: a replica on each core of a TPU. It was not run on a TPU yet; docs/tpu.md says what is proved and how."""

from __future__ import annotations

import tensorflow as tf

from tfdist._internals.replica.distribution import ReplicaDistribution
from tfdist.errors import ClusterError, ConfigError

_INSTALL = (
    "Install TensorFlow's TPU build on the TPU host (pip install 'tfdist[tpu]', which brings libtpu; its newest "
    "version is TensorFlow 2.20, and no other TensorFlow may be installed beside it), "
    "or use create_strategy('auto') where there is no TPU."
)


class TPU(ReplicaDistribution, tf.distribute.TPUStrategy):
    """`tf.distribute.TPUStrategy` that gives the one-device result under Keras 3 `fit`.

    Batches are padded to one static shape, because XLA compiles the step anew for every other shape. Padding does not
    count in losses, metrics and batch statistics.
    """

    name = "tpu"
    pads_batches = True


def tpu(tpu: str = "local") -> tf.distribute.Strategy:
    """Connects to a TPU, initializes it, and returns the strategy of its cores.

    Args:
        tpu: `"local"` for the TPU of this host, the name of a Cloud TPU, or an address such as `"grpc://host:8470"`.

    Raises:
        ConfigError: `tpu` is no name.
        ClusterError: There is no such TPU, or this TensorFlow cannot use one.
    """
    if not isinstance(tpu, str) or not tpu:
        raise ConfigError(
            f"tpu={tpu!r} is no name of a TPU; give 'local' for the TPU of this host, the name of a Cloud TPU, or "
            "an address such as 'grpc://10.0.0.2:8470'."
        )
    resolver = _resolve(tpu)
    try:
        if tpu != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except tf.errors.NotFoundError as error:
        if "No OpKernel" in str(error):
            raise ClusterError(
                f"this TensorFlow ({tf.__version__}) is built without TPU support, and tpu={tpu!r} was asked for. "
                f"{_INSTALL}"
            ) from error
        raise ClusterError(
            f"tpu={tpu!r}: no TPU was found there ({_first_line(error)}). {_INSTALL}"
        ) from error
    except (tf.errors.OpError, RuntimeError) as error:
        raise ClusterError(
            f"tpu={tpu!r} did not start: {_first_line(error)}. Check that the TPU is ready and that no other process "
            "uses it, and make tfdist.create_strategy the first call of the script."
        ) from error
    return TPU(resolver)


def _resolve(name: str) -> tf.distribute.cluster_resolver.TPUClusterResolver:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        resolver.cluster_spec()
    # The kind of error depends on which look-up fails: the metadata server, the API client, or the API's answer.
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"no TPU called {name!r} was found: {_first_line(error)}. Off Google Cloud only 'local' and addresses "
            "such as 'grpc://10.0.0.2:8470' can be used; on it, check the name with "
            "`gcloud compute tpus tpu-vm list` and that this host is in the TPU's project and zone."
        ) from error
    return resolver


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
