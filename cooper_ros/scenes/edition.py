"""Which rooms and questions a seed gives."""

# Raised when a seed gives other pictures or other questions: stores of frames carry it in their
# names, so that no run goes on with those of before.
EDITION = 2
