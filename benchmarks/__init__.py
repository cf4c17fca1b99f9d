"""What durability costs, against stock Valkey, as ratios within one run: `python -m benchmarks`."""
