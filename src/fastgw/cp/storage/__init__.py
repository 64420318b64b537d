"""Where entities, versions and the journal live: one contract, SQLite and PostgreSQL behind it."""
