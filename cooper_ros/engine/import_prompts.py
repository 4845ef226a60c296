"""Read the official prompt texts out of the user's own clone, without running it.

The file is parsed into a syntax tree; only plain string constants at module level are looked
at, and each must match the size and SHA-256 of the text the weights were trained with.
"""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping

from cooper_ros.engine.prompts import FILE_NAME, OFFICIAL_NAMES, Prompts, save_prompts
from cooper_ros.errors import BadCheckpoint, BadPrompts

MAX_FILE_BYTES = 8_000_000


@dataclass(frozen=True)
class Fingerprint:
    """Size in bytes and SHA-256 (hex) of a text in UTF-8."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, text: str) -> Fingerprint:
        """Fingerprint a text; lone surrogates count as the bytes they would be."""
        data = text.encode('utf-8', 'surrogatepass')
        return cls(len(data), hashlib.sha256(data).hexdigest())

    def __str__(self) -> str:
        return f'{self.bytes} bytes, sha256 {self.sha256[:12]}'


OFFICIAL: Mapping[str, Fingerprint] = {
    'INTERLEAVE_REASON_SYSTEM_PROMPT': Fingerprint(
        1703, '471c9b249bcf591ff78b116fac1eb40c2b23472a7e534e6b4e94d2001021c808'),
    'IMAGE_REASON_SYSTEM_PROMPT': Fingerprint(
        430, '5a3bb58d46aa1b24938ee2bead9daf49cd15ad901bcdcd75970a46afd642f18c'),
    'VLM_THINK_SYSTEM_PROMPT': Fingerprint(
        227, '5eff00888fdf6b912c3f9a80711933dd35cdd164d167cba6b2a5889c04d7b565'),
    'GEN_THINK_SYSTEM_PROMPT': Fingerprint(
        209, '837914a3f5f8ec1be30d2fdb68f4e494a3d4767056100a113c4109af5367d390'),
    'DEPTH_PROMPT': Fingerprint(
        96, '85c1a2696b1e8986173dfc1062ba4081d81bcd76294ad00688d545b535a3e9ad'),
    'SEGMENTATION_PROMPT': Fingerprint(
        84, 'd302ec62f1d3ef4f161ed734e4ae56be988322343774c5efaaebae3ca26bfef4'),
    'REFLECTION_PROMPT': Fingerprint(
        429, '33b39b884ee043764fdeaec7f6fd467b790266ddb677d084178aa7bb2d93ab52'),
}


@dataclass(frozen=True)
class Finding:
    """One constant of the table: what was expected and what the file holds (None: nothing)."""

    name: str
    expected: Fingerprint
    got: Fingerprint | None

    @property
    def ok(self) -> bool:
        """True when the text is byte for byte the expected one."""
        return self.got == self.expected

    def __str__(self) -> str:
        return f'{self.name}: expected {self.expected}, got {self.got or "no such constant"}'


def read_constants(file: Path | str) -> dict[str, str]:
    """Collect the module-level string constants of a Python file by name; nothing runs.

    Adjacent and parenthesised literals count as one string; f-strings, sums and calls are not
    constants and are left out. A name assigned twice keeps its last text, as Python would.

    Raises:
        BadPrompts: the file cannot be read or is not Python.
    """
    path = Path(file)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadPrompts('the file is too large to be the official source', value=str(path),
                             limit=f'{MAX_FILE_BYTES} bytes')
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except OSError as error:
        raise BadPrompts('the file cannot be read', value=f'{path}: {error.strerror}',
                         remedy='give the inferencer.py of your clone') from error
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadPrompts('the file cannot be parsed as Python', value=f'{path}: {error}',
                         remedy='give the inferencer.py of your clone') from error
    return {name: text for node in tree.body for name, text in _texts(node)}


def compare(constants: Mapping[str, str],
            table: Mapping[str, Fingerprint] = OFFICIAL) -> list[Finding]:
    """Hold every constant of the table against what was found."""
    return [Finding(name, expected,
                    Fingerprint.of(constants[name]) if name in constants else None)
            for name, expected in table.items()]


def import_prompts(file: Path | str, folder: Path | str,
                   table: Mapping[str, Fingerprint] = OFFICIAL) -> Path:
    """Parse the official file, check every text and write ``prompts.yaml``.

    Args:
        file: Python file of the user's clone that defines the constants.
        folder: model folder, which must exist.
        table: what each constant must be.

    Returns:
        the file written.

    Raises:
        BadPrompts: naming every constant that is missing or differs; nothing is written.
        BadCheckpoint: the folder does not exist.
    """
    if not Path(folder).is_dir():
        raise BadCheckpoint('the model folder does not exist', value=str(folder),
                            remedy='give the folder that holds the weights')
    constants = read_constants(file)
    wrong = [finding for finding in compare(constants, table) if not finding.ok]
    if wrong:
        raise BadPrompts(f'{len(wrong)} of {len(table)} prompt texts do not match; '
                         f'{FILE_NAME} was not written', value=' | '.join(map(str, wrong)),
                         remedy='give the unchanged inferencer.py of the official repository')
    return save_prompts(folder, Prompts(**{
        ours: constants[theirs] for ours, theirs in OFFICIAL_NAMES.items()}))


def _texts(node: ast.stmt) -> list[tuple[str, str]]:
    if isinstance(node, ast.Assign):
        targets, value = node.targets, node.value
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        targets, value = [node.target], node.value
    else:
        return []
    if not (isinstance(value, ast.Constant) and isinstance(value.value, str)):
        return []
    return [(target.id, value.value) for target in targets if isinstance(target, ast.Name)]
