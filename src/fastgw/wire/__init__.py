"""The protocol between control plane and data plane, without any I/O."""
