"""Long trials of what must never happen: sudden death, full disks, spoilt files. `make torture` runs them whole."""
