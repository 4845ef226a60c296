"""A language model as judge, behind an OpenAI-compatible address (reference section 11.3)."""

from __future__ import annotations

import http.client
import io
import json
import os
import socket
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Sequence, TypeVar
from urllib.parse import urlsplit

from cooper_ros.engine.answers import answer_text, short_answer
from cooper_ros.errors import BadOption
from cooper_ros.scoring.quantities import lone_quantity

SYSTEM = ('You decide whether a predicted answer to a question about a picture is correct. '
          'Synonyms and paraphrases of the ground truth are correct.')
USER = """Question: {question}
Ground truth: {truth}
Predicted answer: {prediction}

Rules:
1. The prediction must answer this question.
2. An open answer is correct if it means the same as the ground truth. A definite answer (option,
   yes or no, number) must equal the ground truth; numbers are compared with their units.
3. Reply with one word only: True or False."""
READ_SYSTEM = ('You read which number an answer to a question about a picture states. Whether it '
               'is right is not your concern.')
READ_USER = """Question: {question}
Answer: {prediction}

Rules:
1. Reply with the number that the answer states as its result, in digits, and with its unit if the
   answer names one, such as 1.5 m. Of a range, reply with the middle.
2. If the answer states no number, reply None. Reply with nothing else."""
NO_NUMBER = 'none'


@dataclass(frozen=True)
class Claim:
    """One answer to be checked.

    Attributes:
        question: as the policy read it.
        truth: ground truth.
        response: the last turn of the rollout.
    """

    question: str
    truth: str
    response: str


NO_REPLY = (ValueError, KeyError, IndexError, TypeError, http.client.HTTPException,
            RecursionError)  # the last one: thousands of nested brackets
# Pauses and time-outs end at what clocks accept: the last pause is 2^19 units long.
RANGES = (('attempts', 1, 20), ('timeout_s', 0.1, 86400), ('threads', 1, 1024),
          ('max_tokens', 1, 10**6), ('backoff_s', 0, 3600))
Said = TypeVar('Said', bool, str)
EASY = Claim('What is one plus one?', '2', '2')  # a judge that fails here is none


@dataclass(frozen=True)
class JudgeSettings:
    """Where the judge is and how it is asked; values of the published recipe.

    Attributes:
        url: base address, such as ``http://localhost:8000/v1``.
        model: name sent with the request.
        key_variable: environment variable with the key; ``-`` is sent where it is not set.
        attempts: tries per claim.
        timeout_s: seconds of one try, the whole reply among them.
        threads: claims asked at the same time.
        max_tokens: longest reply.
        backoff_s: unit of the pause after a connection or status error: 2^attempt of it.

    Raises:
        BadOption: the address is none, or a number is out of its range.
    """

    url: str
    model: str = 'qwen2.5-vl-72b'
    key_variable: str = 'OPENAI_API_KEY'
    attempts: int = 5
    timeout_s: float = 30.0
    threads: int = 32
    max_tokens: int = 512
    backoff_s: float = 1.0

    def __post_init__(self) -> None:
        if not _is_address(self.url):
            raise BadOption('the address of the judge is no web address', value=self.url,
                            limit='http://HOST:PORT/v1, or https')
        for name, least, most in RANGES:
            if not least <= getattr(self, name) <= most:
                raise BadOption(f'judge.{name} is out of range', value=getattr(self, name),
                                limit=f'{least} .. {most}')


def _is_address(url: object) -> bool:
    try:
        parts = urlsplit(str(url))
        return (parts.scheme in ('http', 'https') and bool(parts.hostname) and parts.port != 0
                and str(url).split() == [url])
    except ValueError:  # a port that is no number, half an IPv6 address
        return False


