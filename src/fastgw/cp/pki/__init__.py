"""The built-in authority of a cluster, on its control planes.

1. `records` is what the database keeps: authorities, tokens, certificates, and a revision that grows when
   something changed that control planes have to know at once.
2. `management` is what `fastgw pki` does with these records, beside running control planes.
3. `office` is the authority at work in one control plane: it follows the revision, presents a certificate,
   admits, issues and renews, and knows who is revoked.

The state is in the database, not in files: every control plane of a cluster issues and refuses alike, a
backup of the database is one of the authority, and nothing has to be copied between machines. Who can write
to the database is trusted with the authority's key; `pki_secret` encrypts it there.
"""
