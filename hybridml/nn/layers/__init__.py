"""Layers: modules with weights and defaults of their own. Names, arguments and defaults are those of Keras."""
