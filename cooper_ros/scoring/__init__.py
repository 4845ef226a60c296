"""What an answer is worth: rules that read it, a judge for the rest, accuracies and intervals."""
