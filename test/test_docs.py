"""The documentation is true: generated pages are current; what pages name, cite or run exists."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, Iterator

import pytest
import typer

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob('*.md'), *(ROOT / 'docs').glob('*.md'), *ROOT.glob('models/*/*.md')])
COMMAND_PAGES = [page for page in PAGES if page.name != 'CHANGELOG.md']  # it tells of old ones
SOURCES = ROOT / 'docs' / 'sources.md'


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_interface_page_is_what_a_running_node_offers() -> None:
    done = subprocess.run([sys.executable, 'scripts/make_docs.py', '--check'], cwd=ROOT,
                          env={**os.environ, 'AMENT_PREFIX_PATH': sys.prefix},
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:] or 'run scripts/make_docs.py'


def test_what_a_node_offers_has_a_meaning_on_the_page() -> None:
    """What is new may not be left out of the page unnoticed."""
    path = ROOT / 'scripts' / 'make_docs.py'
    spec = importlib.util.spec_from_file_location('make_docs', path)
    make_docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_docs)
    offered = [('/cooper/query', ['cooper_interfaces/srv/Query']),
               ('/cooper/get_state', ['lifecycle_msgs/srv/GetState']),
               ('/rosout', ['rcl_interfaces/msg/Log'])]
    assert [name for name, *_ in make_docs.describe(offered)] == ['`/cooper/query`']
    with pytest.raises(SystemExit, match=r'^/cooper/new \(std_msgs/msg/String\) has no line in '
                                         'MEANING of scripts/make_docs.py'):
        list(make_docs.describe([*offered, ('/cooper/new', ['std_msgs/msg/String'])]))


# --- links --------------------------------------------------------------------------------------

def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r'^ *```.*?^ *```', '', page.read_text(), flags=re.DOTALL | re.MULTILINE)


@lru_cache(maxsize=None)
def anchors(page: Path) -> frozenset[str]:
    """What GitHub lets a link into a page point at: its headings, and anchors of its own."""
    found: list[str] = []
    for heading in re.findall(r'^#+ +(.+?)[ #]*$', prose(page), re.MULTILINE):
        words = re.sub(r'\]\([^)]*\)', '', heading).lower()
        slug = re.sub(r'[^\w\- ]', '', words).replace(' ', '-')
        again = sum(re.fullmatch(rf'{re.escape(slug)}(-\d+)?', one) is not None for one in found)
        found.append(f'{slug}-{again}' if again else slug)
    return frozenset(found) | frozenset(re.findall(r'<a (?:id|name)="([^"]+)"', prose(page)))


def lost_links(page: Path) -> list[str]:
    """Links of a page to files or headings that are not there."""
    lost = []
    for link in re.findall(r'\]\(\s*([^)\s]+)[^)]*\)', prose(page)):
        file, _, anchor = link.partition('#')
        target = page.parent / file if file else page
        if '://' not in link and not link.startswith('mailto:') and not (
                target.exists() and (not anchor or target.suffix != '.md'
                                     or anchor in anchors(target.resolve()))):
            lost.append(link)
    return lost


@pytest.mark.parametrize('page', PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    assert lost_links(page) == []


def test_a_link_that_leads_nowhere_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / 'page.md'
    page.write_text('# A `b` c!\n## Same\n## Same\n[x](#a-b-c) [x](#same-1) [x](#same-2) '
                    '[x](page.md#no) [x](other.md) [x](https://a.b/c#d) <a id="e"></a> [x](#e)\n')
    assert lost_links(page) == ['#same-2', 'page.md#no', 'other.md']


# --- commands -----------------------------------------------------------------------------------

def quoted(page: Path) -> Iterator[str]:
    """Code of a page: lines of its blocks, and what is quoted in sentences."""
    blocks = re.findall(r'^ *```[^\n]*\n(.*?)^ *```', page.read_text(), re.DOTALL | re.MULTILINE)
    for block in blocks:
        for line in re.sub(r'\\\n', ' ', block).splitlines():
            yield from re.split(r'`|&&|\|\|?|;', line) if '`' in line else [line]
    yield from (' '.join(span.split()) for span in re.findall(r'`([^`]+)`', prose(page)))


def command_lines(page: Path) -> Iterator[list[str]]:
    """What follows ``cooper`` in every command of a page."""
    for line in quoted(page):
        if found := re.search(r'(?:(?:^|[\s/])cooper|-m cooper_ros\.cli) +(?=[\w-])(.*)', line):
            yield words_of(found[1])


def words_of(line: str) -> list[str]:
    """The words of a command up to the end of it: a comment, a pipe, another command."""
    reader = shlex.shlex(line, posix=True, punctuation_chars=True)
    reader.whitespace_split, words = True, []
    for word in reader:
        if set(word) <= set('();<>|&'):
            break
        words.append(word)
    return words


@lru_cache(maxsize=None)
def root_command() -> Any:
    from cooper_ros.cli.app import GROUPS, app
    root: Any = typer.main.get_command(app)
    for name, (module, _) in GROUPS.items():  # loaded on demand by the program
        root.commands[name] = typer.main.get_command(importlib.import_module(module).app)
    return root


def complaint(words: list[str], command: Any = None) -> str:
    """What is wrong with a command line, which is parsed and not run; empty if nothing is."""
    command = command or root_command()
    while hasattr(command, 'commands') and words and not words[0].startswith('-'):
        if words[0].isupper():  # a placeholder such as STAGE: its options are those of any
            found = [complaint(words[1:], one) for one in command.commands.values()]
            return '' if '' in found else found[0]
        if words[0] not in command.commands:
            return f'no command {words[0]}'
        command, words = command.commands[words[0]], words[1:]
    return parse_error(command, words)


def parse_error(command: Any, words: list[str]) -> str:
    if command.name == 'demo':
        return ''  # it hands everything on
    context = command.context_class(command, info_name=command.name)
    try:
        given, rest, _ = command.make_parser(context).parse_args([*words])
    except Exception as error:  # typer carries a click of its own, with errors of its own
        return error.format_message()  # type: ignore[attr-defined]
    if rest and not hasattr(command, 'commands'):
        return f'too many words: {rest}'
    return ' '.join(unknown_settings(given.get('set_') or ()))


def unknown_settings(changes: Any) -> list[str]:
    from cooper_ros.config import CooperConfig
    known = {field.name for field in dataclasses.fields(CooperConfig)}
    return [f'no setting {change}' for change in changes if change.split('=')[0] not in known]


@pytest.mark.parametrize('page', COMMAND_PAGES, ids=named)
def test_commands_of_the_pages_exist(page: Path) -> None:
    wrong = {' '.join(words): said for words in command_lines(page) if (said := complaint(words))}
    assert wrong == {}


@pytest.mark.parametrize(('line', 'wrong'), [
    ('engine bild models/x', 'no command bild'), ('engine build x --bogus', '--bogus'),
    ('engine build x y', 'too many words'), ('doctor --model', 'requires an argument'),
    ('ask a.jpg why --set modus=auto', 'no setting modus'), ('train STAGE --nope', '--nope'),
    ('ask a.jpg "why so?" --set mode=auto  # as ever', ''), ('train STAGE --config x | less', '')])
def test_a_command_that_does_not_exist_is_noticed(line: str, wrong: str) -> None:
    said = complaint(words_of(line))
    assert wrong in said and bool(wrong) == bool(said)


@lru_cache(maxsize=None)
def repository_files() -> frozenset[str]:
    """Every file below the folders that are part of the repository, as paths from its root."""
    left_out = {'build', 'install', 'log', 'runs', 'shared'}
    folders = [one for one in ROOT.iterdir()
               if one.is_dir() and one.name not in left_out and one.name[0] not in '._']
    return frozenset(str(file.relative_to(ROOT)) for folder in [ROOT, *folders]
                     for file in (folder.iterdir() if folder == ROOT else folder.rglob('*')))


@pytest.mark.parametrize('page', [page for page in COMMAND_PAGES if page != SOURCES], ids=named)
def test_files_and_targets_that_pages_name_exist(page: Path) -> None:
    files = {f'/{file}' for file in repository_files()}
    targets = set(re.findall(r'^([a-z]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    for code in quoted(page):
        for name in re.findall(r'(?<![\w./<>*-])[\w./-]*\w\.(?:py|yaml|md)\b', code):
            own = '/' in name.strip('/') or name.endswith('.launch.py')
            own = own and not name.startswith('path/to/')
            # behind $(ros2 pkg prefix ...), or in the workspace of a robot
            tail = name[name.startswith('/'):].removeprefix('src/cooper_ros/')
            assert not own or any(file.endswith(f'/{tail}') for file in files), name
        if target := re.match(r'make ([a-z]+)', code):
            assert target[1] in targets, code


# --- citations ----------------------------------------------------------------------------------

CITING = [file for folder in ('cooper_ros', 'docs', 'config', 'test')
          for file in sorted((ROOT / folder).rglob('*'))
          if file.suffix in ('.py', '.md', '.yaml') and file not in (SOURCES, Path(__file__))]
NUMBER = r'\d+(?:\.\d+)?'
LIST = rf'{NUMBER}(?:(?:,? and |, | to ){NUMBER})*'
SECTIONS = re.compile(rf'(?<!\d{{5}}, )\b(?:reference (?:sections? )?|sections? )({LIST})', re.I)
REMEDIES = re.compile(r'reference 15\.\d,[^)]*')


def cited(file: Path) -> set[str]:
    """Sections, remedies and quirks of the reference, conventions and papers that a file cites."""
    lines = [re.sub(r'^\s*#', '', line) for line in file.read_text().splitlines()]
    text = ' '.join(' '.join(lines).split())
    found = {number for group in SECTIONS.findall(text) for number in numbers_in(group)}
    found |= {name for group in REMEDIES.findall(text) for name in re.findall(r'[PTR]\d+', group)}
    found |= set(re.findall(r'\bQ\d+\b', text)) | set(re.findall(r'\bREP-1\d\d\b', text))
    for table in re.findall(r'^\| quirk \|.*?\n\n', file.read_text() + '\n\n', re.S | re.M):
        first = re.findall(r'^\| ([^|]*) \|', table, re.MULTILINE)
        found |= {number for cell in first for number in re.findall(NUMBER, cell)
                  if re.fullmatch(LIST, cell)}
    return found | set(re.findall(r'arxiv(?:[ :]|\.org/abs/)(\d{4}\.\d{4,5})', text, re.I))


def numbers_in(group: str) -> set[str]:
    """``2.1, 2.3 to 2.5 and 4`` -> 2.1, 2.3, 2.4, 2.5, 4."""
    found = set(re.findall(NUMBER, group))
    for chapter, first, last in re.findall(r'(\d+)\.(\d+) to \1\.(\d+)', group):
        found |= {f'{chapter}.{number}' for number in range(int(first), int(last))}
    return found


def test_every_citation_has_a_row_among_the_sources_and_every_row_is_cited() -> None:
    assert numbers_in('2.1, 2.3 to 2.5 and 4') == {'2.1', '2.3', '2.4', '2.5', '4'}
    page = SOURCES.read_text()
    tables, papers = page.split('## Papers')[0], page.split('## Papers')[1]
    rows = re.findall(r'^\| <a id="([\w-]+)"></a>(\S+) \|', tables, re.MULTILINE)
    others = re.findall(r'^\| \[([^]]+)\]', papers, re.MULTILINE)
    assert all(anchor in (f'r-{name.replace(".", "-")}', name.lower()) for anchor, name in rows)
    known = [name for _, name in rows] + others
    assert len(known) == len(set(known))
    everything = {name: file for file in CITING for name in cited(file)}
    assert {name: str(file) for name, file in everything.items() if name not in known} == {}
    assert {name for _, name in rows} <= set(everything)
