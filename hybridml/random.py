"""Random numbers: the functions draw from one default generator; make others with `Generator`.

>>> import hybridml as hml
>>> hml.random.seed(1)
>>> hml.random.normal((2, 3)).shape
(2, 3)
"""

from hybridml.eager.random import Generator, default
from hybridml.ops.random import stateless_bits, stateless_normal, stateless_uniform

bernoulli = default.bernoulli
categorical = default.categorical
normal = default.normal
permutation = default.permutation
randint = default.randint
seed = default.seed
truncated_normal = default.truncated_normal
uniform = default.uniform

__all__ = [
    "Generator",
    "bernoulli",
    "categorical",
    "default",
    "normal",
    "permutation",
    "randint",
    "seed",
    "stateless_bits",
    "stateless_normal",
    "stateless_uniform",
    "truncated_normal",
    "uniform",
]
