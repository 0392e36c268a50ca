"""The graph is the model format: vocabulary, structure, tracing, running, simplifying."""

from certify.graph.apart import check_examples_apart
from certify.graph.freeze import frozen
from certify.graph.graph import Graph, Operation
from certify.graph.passes import drop_unused, fold_batch_norm, merge_equal, merge_pads, recognise
from certify.graph.program import Program
from certify.graph.run import run, run_all, to_module, value_shapes
from certify.graph.trace import normalized, trace
from certify.graph.trainable import to_trainable
from certify.graph.vocabulary import KINDS, Kind

__all__ = [
    "KINDS",
    "Graph",
    "Kind",
    "Operation",
    "Program",
    "check_examples_apart",
    "drop_unused",
    "fold_batch_norm",
    "frozen",
    "merge_equal",
    "merge_pads",
    "normalized",
    "recognise",
    "run",
    "run_all",
    "to_module",
    "to_trainable",
    "trace",
    "value_shapes",
]
