"""One error family for the whole product.

Every error carries four things: a stable code (the same number goes over the wire in
``error_code``), the offending value, the limit it broke and the remedy. Codes never change
meaning and are never reused; a new cause gets a new number in its range:
1xx the request, 2xx the model folder, 3xx the run, 4xx compiled engines, 5xx bags and data.
"""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """Stable numbers, equal in Python, in actions and services, and in diagnostics."""

    NONE = 0
    BAD_IMAGE = 100
    BAD_QUESTION = 101
    NO_IMAGE = 102
    STALE_IMAGE = 103
    BAD_CAMERA_INFO = 104
    BAD_OPTION = 105
    BAD_CHECKPOINT = 200
    BAD_PROMPTS = 201
    NO_SCALE = 202
    NO_ANSWER = 300
    BUSY = 301
    CANCELED = 302
    DEADLINE = 303
    OUT_OF_MEMORY = 304
    ENGINE_LOST = 305
    NOT_READY = 306
    CONTEXT_FULL = 307
    OUT_OF_DISK = 308
    INTERNAL = 399
    ENGINE_MISMATCH = 400
    ENGINE_BUILD = 401
    BAD_BAG = 500
    BAD_DATA = 501


class CooperError(Exception):
    """Base of every error this product raises on purpose.

    Value and limit are kept as the text that messages show: an object may hold what no pipe
    carries, and the true cause would be lost on its way from the worker process.

    Args:
        what: one sentence, what went wrong.
        value: the offending value, as the caller gave it.
        limit: what would have been accepted.
        remedy: what the reader should do next.
    """

    code: ErrorCode = ErrorCode.INTERNAL

    def __init__(self, what: str, *, value: object = None, limit: object = None,
                 remedy: str = '') -> None:
        self.what, self.remedy = what, remedy
        self.value, self.limit = _text_of(value), _text_of(limit)
        super().__init__(self._message())

    def _message(self) -> str:
        parts = [f'{self.code.name}: {self.what}']
        if self.value is not None:
            parts.append(f'got {self.value}')
        if self.limit is not None:
            parts.append(f'allowed: {self.limit}')
        if self.remedy:
            parts.append(f'remedy: {self.remedy}')
        return '; '.join(parts)

    def __reduce__(self) -> tuple:
        """Survive the pipe between the node and its worker process."""
        return _rebuild, (type(self), self.what, self.value, self.limit, self.remedy)


def _text_of(value: object) -> str | None:
    """What a message shows of a value; one that cannot be shown must not hide the error."""
    if value is None:
        return None
    try:
        return f'{value}'
    except Exception as error:  # whatever its own text raises
        return f'a {type(value).__name__} that cannot be shown ({type(error).__name__})'


def _rebuild(cls: type[CooperError], what: str, value: object, limit: object,
             remedy: str) -> CooperError:
    return cls(what, value=value, limit=limit, remedy=remedy)


def as_cooper_error(error: Exception, what: str) -> CooperError:
    """Keep errors of our family, name all others: whoever waits must get an answer."""
    if isinstance(error, CooperError):
        return error
    return CooperError(f'{what}: {type(error).__name__}', value=str(error)[:500],
                       remedy='please report this with the log')


def class_of(code: int) -> type[CooperError]:
    """The error class of a code, as it came over a pipe or the wire.

    Returns:
        the base, whose code is ``INTERNAL``, for a code that has no class of its own.
    """
    return next((kind for kind in CooperError.__subclasses__() if kind.code == code), CooperError)


class BadImage(CooperError):
    """The picture cannot be used: encoding, size, step or content."""

    code = ErrorCode.BAD_IMAGE


class BadQuestion(CooperError):
    """The question is empty, too long or not text."""

    code = ErrorCode.BAD_QUESTION


class NoImage(CooperError):
    """No picture has arrived yet, or none at the stamp asked about."""

    code = ErrorCode.NO_IMAGE


class StaleImage(CooperError):
    """The newest picture is older than allowed."""

    code = ErrorCode.STALE_IMAGE


class BadCameraInfo(CooperError):
    """Intrinsics that no lens has: zero, negative, or not finite."""

    code = ErrorCode.BAD_CAMERA_INFO


class BadOption(CooperError):
    """A setting or a request field is outside its range."""

    code = ErrorCode.BAD_OPTION


class BadCheckpoint(CooperError):
    """A model folder is incomplete or does not fit the network."""

    code = ErrorCode.BAD_CHECKPOINT


class BadPrompts(CooperError):
    """Prompt texts are missing or are not the ones the weights were trained with."""

    code = ErrorCode.BAD_PROMPTS


class NoScale(CooperError):
    """Metres were asked for, but no scale is known."""

    code = ErrorCode.NO_SCALE


class NoAnswer(CooperError):
    """The model finished, or was cut off, without an answer."""

    code = ErrorCode.NO_ANSWER


class Busy(CooperError):
    """The queue is full."""

    code = ErrorCode.BUSY


class Canceled(CooperError):
    """The caller took the request back."""

    code = ErrorCode.CANCELED


class DeadlineExceeded(CooperError):
    """The time budget ran out before any answer existed."""

    code = ErrorCode.DEADLINE


class OutOfMemory(CooperError):
    """The device had no memory left for this request."""

    code = ErrorCode.OUT_OF_MEMORY


class EngineLost(CooperError):
    """The worker process died while it held the request."""

    code = ErrorCode.ENGINE_LOST


class NotReady(CooperError):
    """The model is still loading, or the node is not active."""

    code = ErrorCode.NOT_READY


class ContextFull(CooperError):
    """The conversation no longer fits the cache."""

    code = ErrorCode.CONTEXT_FULL


class OutOfDisk(CooperError):
    """A file does not fit its disk; nothing half written was left."""

    code = ErrorCode.OUT_OF_DISK


class EngineMismatch(CooperError):
    """A compiled engine was built for something else."""

    code = ErrorCode.ENGINE_MISMATCH


class EngineBuild(CooperError):
    """A compiled engine could not be built."""

    code = ErrorCode.ENGINE_BUILD


class BadBag(CooperError):
    """A recording cannot be read."""

    code = ErrorCode.BAD_BAG


class BadData(CooperError):
    """A data set or a row of it cannot be used."""

    code = ErrorCode.BAD_DATA
