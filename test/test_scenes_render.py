"""Scenes: exact depth and labels against an independently compiled MuJoCo model."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
from PIL import Image

from cooper_ros.errors import BadOption
from cooper_ros.scenes.palette import COLOURS, FLOOR, SCENE_PALETTE, TABLE, WALL, palette_rgb
from cooper_ros.scenes.preview import preview
from cooper_ros.scenes.render import Frame, render
from cooper_ros.scenes.room import SimulatedRoom
from cooper_ros.scenes.sample import MIN_OBJECTS, sample_scene
from cooper_ros.scenes.scene import HANDLE_RATIO, MAX_DEPTH_M, MIN_DEPTH_M, Scene, SceneObject
from cooper_ros.scenes.truth import describe

SEEDS = range(12)


def geom(kind: str, size: str, at: str = '0 0 0', euler: str = '0 0 0', name: str = '') -> str:
    return f'<geom type="{kind}" size="{size}" pos="{at}" euler="{euler}" name="{name}"/>'


def body_of(thing: SceneObject, index: int) -> str:
    """The object's form said once more, from its documented extents."""
    x, y, z = (extent / 2 for extent in thing.size)
    names = (f'{index}:a', f'{index}:b')
    inner = {
        'box': lambda: geom('box', f'{x} {y} {z}', name=names[0]),
        'ball': lambda: geom('sphere', f'{x}', name=names[0]),
        'can': lambda: geom('cylinder', f'{x} {z}', name=names[0]),
        'pill': lambda: geom('capsule', f'{y} {x - y}', euler='0 90 0', name=names[0]),
        'egg': lambda: geom('ellipsoid', f'{x} {y} {z}', name=names[0]),
        'cup': lambda: cup(thing, names),
    }[thing.shape]()
    at = ' '.join(str(value) for value in thing.centre)
    return f'<body pos="{at}" euler="0 0 {math.degrees(thing.yaw)}">{inner}</body>'


def cup(thing: SceneObject, names: tuple[str, str]) -> str:
    wide, tall = thing.size[1], thing.size[2]
    radius = min(HANDLE_RATIO * wide, 0.4 * tall)
    return (geom('cylinder', f'{wide / 2} {tall / 2}', f'{-HANDLE_RATIO * wide / 2} 0 0',
                 name=names[0])
            + geom('cylinder', f'{radius} {wide * 0.07}', f'{thing.size[0] / 2 - radius} 0 0',
                   '90 0 0', names[1]))


def compiled(scene: Scene) -> mujoco.MjModel:
    """The whole scene as an ordinary MuJoCo model, walls and all."""
    w, n, h = scene.room.width / 2, scene.room.length / 2, scene.room.height
    parts = [geom('box', '9 9 .5', '0 0 -.5', name='floor'),
             geom('box', '9 9 .5', f'0 0 {h + .5}', name='ceiling'),
             geom('box', '.5 9 9', f'{w + .5} 0 0'), geom('box', '.5 9 9', f'{-w - .5} 0 0'),
             geom('box', '9 .5 9', f'0 {n + .5} 0'), geom('box', '9 .5 9', f'0 {-n - .5} 0')]
    parts += [body_of(thing, index) for index, thing in enumerate(scene.objects)]
    table = scene.table
    if table is not None:
        half = table.thickness / 2
        rise = (table.height - table.thickness) / 2
        legs = ''.join(geom('box', f'{table.leg / 2} {table.leg / 2} {rise}',
                            f'{sx * (table.size[0] / 2 - table.leg)} '
                            f'{sy * (table.size[1] / 2 - table.leg)} {rise}', name=f't{sx}{sy}')
                       for sx in (-1, 1) for sy in (-1, 1))
        top = geom('box', f'{table.size[0] / 2} {table.size[1] / 2} {half}',
                   f'0 0 {table.height - half}', name='top')
        parts.append(f'<body pos="{table.centre[0]} {table.centre[1]} 0" '
                     f'euler="0 0 {math.degrees(table.yaw)}">{top}{legs}</body>')
    xml = f'<mujoco><compiler angle="degree"/><worldbody>{"".join(parts)}</worldbody></mujoco>'
    return mujoco.MjModel.from_xml_string(xml)


def owner_of(name: str) -> int:
    if ':' in name:
        return int(name.split(':')[0])
    return -2 if name.startswith('t') else -1


