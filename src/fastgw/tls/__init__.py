"""TLS contexts by role, and the checks that say in one line what is wrong with a certificate.

1. `keypair` reads a certificate and its key, wherever they stand, and finds every fault before OpenSSL does.
2. `cluster` makes the contexts of both ends of the cluster port from a pair, and compares the peer's
   certificate with it.
3. `generate` makes a pair.
"""
