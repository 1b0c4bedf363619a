"""Control flow on tensors: operations that hold sub-graphs."""
