"""Reference execution in NumPy."""
