"""``cooper scenes``: look at the simulated rooms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cooper_ros.errors import BadOption

app = typer.Typer(help='Simulated rooms with known depth, classes and answers.',
                  no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Keep ``preview`` a command of its own, even while it is the only one."""


@app.command()
def preview(out: Annotated[Path, typer.Argument(help='PNG to write')] = Path('scenes.png'),
            seed: Annotated[int, typer.Option(help='number of the first room')] = 0,
            count: Annotated[int, typer.Option(min=1, max=400, help='how many rooms')] = 12,
            split: Annotated[str, typer.Option(help='train, validation or test')] = 'train'
            ) -> None:
    """Draw a sheet of rooms: picture, true depth and classes of each.

    Example: `cooper scenes preview rooms.png --seed 100 --count 8`
    """
    _check_suffix(out)
    from cooper_ros.scenes.preview import preview as draw
    print(f'wrote {draw(seed, count, out, split=split)}')


def _check_suffix(out: Path) -> None:
    """Refuse before the rooms are drawn what they could not be saved as.

    Raises:
        BadOption: the name does not end like that of a picture.
    """
    from PIL import Image
    if Image.registered_extensions().get(out.suffix.lower()) not in Image.SAVE:
        raise BadOption('the name of the picture does not say its format', value=out,
                        limit='.png, .jpg and the like', remedy=f'name it {out.stem}.png')
