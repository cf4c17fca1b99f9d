"""The process beside each engine: connects it to the log, and decides who leads."""
