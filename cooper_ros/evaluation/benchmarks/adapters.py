"""How each benchmark asks and scores (reference sections 12.2 and 12.3).

Scores are found by rules; an adapter returns None for a response its rules cannot read, so that a
judge may be asked where one is configured, and calls those doubtful that it should be asked first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cooper_ros.engine.answers import answer_text, short_answer
from cooper_ros.errors import BadData, BadOption
from cooper_ros.evaluation.benchmarks.table import Row
from cooper_ros.evaluation.names import BENCHMARKS
from cooper_ros.scoring import answer_rules as rules

SUFFIX_SOURCES = frozenset({
    'vstibench', 'MMSI-Bench', '3DSRBench', 'OmniSpatial', 'Spatial-MM', 'SpatialMQA', 'VSI-Bench',
    'STI-Bench', 'SpatialEval', 'SITE-Bench', 'SPHERE-VLM', 'SRBench', 'BLINK'})
SUFFIXES = {'MCQ': 'Answer with the letter of the right option only.',
            'YN': 'Answer with Yes or No only.',
            'Number': 'Answer with a single number only.'}
SI_KINDS = {'MCQ': rules.MCQ, 'YN': rules.YES_NO, 'Number': rules.NUMBER,
            'Number_Int': rules.COUNT}
LETTERS = 'ABCDEFGH'
Scores = dict[str, float]


class Adapter(Protocol):
    """One benchmark.

    Attributes:
        name: as in ``--suite``.
        columns: the table must have.
        groups: columns whose values get scores of their own.
    """

    name: str
    columns: tuple[str, ...]
    groups: tuple[str, ...]

    def prompt(self, row: Row) -> str:
        """What the model is asked."""

    def truth(self, row: Row) -> str:
        """The right answer as text, for records and for a judge."""

    def numeric(self, row: Row) -> bool:
        """Whether a number is asked for; others are right or wrong."""

    def check(self, row: Row) -> None:
        """Refuse a row that no response could be scored by.

        Raises:
            BadData: naming the row and what is wrong with it.
        """

    def scores(self, row: Row, response: str) -> Scores | None:
        """Measure -> 0..1, the main one first; None where the rules cannot read the response.

        Raises:
            BadData: as :meth:`check`.
        """

    def doubtful(self, row: Row, response: str) -> bool:
        """Whether the rules only guess which of several numbers is the answer."""


@dataclass(frozen=True)
class SiBench:
    """SIBench: options, yes or no, numbers by mean relative accuracy, counts exactly."""

    name: str = 'sibench'
    columns: tuple[str, ...] = ('question', 'answer', 'type')
    groups: tuple[str, ...] = ('category', 'l2-category', 'type')

    def prompt(self, row: Row) -> str:
        """The question; for some sources one line more that says how to answer."""
        question, kind = row.get('question'), row.get('type').split('_')[0]
        if row.get('data_source') not in SUFFIX_SOURCES:
            return question
        return f'{question}\n{SUFFIXES[kind]}' if kind in SUFFIXES else question

    def truth(self, row: Row) -> str:
        """See :class:`Adapter`."""
        return row.get('answer')

    def numeric(self, row: Row) -> bool:
        """See :class:`Adapter`."""
        return SI_KINDS.get(row.get('type')) in (rules.NUMBER, rules.COUNT)

    def check(self, row: Row) -> None:
        """See :class:`Adapter`; types and truths."""
        kind, answer = SI_KINDS.get(row.get('type')), row.get('answer')
        if kind is None:
            raise BadData('unknown type of question', value=f'row {row.index}: {row.get("type")}',
                          limit=', '.join(SI_KINDS))
        options = row.get('question') if kind == rules.MCQ else ''
        if not answer or not _readable(kind, answer, options):
            raise BadData(f'the truth is no answer of type {row.get("type")}',
                          value=f'row {row.index}: {answer!r}')

    def scores(self, row: Row, response: str) -> Scores | None:
        """See :class:`Adapter`."""
        self.check(row)
        kind = SI_KINDS[row.get('type')]
        if not _readable(kind, response, row.get('question')):
            return None
        return {'score': rules.score(response, row.get('answer'), row.get('question'), kind)}

    def doubtful(self, row: Row, response: str) -> bool:
        """See :class:`Adapter`."""
        return self.numeric(row) and rules.doubtful(response, row.get('answer'),
                                                    row.get('question'))


@dataclass(frozen=True)
class Mmvp:
    """MMVP and other VLMEvalKit option tables: columns A, B, .. and the letter of the answer."""

    name: str = 'mmvp'
    columns: tuple[str, ...] = ('question', 'answer', 'A', 'B')
    groups: tuple[str, ...] = ('category', 'l2-category')

    def options(self, row: Row) -> dict[str, str]:
        """Letter (lower case) -> text of the options that are not empty."""
        return {letter.lower(): row.get(letter) for letter in LETTERS if row.get(letter)}

    def _wanted(self, row: Row) -> str:
        """Letter of the answer (lower case), or what stands in its place."""
        answer = row.get('answer')
        return rules.find_letter(answer, self.options(row)) or answer.lower()

    def prompt(self, row: Row) -> str:
        """Hint, question and options, one per line."""
        hint = [f'Hint: {row.get("hint")}'] if row.get('hint') else []
        options = [f'{letter.upper()}. {text}' for letter, text in self.options(row).items()]
        return '\n'.join([*hint, f'Question: {row.get("question")}', 'Options:', *options,
                          'Please select the correct answer from the options above.'])

    def truth(self, row: Row) -> str:
        """See :class:`Adapter`."""
        letter, options = self._wanted(row), self.options(row)
        return f'{letter.upper()}. {options[letter]}' if letter in options else row.get('answer')

    def numeric(self, row: Row) -> bool:
        """See :class:`Adapter`."""
        return False

    def check(self, row: Row) -> None:
        """See :class:`Adapter`."""
        if self._wanted(row) not in self.options(row):
            raise BadData('the answer is none of the options',
                          value=f'row {row.index}: {row.get("answer")!r}',
                          limit=', '.join(self.options(row)).upper())

    def scores(self, row: Row, response: str) -> Scores | None:
        """See :class:`Adapter`."""
        self.check(row)
        letter = rules.find_letter(short_answer(response), self.options(row))
        return None if letter is None else {'score': float(letter == self._wanted(row))}

    def doubtful(self, row: Row, response: str) -> bool:
        """See :class:`Adapter`."""
        return False


@dataclass(frozen=True)
class QSpatial:
    """Q-Spatial Bench: a distance is right within a factor of two (``delta_2``).

    Attributes:
        system, template: the benchmark's prompt texts; ours where it is not at hand.
    """

    name: str = 'qspatial'
    columns: tuple[str, ...] = ('question',)
    groups: tuple[str, ...] = ('question_type',)
    system: str = ('The question asks for a distance in the scene of the picture. Answer with one '
                   'number and its unit, such as \\boxed{30 cm}.')
    template: str = 'Question: {{ question }}'

    def prompt(self, row: Row) -> str:
        """System text and question, as VLMEvalKit joins them."""
        return f'{self.system}\n{self.template.replace("{{ question }}", row.get("question"))}'

    def truth(self, row: Row) -> str:
        """``answer_value answer_unit``, or VLMEvalKit's tuple in ``answer``."""
        if row.get('answer_value'):
            return f'{row.get("answer_value")} {row.get("answer_unit")}'.strip()
        return row.get('answer').strip('()').replace(',', ' ').replace("'", '')

    def numeric(self, row: Row) -> bool:
        """See :class:`Adapter`."""
        return True

    def check(self, row: Row) -> None:
        """See :class:`Adapter`."""
        self._wanted(row)

    def _wanted(self, row: Row) -> rules.Quantity:
        wanted = rules.find_quantity(self.truth(row))
        if wanted is None or not wanted.unit or not 0 < wanted.value < math.inf:
            raise BadData('the truth is no length', value=f'row {row.index}: {self.truth(row)!r}')
        return wanted

    def scores(self, row: Row, response: str) -> Scores | None:
        """See :class:`Adapter`."""
        wanted = self._wanted(row)
        found = _tagged_length(response) or rules.find_quantity(short_answer(response))
        if found is None or not found.unit:
            return None
        ratio = max(found.to('cm'), 1e-8) / wanted.to('cm')
        return {f'delta_{name}': float(max(ratio, 1 / ratio) < limit)
                for name, limit in (('2', 2.0), ('1_point_5', 1.5))}

    def doubtful(self, row: Row, response: str) -> bool:
        """See :class:`Adapter`."""
        return _tagged_length(response) is None and rules.doubtful(response, self.truth(row))


