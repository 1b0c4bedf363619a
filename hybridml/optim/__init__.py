"""Optimisers: gradients in, better variables out. Written in public ops, so that a traced step is compiled as a whole."""

from hybridml.optim.adam import Adam, Adamax, AdamW, Nadam
from hybridml.optim.adaptive import Adadelta, Adagrad, RMSprop
from hybridml.optim.optimizer import Optimizer
from hybridml.optim.sgd import SGD
from hybridml.optim.sign import LAMB, Lion

__all__ = [
    "LAMB",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "Nadam",
    "Optimizer",
    "RMSprop",
]
