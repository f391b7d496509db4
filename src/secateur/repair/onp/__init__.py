"""Optimized Neuron Pruning: agents over the graph of a network (after arXiv 2405.17746)."""

from secateur.repair.onp.method import ONP
from secateur.repair.onp.settings import Agent, Graphing

__all__ = ["ONP", "Agent", "Graphing"]
