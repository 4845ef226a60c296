"""The reward terms, the answer rules and the judge."""

from __future__ import annotations

import contextlib
import doctest
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Callable, Iterator

import pytest

from cooper_ros.errors import BadOption
from cooper_ros.scoring import answer_rules
from cooper_ros.scoring.judge import Claim, Judge, JudgeSettings
from cooper_ros.training import rewards
from cooper_ros.training.checker import JudgeChecker, RuleChecker, make_checker

DEPTH = '<think>how far</think>\n<depth-estimation>depth</depth-estimation>'
SEGMENT = '<think>which</think><segmentation>all</segmentation>'
LAST = '<think>so</think><answer>\\boxed{a}</answer>'


@pytest.mark.parametrize('module', [answer_rules, rewards])
def test_the_examples_in_the_docstrings_hold(module: object) -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted > 8 and outcome.failed == 0


@pytest.mark.parametrize('count', range(9))
@pytest.mark.parametrize('flag', ['positive', 'negative', 'boundary'])
def test_exploration_for_every_count_and_flag(count: int, flag: str) -> None:
    group = [[DEPTH, LAST]] * count + [[LAST]] * (8 - count)
    found = rewards.group_rewards(group, [0.0] * 8, flag)
    term = {'positive': 0.2 if count < 3 else 0.0, 'negative': -0.2 if count > 3 else 0.0,
            'boundary': 0.0}[flag]
    assert [entry.exploration for entry in found] == [term] * count + [0.0] * (8 - count)
    assert all(entry.format == 1.0 for entry in found)


def test_published_exploration_sees_only_the_second_tool_turn() -> None:
    literal = rewards.RewardOptions(published=True)
    group = [[DEPTH, LAST], [DEPTH, SEGMENT, LAST], ['not a turn', SEGMENT, LAST], [LAST]]
    found = rewards.group_rewards(group, [0.0] * 4, 'positive', literal)
    assert [entry.exploration for entry in found] == [0.0, 0.2, 0.2, 0.0]
    assert rewards.group_rewards(group, [0.0] * 4, 'positive')[0].exploration == 0.0  # 3 used


@pytest.mark.parametrize('turns, legal', [
    ([LAST], True), ([DEPTH, LAST], True), ([DEPTH, SEGMENT, LAST], True),
    ([DEPTH], False), ([LAST, LAST], False), ([DEPTH + 'more', LAST], False), ([], False),
    (['<depth-estimation>x</depth-estimation>', LAST], False),
    (['<think>a</think><answer>x'], False)])
def test_format_of_interleaved_rollouts(turns: list[str], legal: bool) -> None:
    assert rewards.format_reward(turns) == float(legal)


TWICE = '<think>a</think><segmentation>s</segmentation> junk <segmentation>t</segmentation>'
AGAIN = '<think>a</think><answer>1</answer> junk <answer>2</answer>'


@pytest.mark.parametrize('turns, style', [
    ([TWICE, LAST], 'interleaved'), ([AGAIN], 'interleaved'),
    (['<think>a</think><answer>1</answer></answer>'], 'interleaved'),
    ([f'<think>a</think>{SEGMENT}', LAST], 'interleaved'),
    (['<think>a</think> b</think><answer>1</answer>'], 'interleaved'),
    (['<think><depth-estimation>d</depth-estimation></think><answer>1</answer>'], 'interleaved'),
    (['<answer>1</answer> junk <answer>2</answer>'], 'maps')])
def test_nothing_stands_beside_the_one_call_or_answer(turns: list[str], style: str) -> None:
    """The published patterns go on to a later closing tag where the first is not the end."""
    options = rewards.RewardOptions(style=style, exploration=0.0)
    for published in (False, True):
        found, = rewards.group_rewards([turns], [0.0], 'boundary',
                                       replace(options, published=published))
        assert found.format == float(published)


def test_a_turn_with_two_calls_is_no_tool_turn() -> None:
    assert not rewards.is_tool_turn(TWICE) and not rewards.used_tools([TWICE, LAST])
    assert rewards.is_tool_turn(TWICE, published=True)
    assert rewards.used_tools([LAST, TWICE, LAST], published=True)


def test_words_may_hold_signs_and_anything_may_follow_thoughts_in_text() -> None:
    assert rewards.format_reward(['<think>x < 2 </ y> <answer</think><answer>1</answer>'])
    assert rewards.format_reward([AGAIN], 'text') == 1.0


