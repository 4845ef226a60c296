"""The fixed texts a checkpoint was trained with, read from ``prompts.yaml`` in its folder.

The released weights answer only to the exact bytes of their training prompts. Those texts are
not ours to carry: `cooper import-prompts` reads them from the user's own clone. Checkpoints we
train carry our own texts in the same file, and training, evaluation and the node read it alike.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import yaml

from cooper_ros.errors import BadCheckpoint, BadPrompts
from cooper_ros.runtime.files import write_whole

FILE_NAME = 'prompts.yaml'
OFFICIAL_NAMES = {
    'interleave_system': 'INTERLEAVE_REASON_SYSTEM_PROMPT',
    'image_system': 'IMAGE_REASON_SYSTEM_PROMPT',
    'think_system': 'VLM_THINK_SYSTEM_PROMPT',
    'gen_think_system': 'GEN_THINK_SYSTEM_PROMPT',
    'depth': 'DEPTH_PROMPT',
    'segmentation': 'SEGMENTATION_PROMPT',
    'reflection': 'REFLECTION_PROMPT',
}
REMEDY = 'cooper import-prompts FILE --model DIR'
HEADER = ('# Prompt texts of this checkpoint, byte for byte as it was trained.\n'
          '# A changed space changes what the network answers.\n')


@dataclass(frozen=True)
class Prompts:
    """The seven texts; box markers keep their double braces, nothing is ever formatted.

    Attributes:
        interleave_system: system text of the interleaved loop (think, draw, answer).
        image_system: system text of answering from maps already drawn.
        think_system: system text of thinking in text only.
        gen_think_system: system text of planning before drawing.
        depth: asks for the depth map.
        segmentation: asks for the segmentation.
        reflection: put after every drawn map.
    """

    interleave_system: str
    image_system: str
    think_system: str
    gen_think_system: str
    depth: str
    segmentation: str
    reflection: str


def load_prompts(folder: Path | str) -> Prompts:
    """Read ``prompts.yaml`` of a model folder.

    Raises:
        BadPrompts: the file is missing, unreadable or incomplete.
        BadCheckpoint: there is no such folder.
    """
    path = Path(folder) / FILE_NAME
    if not path.parent.is_dir():
        raise BadCheckpoint('there is no such model folder', value=str(folder),
                            remedy='check model_path; `cooper doctor` says what is missing')
    try:
        values = yaml.safe_load(path.read_bytes().decode('utf-8'))
    except FileNotFoundError:
        raise BadPrompts(f'{FILE_NAME} is missing', value=str(path), remedy=REMEDY) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadPrompts(f'{FILE_NAME} cannot be read', value=f'{path}: {_first_line(error)}',
                         remedy=REMEDY) from error
    return _checked(values, path)


def save_prompts(folder: Path | str, prompts: Prompts) -> Path:
    """Write ``prompts.yaml``; :func:`load_prompts` gives the same bytes back.

    Returns:
        the file written. It replaces an older one in a single step.
    """
    path = Path(folder) / FILE_NAME
    values = dataclasses.asdict(prompts)
    text = HEADER + _dump(values, '|')
    if yaml.safe_load(text) != values:  # block style cannot hold every string; quotes can
        text = HEADER + _dump(values, '"')
    write_whole(path, text.encode())
    return path


def _checked(values: object, path: Path) -> Prompts:
    if not isinstance(values, dict):
        raise BadPrompts(f'{FILE_NAME} is not a table of texts', value=str(path), remedy=REMEDY)
    missing = [name for name in OFFICIAL_NAMES if name not in values]
    unknown = [str(name) for name in values if name not in OFFICIAL_NAMES]
    not_text = [name for name in OFFICIAL_NAMES
                if name in values and not isinstance(values[name], str)]
    for problem, names in (('lacks', missing), ('has unknown', unknown),
                           ('has something else than text for', not_text)):
        if names:
            raise BadPrompts(f'{FILE_NAME} {problem} {", ".join(names)}', value=str(path),
                             limit=', '.join(OFFICIAL_NAMES), remedy=REMEDY)
    return Prompts(**values)


class _Text(str):
    """A string the dumper writes in block or quoted style."""


def _dump(values: dict[str, str], style: str) -> str:
    class Dumper(yaml.SafeDumper):
        pass

    Dumper.add_representer(_Text, lambda dumper, text: dumper.represent_scalar(
        'tag:yaml.org,2002:str', str(text), style=style))
    return yaml.dump({name: _Text(text) for name, text in values.items()}, Dumper=Dumper,
                     allow_unicode=style == '|', width=10**9, sort_keys=False)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
