#!/bin/bash
# Install ROS 2 on the Ubuntu of a JetPack image: install_ros.sh humble|jazzy
set -euo pipefail
distro=$1
source=https://github.com/ros-infrastructure/ros-apt-source/releases/download
version=1.1.0
. /etc/os-release
case "$distro $UBUNTU_CODENAME" in
    "humble jammy" | "jazzy noble") ;;
    *) echo "ROS 2 $distro does not belong on Ubuntu $UBUNTU_CODENAME: humble is for JetPack 6" \
            "(jammy), jazzy for JetPack 7 (noble)" >&2
       exit 1 ;;
esac

apt-get update
apt-get install -y --no-install-recommends ca-certificates curl
curl -fsSL -o ros2-apt-source.deb \
    "$source/$version/ros2-apt-source_$version.${UBUNTU_CODENAME}_all.deb"
apt-get install -y ./ros2-apt-source.deb
rm ros2-apt-source.deb
apt-get update
# Without cv_bridge: it wants Ubuntu's OpenCV beside NVIDIA's, and the node does as well without.
apt-get install -y --no-install-recommends \
    "ros-$distro-ros-base" ros-dev-tools \
    python3-venv python3-pip python3-opencv python3-pil python3-yaml
rm -rf /var/lib/apt/lists/*