def test_the_sum_and_the_text_only_weights() -> None:
    full = rewards.group_rewards([[DEPTH, LAST]], [1.0], 'positive')[0]
    assert full.total == pytest.approx(2.2)
    text = rewards.RewardOptions(style='text', format_weight=0.1, exploration=0.0)
    assert rewards.group_rewards([['<think>x</think> b']], [1.0], 'positive', text)[0].total == 1.1
    with pytest.raises(BadOption):
        rewards.RewardOptions(style='rhyme')


@pytest.mark.parametrize('style', rewards.STYLES)
def test_a_turn_that_was_cut_off_has_no_legal_form(style: str) -> None:
    """Not even in words only, where anything may follow the thoughts."""
    last = '<answer>a</answer>' if style == 'maps' else LAST
    for published, form in ((False, [1.0, 0.0]), (True, [1.0, 1.0])):
        options = rewards.RewardOptions(style=style, published=published)
        found = rewards.group_rewards([[last], [last]], [1.0, 1.0], 'boundary', options,
                                      [True, False])
        assert [terms.format for terms in found] == form


def test_advantages_sum_to_zero_and_use_the_sample_deviation() -> None:
    found = rewards.advantages([2.2, 1.0, 0.0, 1.0])
    assert sum(found) == pytest.approx(0, abs=1e-9)
    assert found[0] == pytest.approx((2.2 - 1.05) / (0.9 + 1e-4))
    with pytest.raises(BadOption):
        rewards.advantages([1.0])


@pytest.mark.parametrize('truth, response, question, wanted', [
    ('b', '<answer>\\boxed{B}</answer>', 'which? (a) can (b) box', 1),
    ('b', '<answer>the box</answer>', 'which? (a) can (b) box', 1),
    ('b', '<answer>can</answer>', 'which? (a) can (b) box', 0),
    ('yes', '<answer>Yes, it is.</answer>', '', 1), ('no', '<answer>yes</answer>', '', 0),
    ('2.0', '<answer>\\boxed{2.4}</answer>', 'how far in meters?', 1),
    ('2.0', '<answer>\\boxed{2.6}</answer>', 'how far in meters?', 0),
    ('2.0', '<answer>240 cm</answer>', 'how far in meters?', 1),
    ('2.0 m', '<answer>8 feet</answer>', '', 1), ('30 cm', '<answer>30 m</answer>', '', 0),
    ('4', '<answer>\\boxed{4}</answer>', 'how many?', 1),
    ('4', '<answer>four</answer>', 'how many?', 1), ('4', '<answer>5</answer>', 'how many?', 0),
    ('20', '<answer>22</answer>', 'how tall in centimeters?', 1),
    ('behind the sofa', '<answer>Behind sofa.</answer>', '', 1),
    ('B. red box', '<answer>B</answer>', '', 1), ('(B) red box', 'b', '', 1),
    ('B. red box', 'A', 'which? A. can B. red box', 0),
    ('red box', '<answer>B</answer>', 'which? A. can B. red box', 1),
    ('Yes.', 'yes', '', 1), ('Yes, it is.', 'no', '', 0), ('two', '2', 'how many?', 1),
    ('two', '3', 'how many?', 0), ('about 2 meters', '2 m', '', 1), ('about 2 meters', '3', '', 0),
    ('5 feet 9 inches', '1.75 m', '', 1), ('between 1 and 2 m', '1.5', '', 1),
    ('no', '<answer>I am not sure</answer>', 'is it?', 0), ('no', 'it is not', 'is it?', 1),
    ('no', 'I do not know, but I think no', 'is it?', 1),
    ('2.0', '<answer>far</answer>', '', 0), ('2.0', '', '', 0)])
def test_rules(truth: str, response: str, question: str, wanted: int) -> None:
    assert RuleChecker().scores([Claim(question, truth, response)]) == [float(wanted)]


