"""Which rooms and questions a seed gives."""

# Raised when a seed gives other pictures or other questions, a new category among them: stores of
# frames carry it in their names, so that no run continues with frames of an earlier edition.
EDITION = 2
