"""Write docs/interfaces.md: what a running node really offers, and every setting.

    .venv/bin/python scripts/make_docs.py           write the page
    .venv/bin/python scripts/make_docs.py --check   exit 1 if the page is out of date
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / 'docs' / 'interfaces.md'
HEAD = """# Topics, services, actions, parameters

Made by `scripts/make_docs.py` from a running node, the interface files and the settings; a test
fails when it is out of date. Names are those of a node called `cooper` with one camera. With
several cameras (`cameras: ["front", "rear"]`) each has its own image topics (`front/image`) and
map topics (`/cooper/front/relative_depth`).
"""
CODES = """## Error codes

The numbers of every `error_code` (`cooper_interfaces/msg/ErrorCode`, and `ErrorCode` of
`cooper_ros.errors`). An `error_msg` begins with the name of its code, then says what went wrong,
the offending value, the limit and the remedy. A number never changes its meaning.

A goal of `/cooper/reason` is rejected without a code while the node is not active, has no engine
or its queue is full: ROS carries none with a rejection, and the log says why. Services and
`/cooper/question` are answered with it. `BAD_CAMERA_INFO` comes with `require_metres` alone, where
camera info came that cannot be used (`NO_SCALE` where none came); all else is answered without
metres, and the log and `/diagnostics` say why.
"""
MEANING = {
    '/image': 'the camera; best effort unless `image_reliable`. 16UC1 and float images are depth '
              'and are refused',
    '/image/compressed': 'the same as JPEG or PNG; follows a remap of `image`',
    '/camera_info': 'intrinsics: they scale metres, and are republished scaled to the maps; '
                    'those of other pictures are not believed',
    '/cooper/question': 'plain text question about the newest image; answered in any state of '
                        'the node, by a refusal while it is not active',
    '/cooper/answer_text': 'the answer to a question on `/cooper/question` as it is said, or an '
                           'error text that starts with the name of its code',
    '/cooper/answer': 'the end of every question that was taken in, stamped like the image it is '
                      'about, and every refusal of one on `/cooper/question`',
    '/cooper/relative_depth': '32FC1 in 0..1, 0 near, 1 far, linear along optical Z; never metres',
    '/cooper/relative_depth/colored': 'rgb8 view: red near, violet far',
    '/cooper/depth/image': '32FC1 metres along optical Z (REP-118); silent while scale or '
                          'lens are unknown',
    '/cooper/depth/camera_info': 'intrinsics of `depth/image`',
    '/cooper/segmentation/mask': 'mono8 ids of the legend, 255 where no label fits',
    '/cooper/segmentation/legend': 'what the ids mean; latched',
    '/cooper/segmentation/colored': 'rgb8 as drawn',
    '/cooper/overlay': 'rgb8: the picture with its segmentation',
    '/diagnostics': 'state of engine, queue, cameras and last request',
    '/cooper/query': 'a bounded question without maps',
    '/cooper/estimate_depth': 'one depth map',
    '/cooper/segment': 'one segmentation',
    '/cooper/reason': 'a question with reasoning and maps, streamed and cancellable',
}
# Types of what every lifecycle node has: parameters, logs, time, transitions.
STANDARD = ('rcl_interfaces/', 'rosgraph_msgs/', 'lifecycle_msgs/', 'type_description_interfaces/')


def rows(title: Sequence[str], lines: Iterator[Sequence[str]]) -> str:
    """A Markdown table."""
    head = ['| ' + ' | '.join(title) + ' |', '| ' + ' | '.join('---' for _ in title) + ' |']
    return '\n'.join([*head, *('| ' + ' | '.join(line) + ' |' for line in lines)])


def describe(names: list[tuple[str, list[str]]]) -> Iterator[Sequence[str]]:
    """Rows of (name, type, meaning) for what is not part of every ROS node."""
    for name, kinds in sorted(names):
        if kinds[0].startswith(STANDARD) or '/_action/' in name:
            continue
        if name not in MEANING:  # left out, it would be missing from the page unnoticed
            raise SystemExit(f'{name} ({kinds[0]}) has no line in MEANING of scripts/make_docs.py')
        yield f'`{name}`', f'`{kinds[0]}`', MEANING[name]


def interface_fields(kind: str) -> str:
    """The definition of a type of cooper_interfaces, as it is in its file."""
    folder, name = kind.split('/')[1:]
    return (ROOT / 'cooper_interfaces' / folder / f'{name}.{folder}').read_text().rstrip()


def node_tables() -> str:
    """Start an unconfigured node in this process and read the graph."""
    import rclpy
    from rclpy.action import get_action_server_names_and_types_by_node as servers

    from cooper_ros.node.lifecycle import CooperNode
    rclpy.init(args=['--ros-args', '-p', 'autostart:=false'])
    node = CooperNode()
    node.trigger_configure()
    me = node.get_name(), node.get_namespace()
    published = node.get_publisher_names_and_types_by_node(*me)
    subscribed = node.get_subscriber_names_and_types_by_node(*me)
    services = node.get_service_names_and_types_by_node(*me)
    actions = servers(node, *me)
    node.trigger_shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    tables = [f'## {name}\n\n' + rows((name.rstrip('s').lower(), 'type', 'meaning'),
                                      describe(found))
              for name, found in (('Subscribed topics', subscribed),
                                  ('Published topics', published), ('Services', services),
                                  ('Actions', actions))]
    used = sorted({kinds[0] for _, kinds in (*published, *services, *actions)
                   if kinds[0].startswith('cooper_interfaces/')})
    files = '\n\n'.join(f'### {kind}\n\n```\n{interface_fields(kind)}\n```' for kind in used
                        if '/_' not in kind and not re.search(r'_(Send|Get|Feedback)', kind))
    return '\n\n'.join(tables) + '\n\n## Interface files\n\n' + files


def error_codes() -> str:
    """Every code with its number and meaning, as the message file has it."""
    text = interface_fields('cooper_interfaces/msg/ErrorCode')
    found = re.findall(r'^uint16 (\w+)=(\d+) *#? *(.*)$', text, re.MULTILINE)
    return CODES + '\n' + rows(('code', 'name', 'meaning'), (
        (number, f'`{name}`', meaning or 'all is well') for name, number, meaning in found))


def page() -> str:
    """The whole page."""
    from cooper_ros.cli.settings import settings_markdown
    return (f'{HEAD}\n{node_tables()}\n\n{error_codes()}\n\n## Parameters\n\nThe same names are '
            'keys of YAML files and of `--set NAME=VALUE`; commands have flags for some. One more '
            'is of the node\nalone: `cameras`, string[], fixed at start, the names of the cameras '
            f'(above).\n\n{settings_markdown().strip()}\n')


def main() -> int:
    """Write or check."""
    text = page()
    if '--check' in sys.argv[1:]:
        return int(text != PAGE.read_text())
    PAGE.write_text(text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