@pytest.mark.parametrize('text, value, unit', [
    ('5 feet 9 inches', 5.75, 'ft'), ('4\'11"', 4 + 11 / 12, 'ft'), ('4′11″', 4 + 11 / 12, 'ft'),
    ('1 m 75 cm', 1.75, 'm'), ('1 m and 75 cm', 1.75, 'm'), ('5 ft, 9 in tall', 5.75, 'ft'),
    ('five feet nine inches', 5.75, 'ft'), ('1.5 m 30 cm', 30, 'cm'), ('75 cm 1 m', 1, 'm'),
    ('2 m 6 ft', 6, 'ft'), ('1.75 m ± 10 cm', 1.75, 'm'), ('1.75 ± 0.1 m', 1.75, 'm'),
    (r'\(1.75 \pm 0.1\) m', 1.75, 'm'), ('1.75 m, give or take 10 cm', 1.75, 'm'),
    ('1.75 m (5 ft 9 in)', 1.75, 'm'), ('2 m (about 6\'7")', 2, 'm'),
    ('0.8 m (the table is 2 m)', 2, 'm'), ('between 1 and 2 meters', 1.5, 'm'),
    ('between 50 cm and 1 m', 0.75, 'm'), ('1-2 m', 1.5, 'm'), ('1 -2 m', 1.5, 'm'),
    ('1 to 2', 1.5, ''), ('between 1 and 2 stands a box, 3 m away', 3, 'm'), ('-1.5', -1.5, ''),
    ('"2.5"', 2.5, ''), ('5"', 5, 'in'), ("5''", 5, 'in'), ('1,500 mm', 1500, 'mm'),
    ('two meters', 2, 'm'), ('30 in the room', 30, '')])
def test_lengths_in_words_of_every_form(text: str, value: float, unit: str) -> None:
    found = answer_rules.find_quantity(text)
    assert found is not None and (found.value, found.unit) == (pytest.approx(value), unit)


@pytest.mark.parametrize('truth', ['a man', 'A, then B', 'there is no chair', 'no idea',
                                   'I am not sure', 'the left one', '3/4/2025', "3 o'clock",
                                   '90 degrees clockwise', 'two steps left, one back'])
def test_free_text_stays_free_text(truth: str) -> None:
    assert answer_rules.kind_of(truth) == 'exact'


@pytest.mark.parametrize('text', [' ' * 20_000, '1 ' * 5_000, '1,' * 5_000, '(' * 20_000,
                                  '9' * 20_000, '1 m (' * 4_000, 'between 1 and ' * 1_000])
def test_what_a_policy_may_write_is_read_in_no_time(text: str) -> None:
    """Rules that look back at each other would take hours here."""
    for kind in ('mcq', 'yes_no', 'number', 'exact'):
        assert answer_rules.score(text, '2.5', 'how far in meters?', kind) == 0


def test_rules_can_grade_by_relative_accuracy() -> None:
    claim = Claim('how far in meters?', '1.0', '<answer>1.24</answer>')
    assert RuleChecker(grade='mra').scores([claim]) == [0.6]


Reply = tuple[int, str]


