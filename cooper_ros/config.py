"""Every default of the product, once.

ROS parameters, command-line flags, YAML files and the tables in the documentation are all made
from this one frozen dataclass: its field names, types, defaults and metadata. A value of -1 in
the ``drawing`` group means "as the model folder says" (`cooper.json`, else the published values).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Iterator, Mapping

from cooper_ros.errors import BadOption

MODES = ('auto', 'direct', 'text', 'maps')
EDGE_TYPES = ('checkpoint', 'drawn', 'picture')
RENORM_TYPES = ('checkpoint', 'global', 'channel', 'text_channel')
RUNTIMES = ('auto', 'torch', 'compile', 'onnx', 'tensorrt', 'torch_tensorrt')
ENGINES_MISSING = ('error', 'build', 'serve')
COMPILERS = ('inductor', 'aot_eager', 'eager')
DEVICES = ('auto', 'cpu', 'cuda')
DTYPES = ('auto', 'float32', 'bfloat16', 'float16')
LOAD_DRAWING = ('start', 'first_map')
TRANSPORTS = ('raw', 'compressed', 'both')
LEAST_SHIFT = 0.001  # of flow times; of smaller ones the first time is no number in float32
LONGEST_LENS = 100.0  # focal length over the longest side of a picture; a telescope's


def option(default: Any, group: str, help: str, *, unit: str = '', low: float | None = None,
           high: float | None = None, choices: tuple[str, ...] = (),
           read_only: bool = False) -> Any:
    """Declare one setting with all that its ROS parameter, flag and table row need."""
    return dataclasses.field(default=default, metadata={
        'group': group, 'help': help, 'unit': unit, 'low': low, 'high': high,
        'choices': choices, 'read_only': read_only})


@dataclass(frozen=True)
class CooperConfig:
    """All settings. Build changed copies with :meth:`replaced`."""

    # model: what is loaded, and where it runs
    model_path: str = option('models/cooper-nano', 'model', 'model folder', read_only=True)
    base_path: str = option('', 'model', 'folder with configs, tokenizer and VAE when the model '
                            'folder holds weights only; empty: the same folder', read_only=True)
    runtime: str = option('auto', 'model', 'how the network runs; auto takes the fastest that is '
                          'ready here and says why (`cooper doctor`)', choices=RUNTIMES,
                          read_only=True)
    engine_missing: str = option('error', 'model', 'when compiled engines are missing or do not '
                                 'fit; error: say what to run; build: build, then answer; serve: '
                                 'torch answers while they are built', choices=ENGINES_MISSING,
                                 read_only=True)
    engine_cache: str = option('', 'model', 'folder of exported graphs and compiled engines; '
                               "empty: the user's cache folder", read_only=True)
    engine_parts: int = option(1, 'model', 'graphs that the layers of the decoder are spread '
                               'over; compiling takes less memory with more of them', low=1,
                               high=1000, read_only=True)
    compile_backend: str = option('inductor', 'model', 'what torch.compile compiles with; '
                                  'inductor needs a C++ compiler', choices=COMPILERS,
                                  read_only=True)
    device: str = option('auto', 'model', 'where it runs; auto takes CUDA when present',
                         choices=DEVICES, read_only=True)
    dtype: str = option('auto', 'model', 'number type of the weights; auto is bfloat16 on CUDA, '
                        'float32 on the CPU', choices=DTYPES, read_only=True)
    load_drawing: str = option('start', 'model', 'when the weights that only drawing needs '
                               '(generation expert, autoencoder) are loaded; first_map leaves '
                               'them on disk until a map, or mode auto or maps, is asked for; '
                               'runtime torch only', choices=LOAD_DRAWING, read_only=True)
    threads: int = option(0, 'model', 'CPU threads; 0 leaves the choice to torch', low=0, high=256,
                          read_only=True)
    seed: int = option(0, 'model', 'seed of map noise and of sampled text', low=0, high=2**31 - 1)
    context_tokens: int = option(0, 'model', 'tokens the cache holds; 0 takes what max_turns '
                                 'turns and as many maps need', low=0, high=131072, read_only=True)

    # reasoning: how a question becomes text
    mode: str = option('auto', 'reasoning', 'auto: the model decides when to draw; direct: no '
                       'thinking, no maps; text: thinking, no maps; maps: both maps, then answer',
                       choices=MODES)
    max_turns: int = option(3, 'reasoning', 'text turns at most; one map fewer', low=1, high=16)
    max_turn_tokens: int = option(2048, 'reasoning', 'tokens of one turn at most; the model '
                                  'folder may say fewer', unit='tokens', low=1, high=16384)
    sample: bool = option(False, 'reasoning', 'sample the text instead of taking the likeliest '
                          'token')
    temperature: float = option(0.3, 'reasoning', 'softmax temperature when sampling', low=0.0,
                                high=10.0)
    top_p: float = option(1.0, 'reasoning', 'nucleus mass when sampling', low=0.0, high=1.0)
    repeat_stuck_turns: bool = option(False, 'reasoning', 'repeat a turn that neither draws nor '
                                      'answers, as the published loop does, instead of stopping')

    # drawing: rectified flow; -1 takes the value of the model folder
    flow_points: int = option(-1, 'drawing', 'steps in which a map is drawn, plus one: 2 is one '
                              'step; -1: as the model folder says', low=-1, high=1000)
    flow_shift: float = option(-1.0, 'drawing', 'shift of the flow times towards noise, '
                               f'{LEAST_SHIFT} or more; -1: as the model folder says', low=-1.0,
                               high=100.0)
    cfg_text: float = option(-1.0, 'drawing', 'text guidance scale; 1 switches it off; -1: as the '
                             'model folder says', low=-1.0, high=100.0)
    cfg_image: float = option(-1.0, 'drawing', 'image guidance scale; 1 switches it off; -1: as '
                              'the model folder says', low=-1.0, high=100.0)
    cfg_low: float = option(-1.0, 'drawing', 'guidance applies above this flow time; -1: as the '
                            'model folder says', low=-1.0, high=1.0)
    cfg_high: float = option(-1.0, 'drawing', 'guidance applies up to this flow time; -1: as the '
                             'model folder says', low=-1.0, high=1.0)
    cfg_renorm: str = option('checkpoint', 'drawing', 'renormalisation of the guided velocity',
                             choices=RENORM_TYPES)
    cfg_renorm_min: float = option(-1.0, 'drawing', 'least renormalisation factor; -1: as the '
                                   'model folder says', low=-1.0, high=1.0)
    depth_edges: str = option('checkpoint', 'drawing', 'where edges of depth in metres lie; '
                              'drawn: as the network drew them, mixtures of near and far '
                              'included; picture: where the colours of the picture change',
                              choices=EDGE_TYPES)
    sample_posterior: bool = option(True, 'drawing', 'sample the VAE posterior of condition '
                                    'images, as published; false takes its mean')

    # depth: metres only when somebody vouches for them
    depth_min_m: float = option(-1.0, 'depth', 'metres at relative depth 0; -1 takes the model '
                                "folder's range, if it has one", unit='m', low=-1.0, high=1000.0)
    depth_max_m: float = option(-1.0, 'depth', 'metres at relative depth 1; -1 as above',
                                unit='m', low=-1.0, high=1000.0)
    focal: float = option(0.0, 'depth', 'focal length of the camera over the longest side of its '
                          'pictures, for models that draw depth for one lens, where no '
                          'CameraInfo says it; 0: not known, and then a node gives no '
                          'metres with such models', low=0.0, high=LONGEST_LENS)

    # limits: what one request may cost
    time_budget_s: float = option(120.0, 'limits', 'seconds one request may take; 0 for no limit',
                                  unit='s', low=0.0, high=86400.0)
    max_question_chars: int = option(2000, 'limits', 'longest question', unit='characters', low=1,
                                     high=100000)
    max_image_pixels: int = option(40_000_000, 'limits', 'largest picture', unit='pixels', low=1,
                                   high=400_000_000)
    queue_size: int = option(4, 'limits', 'requests that may wait; more are refused as BUSY',
                             low=0, high=1000)

    # camera: what the node listens to
    image_transport: str = option('both', 'camera', 'subscribe to raw images, compressed ones or '
                                  'both: compressed while no raw ones arrive',
                                  choices=TRANSPORTS, read_only=True)
    image_reliable: bool = option(False, 'camera', 'ask for reliable delivery instead of best '
                                  'effort', read_only=True)
    buffer_images: int = option(30, 'camera', 'past images kept for questions about a stamp',
                                unit='images', low=1, high=10000)
    max_image_age_s: float = option(5.0, 'camera', 'oldest image a question without a stamp may '
                                    'use; 0 for any', unit='s', low=0.0, high=86400.0)
    stamp_tolerance_s: float = option(0.1, 'camera', 'how far the asked stamp and the image stamp '
                                      'may differ', unit='s', low=0.0, high=60.0)

    # node: life and output
    autostart: bool = option(True, 'node', 'configure and activate without being told',
                             read_only=True)
    map_rate_hz: float = option(0.0, 'node', 'draw maps of the newest image at this rate while '
                                'somebody subscribes; 0 draws on request only', unit='Hz', low=0.0,
                                high=60.0)
    worker_restarts: int = option(5, 'node', 'times a dead worker process is started again within '
                                  'a minute before the node gives up; read when configuring',
                                  low=0, high=1000)
    load_timeout_s: float = option(300.0, 'node', 'seconds the worker may take to load the model; '
                                   'read when configuring', unit='s', low=1.0, high=86400.0)
    diagnostics_rate_hz: float = option(1.0, 'node', 'rate of /diagnostics', unit='Hz', low=0.0,
                                        high=10.0)

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            check(entry, getattr(self, entry.name))
        if self.flow_points in (0, 1):
            raise BadOption('a flow needs two grid points', value=self.flow_points,
                            limit='flow_points >= 2, or -1')
        if 0 <= self.flow_shift < LEAST_SHIFT:
            raise BadOption('flow_shift leaves no flow times', value=self.flow_shift,
                            limit=f'flow_shift >= {LEAST_SHIFT}, or -1')
        if self.depth_min_m >= 0 and 0 <= self.depth_max_m <= self.depth_min_m:
            raise BadOption('depth_max_m must lie beyond depth_min_m', value=self.depth_max_m,
                            limit=f'> {self.depth_min_m}')

    def replaced(self, **changes: Any) -> CooperConfig:
        """Return a checked copy with some settings changed.

        Raises:
            BadOption: a name is unknown or a value is outside its range.
        """
        known = {entry.name for entry in dataclasses.fields(self)}
        for name in changes:
            if name not in known:
                raise BadOption('unknown setting', value=name, limit=', '.join(sorted(known)),
                                remedy='see `cooper config`')
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> CooperConfig:
        """Build from parsed YAML or ROS parameter values; the same checks apply."""
        return cls().replaced(**values)


def check(entry: dataclasses.Field, value: Any) -> None:
    """Check one value against the type, range and choices of its field.

    Raises:
        BadOption: naming the setting, the value and what is allowed.
    """
    kind = type(entry.default)
    if not (type(value) is kind or (kind is float and type(value) is int)):
        raise BadOption(f'{entry.name} has the wrong type', value=repr(value), limit=kind.__name__)
    low, high = entry.metadata['low'], entry.metadata['high']
    choices = entry.metadata['choices']
    if choices and value not in choices:
        raise BadOption(f'{entry.name} is not a choice', value=repr(value),
                        limit=', '.join(choices))
    if low is not None and not low <= value <= high:  # NaN fails here too
        raise BadOption(f'{entry.name} is out of range', value=value, limit=f'{low} .. {high}')


def options() -> Iterator[dataclasses.Field]:
    """All settings in order, for parameters, flags and tables."""
    return iter(dataclasses.fields(CooperConfig))
