"""Names of the suites; of their own, since ``cooper evaluate --help`` loads no suite."""

from __future__ import annotations

SCENES = 'scenes'
MAP_SUITES = ('depth', 'segmentation')
BENCHMARKS = ('sibench', 'mmvp', 'qspatial')
FILE_SUITES = (*MAP_SUITES, *BENCHMARKS)
SUITES = (SCENES, *FILE_SUITES)