class Server:
    """A chat server on this machine that answers with a script and remembers what it was asked."""

    def __init__(self, script: Callable[[int, dict], Reply]) -> None:
        asked = self.asked = []  # type: list[dict]
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
                with lock:
                    asked.append({'path': self.path, 'key': self.headers['Authorization'], **body})
                    status, text = script(len(asked), body)
                data = text.encode() if status == -1 else json.dumps(
                    {'choices': [{'message': {'content': text}}]}).encode()
                self.send_response(200 if status == -1 else status)
                self.send_header('Content-Length', str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        self.server = HTTPServer(('127.0.0.1', 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server.server_port}/v1/'


@pytest.fixture
def judge() -> Iterator[Callable[[Callable[[int, dict], Reply]], Server]]:
    made = []

    def make(script: Callable[[int, dict], Reply]) -> Server:
        made.append(Server(script))
        return made[-1]
    yield make
    for entry in made:
        entry.server.shutdown()
        entry.server.server_close()


RIGHT = Claim('q?', 'the red box', '<think>hm</think><answer>\\boxed{crimson cube}</answer>')
WRONG = Claim('q?', 'the red box', '<answer>blue can</answer>')


def test_judge_is_asked_as_published(judge: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('OPENAI_API_KEY', 'sesame')
    server = judge(lambda _, body: (200, ' True\n' if 'crimson' in str(body) else 'false'))
    checker = JudgeChecker(Judge(JudgeSettings(server.url)))
    assert checker.scores([RIGHT, WRONG] * 20) == [1.0, 0.0] * 20
    sent = server.asked[0]
    assert (sent['path'], sent['key']) == ('/v1/chat/completions', 'Bearer sesame')
    assert (sent['temperature'], sent['max_tokens'], sent['model']) == (0, 512, 'qwen2.5-vl-72b')
    assert [message['role'] for message in sent['messages']] == ['system', 'user']
    assert '<think>' not in sent['messages'][1]['content']


def test_status_errors_back_off_and_other_replies_do_not(judge: Callable) -> None:
    script = {1: (500, 'x'), 2: (429, 'x'), 3: (200, 'maybe'), 4: (-1, 'not json'),
              5: (200, 'TRUE')}
    server = judge(lambda number, _: script[number])
    pauses: list[float] = []
    checker = JudgeChecker(Judge(JudgeSettings(server.url, backoff_s=0.5), pauses.append))
    assert checker.scores([RIGHT]) == [1.0]
    assert len(server.asked) == 5 and pauses == [0.5, 1.0] and checker.failed == 0


@pytest.mark.parametrize('published, wanted', [(False, 1.0), (True, 0.0)])
def test_a_judge_that_never_decides_leaves_it_to_the_rules(
        judge: Callable, published: bool, wanted: float) -> None:
    server = judge(lambda *_: (200, 'I cannot say'))
    checker = JudgeChecker(Judge(JudgeSettings(server.url)), published=published)
    claim = Claim('how many?', '4', '<answer>4</answer>')
    assert checker.scores([claim]) == [wanted]
    assert len(server.asked) == 5 and (checker.failed, checker.failed_share) == (1, 1.0)
    with pytest.raises(BadOption, match='1 of 1 claims failed, qwen2.5-vl-72b at .*key in OPENAI'):
        checker.require_verdicts()


def test_a_judge_that_fails_now_and_then_is_counted(judge: Callable) -> None:
    server = judge(lambda _, body: (200, 'true' if 'crimson' in str(body) else 'hm'))
    checker = JudgeChecker(Judge(JudgeSettings(server.url)))
    checker.scores([RIGHT, WRONG, RIGHT, WRONG])
    assert (checker.asked, checker.failed, checker.failed_share) == (4, 2, 0.5)
    checker.scores([WRONG])
    assert (checker.asked, checker.failed, checker.failed_share) == (5, 3, 1.0)
    checker.require_verdicts()  # it has judged before


def test_deeply_nested_replies_are_no_replies(judge: Callable) -> None:
    script = {1: (-1, '[' * 200_000), 2: (200, 'True')}
    server = judge(lambda number, _: script[number])
    assert Judge(JudgeSettings(server.url)).verdicts([RIGHT]) == [True]
    assert len(server.asked) == 2


@pytest.mark.parametrize('head', [b'', b'HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n'])
def test_a_reply_that_drips_is_cut_off_in_time(head: bytes) -> None:
    """Every byte comes well within the time of a try; the whole reply does not.

    Waited for to its end, it would be no reply, which is asked for again without a pause.
    """
    ended, drops = threading.Event(), iter(range(400))

    class Dripping(BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):  # it hangs up
                self.request.sendall(head)
                while not ended.wait(0.05) and next(drops, None) is not None:
                    self.request.sendall(b'H')

    with ThreadingTCPServer(('127.0.0.1', 0), Dripping) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        pauses: list[float] = []
        url = f'http://127.0.0.1:{server.server_address[1]}/v1'
        asked = Judge(JudgeSettings(url, attempts=2, timeout_s=0.3), pauses.append)
        verdicts = asked.verdicts([RIGHT])
        ended.set()
        server.shutdown()
    assert verdicts == [None] and pauses == [1.0]


def test_a_dead_address_is_tried_five_times(judge: Callable) -> None:
    server = judge(lambda *_: (200, 'True'))
    url = server.url
    server.server.shutdown()
    server.server.server_close()
    pauses: list[float] = []
    checker = JudgeChecker(Judge(JudgeSettings(url), pauses.append))
    assert checker.scores([Claim('how many?', '4', '<answer>5</answer>')]) == [0.0]
    assert pauses == [1.0, 2.0, 4.0, 8.0] and checker.failed == 1


def test_checker_settings_are_checked() -> None:
    assert isinstance(make_checker({'grade': 'mra', 'judge': {'url': 'http://x'}}), JudgeChecker)
    assert make_checker({'tolerance': 0.1}) == RuleChecker(tolerance=0.1)
    for wrong in ({'tolerence': 0.1}, {'judge': {'address': 'x'}}, {'grade': 'school'}):
        with pytest.raises(BadOption):
            make_checker(wrong)
