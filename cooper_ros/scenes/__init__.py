"""Our own endless data: synthetic rooms with exact depth, labels, questions and answers."""
