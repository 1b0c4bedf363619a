"""How much memory of its own a sweep has on the stack of each thread. `sweep_loop` is compiled with these numbers."""

CACHE_BYTES = 3 << 17
"""What the buffers of a part may take: most of a second-level cache of half a MiB, beside what all parts read."""

OWN_BYTES = CACHE_BYTES + 4096  # of buffers that nobody else reads, each rounded up to cache lines
COPY_BYTES = 1 << 16  # of argument blocks
