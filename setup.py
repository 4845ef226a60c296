"""How setuptools, pip and colcon install the package."""

from glob import glob
from os import path
from xml.etree import ElementTree

from setuptools import find_packages, setup

NAME = 'cooper_ros'
SHARE = path.join('share', NAME)
HERE = path.dirname(path.realpath(__file__))  # colcon may run a link to this file elsewhere
MANIFEST = ElementTree.parse(path.join(HERE, 'package.xml'))


def pins(name: str) -> list[str]:
    """Return the requirements of one file under requirements/, so that no pin stands twice."""
    with open(path.join(HERE, 'requirements', f'{name}.txt'), encoding='utf-8') as lines:
        return [line.strip() for line in lines if line.strip() and not line.startswith('#')]


def files(pattern: str) -> list[str]:
    """Return the plain files that a pattern names."""
    return sorted(found for found in glob(pattern) if path.isfile(found))


def model_files() -> list[tuple[str, list[str]]]:
    """Return one entry per model folder, each with its files."""
    folders = sorted(found for found in glob('models/*') if path.isdir(found))
    return [(path.join(SHARE, folder), files(path.join(folder, '*'))) for folder in folders]


setup(
    name=NAME,
    version=MANIFEST.findtext('version'),
    description=MANIFEST.findtext('description'),
    maintainer=MANIFEST.findtext('maintainer'),
    maintainer_email=MANIFEST.find('maintainer').get('email'),
    license=MANIFEST.findtext('license'),
    python_requires='>=3.10',
    packages=find_packages(include=[NAME, f'{NAME}.*']),
    package_data={NAME: ['*/*.yaml', '*/*.json']},
    data_files=[
        ('share/ament_index/resource_index/packages', [path.join('resource', NAME)]),
        (SHARE, ['package.xml']),
        (path.join(SHARE, 'launch'), files('launch/*.launch.py')),
        (path.join(SHARE, 'config'), files('config/*')),
        *model_files(),
    ],
    install_requires=['setuptools'],
    extras_require={'torch': pins('torch'), 'run': pins('base'), 'graphs': pins('graphs'),
                    'train': pins('train'), 'test': pins('test')},
    zip_safe=False,
    entry_points={'console_scripts': [
        'cooper = cooper_ros.cli:main',
        'cooper_node = cooper_ros.node.cooper_node:main',
        'sim_camera = cooper_ros.node.demo.sim_camera:main',
        'demo_client = cooper_ros.node.demo.client:main',
    ]},
)
