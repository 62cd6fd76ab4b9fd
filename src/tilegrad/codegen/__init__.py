"""Code generation: from a plan to a C project."""
