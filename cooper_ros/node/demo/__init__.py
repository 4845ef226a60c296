"""The demo: a simulated camera, a node and a client that asks and knows the truth, as three
processes. It is the only part of the node that knows the scenes."""
