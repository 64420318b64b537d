"""The control plane: Admin API, storage, publisher, hub and cluster port."""