@pytest.mark.parametrize('seed', range(0, 60, 5))
def test_depth_and_instances_equal_a_compiled_model(seed: int) -> None:
    scene = sample_scene(seed, 'test')
    frame = render(scene, smooth=False)
    model = compiled(scene)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    k, rotation = frame.intrinsics, scene.camera.rotation()
    rng, same = np.random.default_rng(seed), 0
    for v, u in zip(rng.integers(0, 96, 250), rng.integers(0, 128, 250)):
        local = np.array([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], 1.0])
        ray = rotation @ (local / np.linalg.norm(local))
        hit = np.zeros(1, np.int32)
        length = mujoco.mj_ray(model, data, np.array(scene.camera.position), ray, None, 1, -1, hit)
        z = length / np.linalg.norm(local)  # a ray's length is longer than its depth
        assert abs(z - frame.depth_m[v, u]) < 1e-4
        name = mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_GEOM, int(hit[0])) or ''
        same += owner_of(name) == frame.instance[v, u]
    assert same >= 249  # two faces may share an edge


def test_the_rotation_is_an_optical_frame() -> None:
    for seed in SEEDS:
        rotation = sample_scene(seed).camera.rotation()
        assert np.allclose(rotation.T @ rotation, np.eye(3))
        assert np.isclose(np.linalg.det(rotation), 1.0)
        assert rotation[2, 1] < -0.3  # y points down
        assert abs(rotation[2, 0]) < 0.1  # x lies level but for a slight roll


def test_a_visible_ball_lies_where_its_centre_projects() -> None:
    seen = 0
    for seed in range(60):
        scene = sample_scene(seed)
        frame = render(scene, smooth=False)
        for truth in describe(scene, frame):
            if truth.thing.shape != 'ball' or truth.cut or truth.hidden > 0 or truth.pixels < 60:
                continue
            u, v = scene.camera.project(np.array(truth.thing.centre), 128, 96)
            u, v = int(round(u)), int(round(v))
            assert frame.instance[v, u] == truth.index
            radius = truth.thing.size[0] / 2
            k = frame.intrinsics
            ray = np.hypot((u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1])
            expected = (truth.distance - radius) / math.sqrt(1 + ray ** 2)
            assert abs(frame.depth_m[v, u] - expected) < 0.02 * expected
            seen += 1
    assert seen >= 10


def test_depth_stays_in_the_promised_range_and_objects_keep_their_distance() -> None:
    for seed in range(40):
        for split in ('train', 'test'):
            scene = sample_scene(seed, split)
            depth = render(scene, 64, 48, smooth=False).depth_m
            assert MIN_DEPTH_M < depth.min() and depth.max() < MAX_DEPTH_M
            assert len(scene.objects) >= MIN_OBJECTS


def test_objects_neither_float_nor_overlap() -> None:
    for seed in range(40):
        scene = sample_scene(seed)
        for index, thing in enumerate(scene.objects):
            floor = scene.table.height if thing.on_table and scene.table else 0.0
            assert math.isclose(thing.centre[2] - thing.size[2] / 2, floor, abs_tol=1e-9)
            for other in scene.objects[index + 1:]:
                if other.on_table == thing.on_table:
                    apart = math.dist(thing.centre[:2], other.centre[:2])
                    assert apart > thing.footprint + other.footprint


def test_hidden_share_agrees_with_a_scene_holding_that_object_only() -> None:
    hidden = 0
    for seed in range(25):
        scene = sample_scene(seed)
        frame = render(scene, smooth=False)
        for truth in describe(scene, frame):
            lonely = replace(scene, objects=(truth.thing,), table=None)
            alone = (render(lonely, smooth=False).instance == 0).sum()
            assert truth.alone_pixels == max(alone, truth.pixels)
            assert truth.pixels == (frame.instance == truth.index).sum()
            covered = sum(truth.hidden_by.values())
            assert covered == truth.alone_pixels - truth.pixels
            hidden += truth.hidden > 0.15
    assert hidden >= 5


def test_labels_follow_instances() -> None:
    names = {entry.id: entry.name for entry in SCENE_PALETTE}
    for seed in SEEDS:
        scene = sample_scene(seed)
        frame = render(scene)
        for index, thing in enumerate(scene.objects):
            assert {names[i] for i in frame.labels[frame.instance == index]} <= {thing.colour}
        assert set(np.unique(frame.labels[frame.instance == -1])) <= {WALL, FLOOR}
        assert set(np.unique(frame.labels[frame.instance == -2])) <= {TABLE}


