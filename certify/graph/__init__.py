"""The graph is the model format: vocabulary, structure, tracing, running, simplifying."""

from certify.graph.graph import Graph, Operation
from certify.graph.vocabulary import KINDS, Kind

__all__ = ["KINDS", "Graph", "Kind", "Operation"]
