"""Makes this process keep the memory that a step has freed, for the next step.

On Python 3.11 and later, TensorFlow sets an option of the C library's allocator when a process makes its first dataset
from a generator, as Keras does for generators and `PyDataset`. From then on each block of more than 128 KiB is taken
from the system and given back, again and again. A step of a BERT on two cores then has five times the page faults, and
takes up to 1.8 times as long. TensorFlow does this once in a process, so tfdist lets it, and then sets its own limits.
The option was meant against a leak of generators (https://github.com/tensorflow/tensorflow/issues/65675). Without it
memory levels off as well: at 804 MiB after 35 epochs of a small convnet, with it at 652 MiB.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys

import tensorflow as tf

# The names of the options of `mallopt` in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# The limits that glibc comes to by itself if nobody sets one: larger blocks are taken from the system, and more free
# memory than this is given back.
_LARGEST_KEPT = 32 << 20
_MOST_KEPT = 64 << 20


@functools.cache
def keep_freed_memory() -> bool:
    """Sets how much freed memory the allocator keeps; once in a process.

    Returns:
        Whether it did: not where the C library is another one than glibc, and not where the user has chosen, by
        `MALLOC_..._` or `GLIBC_TUNABLES`.
    """
    if not sys.platform.startswith("linux") or any(
        name.startswith("MALLOC_") or (name == "GLIBC_TUNABLES" and "glibc.malloc" in value)
        for name, value in os.environ.items()
    ):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version") or not hasattr(library, "mallopt"):
        return False
    with tf.device("CPU:0"):
        dataset = tf.data.Dataset.from_generator(
            lambda: iter([0]), output_signature=tf.TensorSpec([], tf.int32)
        )
        for _ in dataset:
            pass
    return bool(
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT) and library.mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
    )
