"""Measuring: conformance to the reference, depth metrics."""
