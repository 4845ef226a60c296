"""``python -m cooper_ros.cli``: the same door."""

from cooper_ros.cli.app import main

main()
