"""Names of what a node says and hears, below its own name; a bag of answers has the same.

Without ROS and without anything that reads recordings: the node imports it, too.
"""

from __future__ import annotations

NODE = 'cooper'  # name of the node, unless it is given another

QUESTION = 'question'
ANSWER = 'answer'
ANSWER_TEXT = 'answer_text'
ANSWER_TOPICS = (ANSWER, ANSWER_TEXT)

RELATIVE_DEPTH = 'relative_depth'
RELATIVE_DEPTH_COLORED = 'relative_depth/colored'
DEPTH = 'depth/image'
DEPTH_INFO = 'depth/camera_info'
METRIC_TOPICS = (DEPTH, DEPTH_INFO)
DEPTH_TOPICS = (RELATIVE_DEPTH, RELATIVE_DEPTH_COLORED, *METRIC_TOPICS)

MASK = 'segmentation/mask'
MASK_COLORED = 'segmentation/colored'
LEGEND = 'segmentation/legend'
OVERLAY = 'overlay'
SEGMENTATION_TOPICS = (MASK, MASK_COLORED, OVERLAY, LEGEND)
