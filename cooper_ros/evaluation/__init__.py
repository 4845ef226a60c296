"""Measuring: how well a checkpoint answers and draws; whether the network is the published one.

* ``conformance*``: comparison with recordings of the published implementation;
* ``scenes_suite``, ``scenes_report``, ``paired``: questions and maps of simulated rooms, with
  baselines, variants and intervals;
* ``suites``, ``map_suites``, ``map_pairs``, ``alignment``, ``depth_*``: depth and segmentation
  maps against truth in the user's own files;
* ``benchmarks``: tables of public benchmarks, scored by rules and, where one is configured, by a
  judge (:mod:`cooper_ros.scoring`);
* ``parity``: two checkpoints on the same questions;
* ``cli``, ``names``, ``arguments``, ``outputs``: ``cooper evaluate``.
"""
