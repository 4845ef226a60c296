"""Public benchmarks as users have them on disk: VLMEvalKit's TSV files.

An adapter says how a row becomes a prompt and how a response is scored; running, resuming and
summing up are the same for all of them (:mod:`~cooper_ros.evaluation.benchmarks.run`).
"""