def _tagged_length(response: str) -> rules.Quantity | None:
    r"""The benchmark's own form ``\scalar{1.5} \distance_unit{meters}``."""
    text = answer_text(response)
    parts = [text.rpartition(tag)[2].partition('}')[0] if tag in text else ''
             for tag in ('scalar{', 'distance_unit{')]
    return rules.find_quantity(' '.join(parts)) if all(parts) else None


def _readable(kind: str, response: str, question: str) -> bool:
    text = short_answer(response)
    if kind == rules.MCQ:
        return rules.find_letter(text, rules.options_of(question)) is not None
    if kind == rules.YES_NO:
        return rules.find_yes_no(text) is not None
    return rules.find_quantity(text) is not None


def make_adapter(name: str, templates: Path | None = None) -> Adapter:
    """The adapter of a benchmark.

    Args:
        name: one of ``BENCHMARKS``.
        templates: Q-Spatial's ``prompt_templates`` folder, for its own prompt texts.

    Raises:
        BadOption: no such benchmark.
        BadData: the templates are not there.
    """
    if name == 'qspatial' and templates is not None:
        try:
            return QSpatial(system=(templates / 'system_prompt.txt').read_text('utf-8'),
                            template=(templates / 'spatial_prompt_single.txt').read_text('utf-8'))
        except OSError as error:
            raise BadData('the prompt templates cannot be read', value=str(error)) from error
    known: dict[str, Adapter] = {'sibench': SiBench(), 'mmvp': Mmvp(), 'qspatial': QSpatial()}
    if name not in known:
        raise BadOption('no such benchmark', value=name, limit=', '.join(BENCHMARKS))
    return known[name]
