"""Run it now: tensors, variables, tapes, and the interpreter behind the door."""
