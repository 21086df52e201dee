"""What agents stand on: transition tables, the compiled loops that learn from them, exact answers, processes."""
