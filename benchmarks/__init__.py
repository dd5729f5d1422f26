"""Speed and memory, as ratios within one run; never asserted on the clock in tests."""
