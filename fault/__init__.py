"""The promise of delivery under faults: services that die at every point, and at any time."""
