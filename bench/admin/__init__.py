"""How the control plane fares with large configurations: `python -m bench.admin.run`."""
