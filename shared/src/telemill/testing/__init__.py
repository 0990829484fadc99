"""Fakes of what a service talks to, and the AWS emulator, for tests and the demo."""
