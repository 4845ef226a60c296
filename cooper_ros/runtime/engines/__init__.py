"""Compiled engines: built with TensorRT, kept with proof of what they are, checked before use."""
