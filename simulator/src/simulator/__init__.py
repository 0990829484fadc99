"""An FMS API to poll: healthy, failing and lying devices."""