def test_palette_is_separable_and_complete() -> None:
    rgb = palette_rgb().astype(float)
    apart = np.linalg.norm(rgb[:, None] - rgb, axis=-1) + 1e3 * np.eye(len(rgb))
    assert apart.min() >= 127
    assert [entry.id for entry in SCENE_PALETTE] == list(range(len(SCENE_PALETTE)))
    assert {entry.name for entry in SCENE_PALETTE} == {'wall', 'floor', 'table', *COLOURS}


def test_segmentation_target_decodes_back_to_labels() -> None:
    frame = render(sample_scene(3))
    apart = np.linalg.norm(frame.segmentation[:, :, None].astype(float) - palette_rgb(), axis=-1)
    assert np.array_equal(apart.argmin(-1), frame.labels)


def same(a: Frame, b: Frame) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name))
               for name in ('rgb', 'depth_m', 'instance', 'labels', 'intrinsics'))


def test_the_same_seed_gives_the_same_bits_whatever_came_before() -> None:
    first = render(sample_scene(5))
    for seed in (1, 2, 3):
        render(sample_scene(seed), 40, 30)
    assert sample_scene(5) == sample_scene(5)
    assert same(first, render(sample_scene(5)))
    assert not np.array_equal(first.rgb, render(sample_scene(6)).rgb)


def test_noise_seed_changes_the_picture_only() -> None:
    scene = sample_scene(2)
    a, b = render(scene), render(scene, noise_seed=1)
    assert not np.array_equal(a.rgb, b.rgb)
    assert np.array_equal(a.depth_m, b.depth_m) and np.array_equal(a.labels, b.labels)
    assert np.abs(a.rgb.astype(int) - b.rgb).mean() < 6


def test_shadows_fall_where_the_compiled_model_blocks_the_lamp() -> None:
    """Without ambient light, floor and table top are black exactly where a ray is stopped."""
    blocked = 0
    for seed in (1, 9, 21):
        scene = sample_scene(seed)
        light = replace(scene.light, ambient=(0.0, 0.0, 0.0), noise=0.0)
        frame = render(replace(scene, light=light), smooth=False)
        model = compiled(scene)
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        k, lamp = frame.intrinsics, np.array(light.position)
        wrong = 0
        floor = np.argwhere(frame.labels == FLOOR)[::7]
        for v, u in floor:
            local = np.array([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], 1.0])
            point = scene.camera.position + scene.camera.rotation() @ local * frame.depth_m[v, u]
            point[2] = 1e-3
            ray = (lamp - point) / np.linalg.norm(lamp - point)
            length = mujoco.mj_ray(model, data, point, ray, None, 1, -1, np.zeros(1, np.int32))
            stopped = length < np.linalg.norm(lamp - point)
            blocked += stopped
            wrong += stopped != (frame.rgb[v, u].max() == 0)
        assert wrong <= 0.01 * len(floor)  # rays that graze a silhouette may differ
    assert blocked > 50


def test_any_size_shows_the_same_scene() -> None:
    scene = sample_scene(4)
    small, large = render(scene, 128, 96), render(scene, 640, 480)
    assert large.rgb.shape == (480, 640, 3)
    assert np.allclose(large.intrinsics[0, 0], 5 * small.intrinsics[0, 0])
    # pixel (2, 2) of each 5x5 block looks along the small picture's pixel
    assert np.allclose(large.depth_m[2::5, 2::5], small.depth_m, atol=1e-4)


@pytest.mark.parametrize('size', [(4, 96), (128, 5000)])
def test_impossible_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(BadOption, match='picture size out of range; got .*; allowed: 8 .. 4096'):
        render(sample_scene(0), *size)


def test_preview_writes_a_sheet(tmp_path: Path) -> None:
    path = preview(0, 3, tmp_path / 'sheet.png', columns=2, width=32, height=24)
    with Image.open(path) as sheet:
        assert sheet.size == (2 * (3 * 32 + 4), 2 * (24 + 4))


def test_the_simulated_room_moves_and_stays_true() -> None:
    room = SimulatedRoom(width=64, height=48)
    a, b = room.frame(0.0), room.frame(3.0)
    assert same(a, room.frame(0.0))
    assert not np.array_equal(a.depth_m, b.depth_m)
    assert np.array_equal(a.intrinsics, room.intrinsics)
    moved = math.dist(room.scene(0.0).camera.position, room.scene(6.0).camera.position)
    assert 0.02 < moved < 0.3
    for t in (0.0, 6.0, 18.0):
        depth = room.frame(t).depth_m
        assert MIN_DEPTH_M < depth.min() and depth.max() < MAX_DEPTH_M
    assert len(room.questions(1.0)) >= 8
    with pytest.raises(BadOption, match='time is not finite'):
        room.frame(math.inf)
