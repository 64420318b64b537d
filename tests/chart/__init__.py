"""The Helm chart against golden files and Kubernetes' schemas: `make chart-test`."""
