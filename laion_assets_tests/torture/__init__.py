"""Long trials that no failure loses data: killed processes, full disks, damaged files. `make torture` runs them."""
