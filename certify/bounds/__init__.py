"""Lipschitz bounds and certificates: one walk over the graph, one table per analysis."""
