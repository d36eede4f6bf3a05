"""Where the allocator takes blocks from, once a process has made a dataset from a generator."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes
import sys

library = ctypes.CDLL(None)


class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]


library.mallinfo2.restype = Info
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes = [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]


def is_of_the_system(size):
    before = library.mallinfo2().hblks
    block = library.malloc(size)
    after = library.mallinfo2().hblks
    library.free(block)
    return after > before


import tensorflow as tf

if sys.argv[1] == "tfdist":
    import tfdist

    tfdist.create_strategy("one_device")
is_of_the_system(16 << 20)  # glibc learns from this that such blocks are freed again
before = is_of_the_system(8 << 20)
list(tf.data.Dataset.from_generator(lambda: iter([0]), output_signature=tf.TensorSpec([], tf.int32)))
print(before, is_of_the_system(8 << 20))
"""


@pytest.mark.parametrize(("whose", "expected"), [("stock", "False True"), ("tfdist", "False False")])
def test_a_generator_makes_each_large_block_one_of_the_system(whose: str, expected: str) -> None:
    """If that of stock fails, TensorFlow leaves the allocator alone: delete `processes/memory.py`."""
    given = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, whose],
        env=given | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.stdout.split("\n")[0] == expected, run.stderr
