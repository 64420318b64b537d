"""TLS contexts by role, and the checks that say in one line what is wrong with a certificate."""
