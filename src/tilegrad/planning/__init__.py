"""Planning: from graphs to kernels, storages and addresses. The allocator is usable by itself."""

from tilegrad.planning.allocate import Buffer, allocate, lower_bound, peak_of

__all__ = ["Buffer", "allocate", "lower_bound", "peak_of"]
