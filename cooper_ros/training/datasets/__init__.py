"""Readers of the published data sets, as they lie on disk when they have been downloaded.

:mod:`~cooper_ros.training.datasets.catalogue` names them all; ``cooper data check KIND DIR`` says
what is missing from a folder before an hour of training does.
"""
