"""`tfdist data-service`: a process of a tf.data service, for hosts where `tfdist launch` does not start it."""

from __future__ import annotations

import argparse
import socket

from tfdist.cli.tensorflow_start import load_tensorflow
from tfdist.errors import ConfigError
from tfdist.launch.ports import check_ports_free, find_free_ports


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments; loads no TensorFlow."""
    parser.epilog = (
        "Without --dispatcher this is the dispatcher, which a run is given as --data-service HOST:PORT."
    )
    add = parser.add_argument
    add("--dispatcher", metavar="HOST:PORT", help="be a data worker of this dispatcher")
    add("--host", metavar="HOST", help="name by which training processes reach this host (default: its own)")
    add("--port", type=int, metavar="P", help="port to listen on (default: a free one)")
    add("--with-parent", action="store_true", help="end when the process that has started this one has ended")


def run(args: argparse.Namespace) -> int:
    """Runs until the process is ended."""
    if args.dispatcher is None and args.host is not None:
        raise ConfigError(
            "--host is for data workers; a dispatcher listens on every name of its host. Leave it out."
        )
    port = find_free_ports(1)[0] if args.port is None else args.port
    check_ports_free([port])
    load_tensorflow()
    from tfdist.data.service.process import run_data_worker, run_dispatcher  # noqa: PLC0415

    if args.dispatcher is None:
        run_dispatcher(port, with_parent=args.with_parent)
    else:
        host = args.host or socket.gethostname()
        run_data_worker(args.dispatcher, host, port, with_parent=args.with_parent)
    return 0
