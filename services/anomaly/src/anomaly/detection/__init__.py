"""Detectors: pure, vectorised over devices, all with the two verbs of `interface.Detector`."""