@dataclass(frozen=True)
class Judge:
    """Asks a chat model; see :class:`JudgeSettings`."""

    settings: JudgeSettings
    pause: Callable[[float], None] = field(default=time.sleep, repr=False)

    def verdicts(self, claims: Sequence[Claim]) -> list[bool | None]:
        """Whether each claim is right; None where the judge never said True or False."""
        return self._all(claims, SYSTEM, USER, _verdict)

    def numbers(self, claims: Sequence[Claim]) -> list[str | None]:
        """The number each response states, with its unit; the judge is not told the truth.

        Empty where the judge says that there is none; None where it gave no usable reply.
        """
        return self._all(claims, READ_SYSTEM, READ_USER, _number)

    def _all(self, claims: Sequence[Claim], system: str, user: str,
             read: Callable[[str], Said | None]) -> list[Said | None]:
        ask = partial(self._judge, system=system, user=user, read=read)
        with ThreadPoolExecutor(self.settings.threads) as pool:
            return list(pool.map(ask, claims))

    def require(self) -> None:
        """Ask one easy question: a judge that is not there shall be noticed before hours of work.

        Raises:
            BadOption: there is no verdict.
        """
        if self.verdicts([EASY]) != [None]:
            return
        asked = self.settings
        raise BadOption('the judge does not judge', value=f'{asked.model} at {asked.url}',
                        limit='replies of True or False',
                        remedy='see that the server runs and knows the model, and check '
                               f'--judge-url, --judge-model and the key in {asked.key_variable}')

    def _judge(self, claim: Claim, system: str, user: str,
               read: Callable[[str], Said | None]) -> Said | None:
        for attempt in range(self.settings.attempts):
            try:
                said = read(self._ask(claim, system, user).strip())
            except OSError:  # connection, time-out and status errors, all of urllib's
                if attempt + 1 < self.settings.attempts:
                    self.pause(self.settings.backoff_s * 2 ** attempt)
                continue
            except NO_REPLY:
                continue  # no reply of a chat server: tried again at once, as published
            if said is not None:
                return said
        return None

    def _ask(self, claim: Claim, system: str, user: str) -> str:
        settings = self.settings
        asked = user.format(question=claim.question, truth=claim.truth,
                            prediction=answer_text(claim.response))
        body = {'model': settings.model, 'temperature': 0, 'max_tokens': settings.max_tokens,
                'messages': [{'role': 'system', 'content': system},
                             {'role': 'user', 'content': asked}]}
        key = os.environ.get(settings.key_variable) or '-'
        request = urllib.request.Request(
            settings.url.rstrip('/') + '/chat/completions', json.dumps(body).encode(),
            {'Content-Type': 'application/json', 'Authorization': f'Bearer {key}'})
        until = time.monotonic() + settings.timeout_s
        opener = urllib.request.build_opener(_Http(until), _Https(until))
        with opener.open(request, timeout=settings.timeout_s) as reply:
            content = json.load(reply)['choices'][0]['message']['content']
        if not isinstance(content, str):  # null, from a server that refused or was cut off
            raise TypeError(f'the content of a reply is no text: {content!r}')
        return content


def _verdict(reply: str) -> bool | None:
    return {'true': True, 'false': False}.get(_word(reply))


def _word(reply: str) -> str:
    """A reply of one word, without what may stand around it."""
    return reply.lower().strip(' \n.*`"\'')


def _number(reply: str) -> str | None:
    """The reply, if it is a number and nothing else; chat about numbers states none."""
    if _word(reply) == NO_NUMBER:
        return ''
    return reply if lone_quantity(short_answer(reply)) else None


class _Until(io.RawIOBase):
    """Reads a socket up to a deadline; a socket's own time-out begins anew with every byte."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, until: float) -> None:
        self.raw, self.sock, self.until = raw, sock, until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError('the reply was not whole in time')
        self.sock.settimeout(left)
        return self.raw.readinto(buffer)

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Reply(http.client.HTTPResponse):
    """A reply whose head and body must be there before a deadline."""

    def __init__(self, until: float, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_Until(self.fp.detach(), sock, until))


class _InTime:
    """Makes a handler of urllib read its replies as :class:`_Reply`."""

    def __init__(self, until: float) -> None:
        super().__init__()
        self.until = until

    def do_open(self, connect: Callable, request: urllib.request.Request, **options: Any) -> Any:
        """As urllib's own."""
        def connected(*args: Any, **named: Any) -> http.client.HTTPConnection:
            connection = connect(*args, **named)
            connection.response_class = partial(_Reply, self.until)
            return connection
        return super().do_open(connected, request, **options)  # type: ignore[misc]


class _Http(_InTime, urllib.request.HTTPHandler):
    """HTTP with a deadline."""


class _Https(_InTime, urllib.request.HTTPSHandler):
    """HTTPS with a deadline."""
