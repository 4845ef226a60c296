"""One training stack, from the published recipe down to cooper-nano; sizes live in YAML.

``cooper train STAGE --config config/train/FILE.yaml`` runs one stage: ``vae``, ``see``, ``amg``,
``sft``, ``joint`` or ``grpo``. A stage is a :class:`~cooper_ros.training.task.Task`; the loop
around it (schedule, averaging, checkpoints, logs) is
:class:`~cooper_ros.training.trainer.Trainer` and knows no stage.
"""
