"""Transformations of graphs, one pass per file."""
