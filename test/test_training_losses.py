"""What a token costs, and where a run's first weights come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cooper_ros.errors import BadCheckpoint
from cooper_ros.model.network import Cooper
from cooper_ros.model.packing import IGNORED
from cooper_ros.model.training_forward import TrainOutput
from cooper_ros.runtime.checkpoint import read_model_folder
from cooper_ros.training.checkpoints import save_checkpoint
from cooper_ros.training.losses import answer_weights, shared_losses
from cooper_ros.training.starting import start_weights

NANO = Path(__file__).parents[1] / 'models' / 'cooper-nano'
BOX = 7
LABELS = torch.tensor([[3, BOX, 5, 9, IGNORED], [BOX, IGNORED, 4, 4, BOX]])


def test_only_what_follows_a_box_counts_more() -> None:
    weights = answer_weights(LABELS, BOX, 8.0)
    assert weights.tolist() == [[1, 1, 8, 1, 0], [1, 0, 1, 1, 1]]


def test_the_loss_is_the_weighted_mean() -> None:
    ce = torch.arange(10.0).view(2, 5)
    mse = torch.full((2, 3, 4), 0.5)
    output = TrainOutput(ce, mse, torch.zeros(2, 3, 4), torch.zeros(2, 1, 1))
    found = shared_losses(output, answer_weights(LABELS, BOX, 8.0))
    shares = torch.tensor([[1, 1, 8, 1, 0], [1, 0, 1, 1, 1]]) / 15
    assert float(found[0]) == pytest.approx(float((ce * shares).sum()))
    assert float(found[1]) == pytest.approx(0.5)


def test_a_run_goes_on_from_a_model_folder_or_another_run(tmp_path: Path) -> None:
    exported = start_weights(str(NANO))
    Cooper(read_model_folder(NANO).config).load_state_dict(exported, strict=True)
    assert {value.dtype for value in exported.values()} == {torch.float32}
    save_checkpoint(tmp_path, {'ema': {'weight': torch.ones(2)}})
    assert start_weights(str(tmp_path))['weight'].tolist() == [1, 1]


def test_a_folder_without_weights_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match='nowhere'):
        start_weights(str(tmp_path / 'nowhere'))
