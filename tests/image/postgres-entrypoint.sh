#!/bin/sh
# What the official image does with its variables, on Debian's PostgreSQL.
set -eu
bin=$(dirname "$(ls /usr/lib/postgresql/*/bin/postgres)")
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    "$bin/initdb" -U "$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth-local=trust --auth-host=scram-sha-256 \
        -E UTF8 --locale=C
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    "$bin/pg_ctl" -D "$PGDATA" -o "-c listen_addresses=''" -w start
    [ "$POSTGRES_DB" = postgres ] || "$bin/createdb" -U "$POSTGRES_USER" "$POSTGRES_DB"
    "$bin/pg_ctl" -D "$PGDATA" -m fast -w stop
fi
exec "$bin/$1" -D "$PGDATA" -c listen_addresses='*'
