"""The one command-line door: ``cooper``."""

from cooper_ros.cli.app import main

__all__ = ['main']
