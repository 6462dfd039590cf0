"""Solvers that learn from a data set alone."""
