"""Input pipelines: `Dataset` over tensors and generators, `DataLoader` over anything with `__len__` and `__getitem__`."""

from hybridml.data.dataset import Dataset
from hybridml.data.loader import DataLoader

__all__ = ["DataLoader", "Dataset"]
