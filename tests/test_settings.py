"""Settings: every source, their precedence, Kong's names, and the faults and warnings they make."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.errors import SettingsError
from fastgw.settings import (
    PROPERTIES,
    Listen,
    Property,
    Role,
    Settings,
    find_role,
    load_settings,
    require_cluster_pair,
)


def load(role: Role = "control_plane", file: Path | None = None, /, **environ: str) -> Settings:
    return load_settings(role, file=file, environ=environ)


def fault(role: Role = "control_plane", file: Path | None = None, /, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(role, file=file, environ=environ)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- defaults and the table ------------------------------------------------------------------------


def test_defaults_are_those_of_kong_and_make_no_warning() -> None:
    settings = load("control_plane", FASTGW_PREFIX="/state")
    assert settings.warnings == ()
    assert [str(listen) for listen in settings.admin_listen] == ["127.0.0.1:8001", "127.0.0.1:8444"]
    assert [listen.ssl for listen in settings.admin_listen] == [False, True]
    assert [str(listen) for listen in settings.proxy_listen] == ["0.0.0.0:8000", "0.0.0.0:8443"]
    assert [listen.ssl for listen in settings.proxy_listen] == [False, True]
    assert [str(listen) for listen in settings.cluster_listen] == ["0.0.0.0:8005"]
    assert settings.status_listen == (), "both roles on one machine would meet at 8007"
    assert [str(listen) for listen in load("data_plane").status_listen] == ["127.0.0.1:8007"]
    assert [
        str(listen) for listen in load("control_plane", KONG_STATUS_LISTEN="[::]:8100").status_listen
    ] == ["[::]:8100"]
    assert settings.sqlite_path == Path("/state/fastgw.db")
    assert (settings.database, settings.pg_user, settings.pg_timeout) == ("sqlite", "kong", 5000)
    assert settings.cluster_max_payload == 16777216
    assert settings.headers == {
        "server",
        "via",
        "x-kong-proxy-latency",
        "x-kong-response-latency",
        "x-kong-admin-latency",
        "x-kong-upstream-latency",
        "x-kong-request-id",
    }
    assert settings.log_destination("logs/error.log") == "/state/logs/error.log"
    assert settings.log_destination("/dev/stdout") == "/dev/stdout"
    assert settings.log_destination("off") is None


def test_the_prefix_follows_the_state_directory_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/me/state")
    assert load().prefix == Path("/home/me/state/fastgw")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert load().prefix == Path("/home/me/.local/state/fastgw")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert load().prefix == Path("/var/lib/fastgw")


@pytest.mark.parametrize("item", PROPERTIES, ids=lambda item: item.name)
def test_every_default_parses_to_what_settings_hold(item: Property) -> None:
    for role in get_args(Role):
        settings = load_settings(role, environ={})
        if (role, item.name) == ("control_plane", "status_listen"):  # off, unless it is set
            continue
        if item.default and item.name != "sqlite_path":  # resolved against the prefix
            assert getattr(settings, item.name) == item.parse(item.default)


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        load().workers = 3  # type: ignore[misc]


# -- sources -----------------------------------------------------------------------------------------

LAYERS = ("file", "kong", "fastgw", "flag")


@pytest.mark.parametrize(
    "given_in", [LAYERS[:count] for count in range(1, 5)] + [("file", "fastgw"), ("kong", "flag")]
)
def test_the_later_source_wins(given_in: tuple[str, ...], tmp_path: Path) -> None:
    conf = tmp_path / "fastgw.conf"
    conf.write_text("pg_host = file\n" if "file" in given_in else "")
    environ = {f"{name.upper()}_PG_HOST": name for name in ("kong", "fastgw") if name in given_in}
    flags = {"pg_host": "flag"} if "flag" in given_in else {}
    settings = load_settings("control_plane", file=conf, environ=environ, flags=flags)
    assert settings.pg_host == given_in[-1]


def test_what_nothing_sets_has_the_type_that_readers_expect() -> None:
    settings = load("control_plane")
    assert settings.admin_cors_origins == ()
    assert settings.cluster_dp_labels == {}
    assert settings.declarative_config is None


def test_file_syntax(tmp_path: Path) -> None:
    conf = tmp_path / "fastgw.conf"
    conf.write_text(
        "# a comment\n"
        "\n"
        "pg_host=db.example   # where it lives\n"
        "pg_password = se\\#cret#1\n"
        "  cluster_dp_labels =   zone:a , tier:gold\n"
        "pg_user =\n"
    )
    settings = load("control_plane", conf)
    assert (settings.pg_host, settings.pg_password, settings.pg_user) == ("db.example", "se#cret#1", "kong")
    assert settings.cluster_dp_labels == {"zone": "a", "tier": "gold"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("pg_port", ":1: expected 'name = value'"),
        ("\n= 3", ":2: expected 'name = value'"),
        ("pg_port = 1\npg_port = 2", ":2: pg_port already stands in line 1"),
        ("pg_prot = 1", ":1: there is no property 'pg_prot' (did you mean pg_port?)"),
        ("zzz = 1", ":1: there is no property 'zzz'"),
        ("pg_port = 99999", ":1: pg_port: '99999' is not a whole number from 1 to 65535"),
    ],
)
def test_faults_in_a_file_name_the_line(content: str, message: str, tmp_path: Path) -> None:
    conf = tmp_path / "fastgw.conf"
    conf.write_text(content)
    assert fault("control_plane", conf) == f"file {conf}{message}"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "none.conf"
    assert (
        fault("control_plane", missing) == f"file {missing}: cannot read {missing}: no such file or directory"
    )
    binary = tmp_path / "binary.conf"
    binary.write_bytes(b"\xff\xfe")
    assert "is not UTF-8 text" in fault("control_plane", binary)
    large = tmp_path / "large.conf"
    large.write_bytes(b"#" * (2 << 20))
    assert "is larger than 1048576 bytes" in fault("control_plane", large)


@pytest.mark.parametrize("prefix", ["FASTGW", "KONG"])
def test_a_secret_comes_from_a_file(prefix: str, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    assert load(**{f"{prefix}_PG_PASSWORD_FILE": str(secret)}).pg_password == "hunter2"
    both = fault(**{f"{prefix}_PG_PASSWORD_FILE": str(secret), f"{prefix}_PG_PASSWORD": "x"})
    assert f"{prefix}_PG_PASSWORD is set as well" in both
    assert "cannot read /nowhere" in fault(**{f"{prefix}_PG_PASSWORD_FILE": "/nowhere"})
    secret.write_text(" \n")
    assert f"{secret} is empty" in fault(**{f"{prefix}_PG_PASSWORD_FILE": str(secret)})


def test_what_would_leave_a_door_open_is_not_ignored() -> None:
    assert "KONG_CLUSTER_OCSP: cluster_ocsp: no OCSP responder is asked here" in fault(KONG_CLUSTER_OCSP="on")
    assert load(KONG_CLUSTER_OCSP="off").warnings


def test_a_file_variable_of_ours_silences_kongs(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("ours")
    settings = load(FASTGW_PG_PASSWORD_FILE=str(secret), KONG_PG_PASSWORD="theirs")
    assert (settings.pg_password, settings.warnings) == ("ours", ())


def test_an_empty_variable_counts_as_not_given() -> None:
    settings = load(FASTGW_PG_HOST="", KONG_PG_HOST="kongs", FASTGW_CLUSTER_CERT="", KONG_PG_PORT=" ")
    assert (settings.pg_host, settings.pg_port) == ("kongs", 5432)


def test_all_faults_are_named_at_once_with_their_sources() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(
            "data_plane",
            environ={"FASTGW_WORKRS": "2", "KONG_LOG_LEVEL": "loud", "FASTGW_PROXY_LISTEN": "8000"},
            flags={"headers": "x-unknown", "cluster_cert": "/c.crt"},
        )
    assert [part.partition(": ")[0] for part in str(caught.value).split("; ")] == [
        "environment variable FASTGW_WORKRS",
        "environment variable KONG_LOG_LEVEL",
        "environment variable FASTGW_PROXY_LISTEN",
        "flag --set headers",
        "flag --set cluster_cert",
    ]
    for part in ("did you mean workers?", "'loud' is not one of debug", "'8000' is not 'address:port'"):
        assert part in str(caught.value)


def test_secrets_are_masked() -> None:
    key = "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----"
    settings = load(FASTGW_PG_PASSWORD="hunter2", FASTGW_CLUSTER_CERT="/c.crt", FASTGW_CLUSTER_CERT_KEY=key)
    assert settings.pg_password == "hunter2"
    assert settings.cluster_cert_key == key
    assert "hunter2" not in repr(settings)
    assert "BEGIN" not in repr(settings)
    assert "pg_password='***'" in repr(settings)


# -- Kong's environment ------------------------------------------------------------------------------

KONG_LOGS = {
    "KONG_PROXY_ACCESS_LOG": "/dev/stdout",
    "KONG_ADMIN_ACCESS_LOG": "/dev/stdout",
    "KONG_PROXY_ERROR_LOG": "/dev/stderr",
    "KONG_ADMIN_ERROR_LOG": "/dev/stderr",
}


def test_a_kong_control_plane_starts_unchanged() -> None:
    settings = load(
        "control_plane",
        **KONG_LOGS,
        KONG_ROLE="control_plane",
        KONG_DATABASE="postgres",
        KONG_PG_HOST="db",
        KONG_PG_PORT="5433",
        KONG_PG_USER="kong",
        KONG_PG_PASSWORD="secret",
        KONG_PG_SSL="on",
        KONG_ADMIN_LISTEN="0.0.0.0:8001, 0.0.0.0:8444 http2 ssl",
        KONG_CLUSTER_LISTEN="0.0.0.0:8005",
        KONG_CLUSTER_CERT="/etc/kong/cluster.crt",
        KONG_CLUSTER_CERT_KEY="/etc/kong/cluster.key",
        KONG_CLUSTER_MTLS="shared",
        KONG_ADMIN_GUI_URL="http://localhost:8002",
        KONG_VITALS="off",
        KONG_PORT="tcp://10.0.0.1:8000",
        KONG_PROXY_SERVICE_HOST="10.0.0.1",
        KONG_PROXY_PORT_8000_TCP_ADDR="10.0.0.1",
        KONG_VERSION="3.9.1",
        PATH="/bin",
    )
    assert settings.database == "postgres"
    assert (settings.pg_host, settings.pg_port, settings.pg_ssl) == ("db", 5433, True)
    assert settings.admin_listen == (
        Listen("0.0.0.0", 8001),
        Listen("0.0.0.0", 8444, http2=True, ssl=True),
    )
    assert settings.admin_access_log == "/dev/stdout"
    assert len(settings.warnings) == 4
    taken, meaningless, idle, exposed = settings.warnings
    assert taken.startswith("taken from KONG_ variables")
    assert "KONG_PG_HOST" in taken
    assert "KONG_PG_PORT" in taken
    assert meaningless == "properties of Kong without meaning in this version: admin_gui_url, vitals"
    assert idle == "listen flags without effect in this version: http2 (admin_listen)"
    assert "the Admin API on 0.0.0.0:8001, 0.0.0.0:8444 is reachable from other machines" in exposed


def test_a_kong_data_plane_starts_unchanged() -> None:
    settings = load(
        "data_plane",
        **KONG_LOGS,
        KONG_ROLE="data_plane",
        KONG_DATABASE="off",
        KONG_PROXY_LISTEN="0.0.0.0:8000 reuseport backlog=99, 0.0.0.0:8443 http2 ssl reuseport backlog=16384",
        KONG_CLUSTER_CONTROL_PLANE="control-plane:8005",
        KONG_CLUSTER_CERT="/etc/kong/cluster.crt",
        KONG_CLUSTER_CERT_KEY="/etc/kong/cluster.key",
        KONG_LUA_SSL_TRUSTED_CERTIFICATE="/etc/kong/cluster.crt",
        KONG_NGINX_WORKER_PROCESSES="3",
        KONG_NGINX_HTTP_CLIENT_MAX_BODY_SIZE="10m",
        KONG_NGINX_HTTP_KEEPALIVE_TIMEOUT="1m30s",
        KONG_CLUSTER_DP_LABELS="region:eu-1",
        KONG_RESOLVER_HOSTS_FILE="/etc/hosts",
    )
    assert settings.proxy_listen == (
        Listen("0.0.0.0", 8000, reuseport=True, backlog=99),
        Listen("0.0.0.0", 8443, ssl=True, http2=True, reuseport=True, backlog=16384),
    )
    assert settings.cluster_control_plane == ("control-plane:8005",)
    assert settings.workers == 3
    assert settings.nginx_http_client_max_body_size == 10 << 20
    assert settings.nginx_http_keepalive_timeout == 90
    assert settings.cluster_dp_labels == {"region": "eu-1"}
    assert "lua_ssl_trusted_certificate, resolver_hosts_file" in settings.warnings[1]
    assert len(settings.warnings) == 3


def test_kong_names_are_accepted_under_our_prefix_and_in_the_file(tmp_path: Path) -> None:
    conf = tmp_path / "kong.conf"
    conf.write_text("pluginserver_names = x\nnginx_proxy_buffers = 8 8k\n")
    settings = load("data_plane", conf, FASTGW_DNS_ORDER="A")
    assert settings.warnings == (
        "properties of Kong without meaning in this version: pluginserver_names, nginx_proxy_buffers, dns_order",
    )


def test_a_likely_typo_under_kongs_prefix_is_named_and_strangers_are_not() -> None:
    settings = load(KONG_PROXY_LISTN="x", KONG_SHA256="y")
    assert settings.warnings == ("KONG_PROXY_LISTN is unknown and ignored (did you mean KONG_PROXY_LISTEN?)",)


def test_service_links_of_kubernetes_are_nobodys_property() -> None:
    environ = {
        "FASTGW_SERVICE_HOST": "10.0.0.1",
        "FASTGW_PORT": "tcp://10.0.0.1:8000",
        "FASTGW_PORT_8000_TCP_ADDR": "10.0.0.1",
        "FASTGW_CP_SERVICE_PORT_CLUSTER": "8005",
    }
    assert load(**environ).warnings == ()


def test_references_to_vaults_are_refused() -> None:
    assert "pg_password: references to vaults are not served" in fault(KONG_PG_PASSWORD="{vault://env/pw}")


def test_json_after_the_path_of_the_access_log_is_a_switch() -> None:
    settings = load("data_plane", KONG_PROXY_ACCESS_LOG="logs/access.log json", FASTGW_PREFIX="/p")
    assert settings.proxy_access_log == "logs/access.log json"
    assert settings.log_destination(settings.proxy_access_log) == "/p/logs/access.log"
    assert not any("no effect" in warning for warning in settings.warnings)
    assert load("data_plane", FASTGW_PROXY_ACCESS_LOG="off json").proxy_access_log == "off"


def test_the_format_name_after_a_log_path_is_named() -> None:
    settings = load("data_plane", FASTGW_PROXY_ACCESS_LOG="/dev/stdout custom")
    assert settings.proxy_access_log == "/dev/stdout"
    assert settings.warnings == ("only the path counts, the words after it have no effect: proxy_access_log",)


# -- what takes more than one property -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "environ", "message"),
    [
        (
            "control_plane",
            {"KONG_ROLE": "data_plane"},
            "role data_plane contradicts this command ('fastgw dp' runs it)",
        ),
        ("data_plane", {"FASTGW_ROLE": "control_plane"}, "contradicts this command ('fastgw cp' runs it)"),
        (
            "data_plane",
            {"KONG_ROLE": "traditional"},
            "run 'fastgw cp' and 'fastgw dp', or 'fastgw quickstart'",
        ),
        ("data_plane", {"FASTGW_ROLE": "boss"}, "role 'boss' is not one of control_plane, data_plane"),
        ("control_plane", {"KONG_DATABASE": "off"}, "a control plane needs a database"),
        ("control_plane", {"KONG_DATABASE": "cassandra"}, "'cassandra' is not one of sqlite, postgres, off"),
        (
            "control_plane",
            {"FASTGW_ADMIN_LISTEN": "off"},
            "admin_listen is off, and a control plane needs one",
        ),
        (
            "control_plane",
            {"FASTGW_CLUSTER_LISTEN": "off"},
            "cluster_listen is off, and a control plane needs one",
        ),
        ("data_plane", {"FASTGW_PROXY_LISTEN": "off"}, "proxy_listen is off, and a data plane needs one"),
        ("control_plane", {"FASTGW_ADMIN_SSL_CERT": "/c"}, "admin_ssl_cert names 1 and admin_ssl_cert_key 0"),
        (
            "control_plane",
            {"KONG_ADMIN_LISTEN": "127.0.0.1:80 proxy_protocol"},
            "proxy_protocol of 127.0.0.1:80 is not",
        ),
        (
            "data_plane",
            {"FASTGW_SSL_CERT": "/c"},
            "ssl_cert names 1 and ssl_cert_key 0: each certificate needs",
        ),
        ("data_plane", {"FASTGW_SSL_CIPHER_SUITE": "old"}, "the suite 'old' is not served"),
        (
            "data_plane",
            {"FASTGW_SSL_PROTOCOLS": "TLSv1.1 TLSv1.2"},
            "'TLSv1.1' is not one of TLSv1.2, TLSv1.3",
        ),
        ("data_plane", {"FASTGW_TRUSTED_IPS": "10.0.0.0/8, x"}, "'x' is neither an address, nor a network"),
        ("data_plane", {"FASTGW_REAL_IP_HEADER": "X Y"}, "'X Y' is no name of a header field"),
        ("data_plane", {"FASTGW_CLUSTER_CERT": "/c"}, "cluster_cert and cluster_cert_key go together"),
        ("data_plane", {"FASTGW_CLUSTER_MTLS": "both"}, "cluster_mtls: 'both' is not one of shared, pki"),
    ],
)
def test_contradictions(role: Role, environ: dict[str, str], message: str) -> None:
    assert message in fault(role, **environ)


def test_the_same_role_is_fine_and_what_the_other_role_reads_does_not_matter() -> None:
    assert load("data_plane", KONG_ROLE="data_plane", KONG_ADMIN_LISTEN="off").role == "data_plane"
    assert (
        load("control_plane", FASTGW_STATUS_LISTEN="off", FASTGW_PROXY_LISTEN="off").role == "control_plane"
    )
    assert load("data_plane", FASTGW_STATUS_LISTEN="off").status_listen == ()


def test_commands_for_both_roles_find_the_role() -> None:
    assert find_role(environ={}) is None
    assert find_role(environ={"KONG_ROLE": "data_plane"}) == "data_plane"
    assert find_role(environ={"KONG_ROLE": "data_plane"}, flags={"role": "control_plane"}) == "control_plane"
    with pytest.raises(SettingsError, match="role 'boss' is not one of"):
        find_role(environ={"FASTGW_ROLE": "boss"})


def test_the_cluster_pair_is_asked_for_by_those_who_use_it() -> None:
    with pytest.raises(SettingsError, match="fastgw hybrid gen-cert"):
        require_cluster_pair(load())
    pair = {"FASTGW_CLUSTER_CERT": "/c", "FASTGW_CLUSTER_CERT_KEY": "/k"}
    require_cluster_pair(load(**pair))
    with pytest.raises(SettingsError, match="cluster_ca_cert must be specified when cluster_mtls = pki"):
        require_cluster_pair(load(**pair, FASTGW_CLUSTER_MTLS="pki"))
    require_cluster_pair(load(**pair, FASTGW_CLUSTER_MTLS="pki", FASTGW_CLUSTER_CA_CERT="/a"))


# -- values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("workers", "7", 7),
        ("nginx_main_worker_processes", "7", 7),
        ("nginx_events_worker_connections", "auto", 16384),
        ("nginx_events_worker_connections", "1024", 1024),
        ("headers", "off", frozenset()),
        ("headers", "Server, X-Kong-Upstream-Status, off", frozenset({"server", "x-kong-upstream-status"})),
        ("upstream_keepalive_idle_timeout", "500ms", 0.5),
        ("nginx_http_keepalive_timeout", "75s 60s", 75.0),
        ("nginx_http_client_max_body_size", "1g", 1 << 30),
        ("admin_cors_origins", "https://a.com, http://[::1]:8002", ("https://a.com", "http://[::1]:8002")),
        ("cluster_control_plane", "[::1]:8005", ("[::1]:8005",)),
        ("cluster_control_plane", "cp_1.köln.example.:8005", ("cp_1.köln.example.:8005",)),
        ("cluster_control_plane", "a:8005, [::1]:8005,b:1", ("a:8005", "[::1]:8005", "b:1")),
        ("pg_ssl", "true", True),
        ("pg_ssl", "off", False),
        ("log_level", "WARN", "warn"),
        ("proxy_access_log", "off", "off"),
        ("declarative_config", "/k.yml", Path("/k.yml")),
    ],
)
def test_values(name: str, text: str, value: object) -> None:
    attribute = {
        "nginx_main_worker_processes": "workers",
        "nginx_events_worker_connections": "worker_connections",
    }.get(name, name)
    assert getattr(load_settings("data_plane", environ={}, flags={name: text}), attribute) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("workers", "0"),
        ("workers", "many"),
        ("pg_port", "-1"),
        ("pg_port", "٣"),
        ("pg_ssl", "yes"),
        ("headers", "Serv"),
        ("nginx_http_client_max_body_size", "10x"),
        ("nginx_http_keepalive_timeout", "soon"),
        ("admin_cors_origins", "a.com"),
        ("admin_cors_origins", "https://a.com/"),
        ("cluster_control_plane", "host"),
        ("cluster_control_plane", "host:1,"),
        ("cluster_control_plane", "host:1,other"),
        ("cluster_control_plane", "host:1, host:1"),
        ("cluster_control_plane", ",".join(f"host:{port}" for port in range(1, 18))),
        ("cluster_control_plane", "host:0"),
        ("cluster_control_plane", "https://host:8005"),
        ("cluster_control_plane", "::1:8005"),
        ("cluster_control_plane", "[::x]:8005"),
        ("cluster_control_plane", "cp-1..example.com:8005"),
        ("cluster_control_plane", ".cp:8005"),
        ("cluster_control_plane", f"cp:1,{'a' * 64}.example.com:8005"),
        ("cluster_dp_labels", "region"),
        ("cluster_dp_labels", "kong_x:y"),
        ("cluster_dp_labels", "-a:b"),
        ("cluster_dp_labels", "a:" + "b" * 64),
        ("cluster_dp_labels", ",".join(f"k{n}:v" for n in range(11))),
        ("cluster_max_payload", "4194303"),
        ("cluster_data_plane_purge_delay", "59"),
        ("proxy_error_log", "off"),
        ("proxy_access_log", "syslog:server=x"),
    ],
)
def test_wrong_values_name_property_and_source(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=f"^flag --set {name}: {name}: "):
        load_settings("data_plane", environ={}, flags={name: text})


# -- listen strings -------------------------------------------------------------------------------------

hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.from_regex(r"[a-z][a-z0-9-]{0,10}[a-z0-9](\.[a-z]{2,5}){0,2}", fullmatch=True),
)
listens = st.builds(
    Listen,
    hosts,
    st.integers(1, 65535),
    ssl=st.booleans(),
    http2=st.booleans(),
    reuseport=st.booleans(),
    backlog=st.integers(1, 2**31 - 1),
    proxy_protocol=st.booleans(),
    deferred=st.booleans(),
    ipv6only=st.booleans(),
    so_keepalive=st.none() | st.tuples(*[st.integers(0, 999)] * 3),
)


def write(listen: Listen) -> str:
    named = ("ssl", "http2", "reuseport", "proxy_protocol", "deferred")
    flags = [name for name in named if getattr(listen, name)]
    flags += [f"backlog={listen.backlog}", f"ipv6only={'on' if listen.ipv6only else 'off'}"]
    if listen.so_keepalive is not None:
        flags.append("so_keepalive=" + ":".join(str(value or "") for value in listen.so_keepalive))
    return " ".join([str(listen), *flags])


@given(st.lists(listens, min_size=1, max_size=4, unique_by=str), st.sampled_from([",", ", ", " ,\t"]))
def test_listen_strings_are_read_back(given_listens: list[Listen], comma: str) -> None:
    assert Listen.parse(comma.join(map(write, given_listens))) == tuple(given_listens)


@given(st.text(max_size=60))
def test_any_text_is_listened_to_or_refused_in_one_line(text: str) -> None:
    try:
        parsed = Listen.parse(text)
    except ValueError as error:
        message = str(error)
    else:
        message = "read"
        assert all(0 <= listen.port <= 65535 and listen.host for listen in parsed)
        assert Listen.parse(", ".join(map(write, parsed)) or "off") == parsed
    assert message.isprintable()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty address"),
        ("127.0.0.1:1,", "an empty address"),
        ("8000", "is not 'address:port'"),
        ("::1:8000", "is not 'address:port'"),
        ("[::1:8000", "is not 'address:port'"),
        ("[1.2.3.4]:80", "is not an IPv6 address"),
        ("1.2.3:80", "is not an IPv4 address"),
        ("256.0.0.1:80", "is not an IPv4 address"),
        ("-a:80", "is neither an address nor a host name"),
        ("127.0.0.1:65536", "is above 65535"),
        ("127.0.0.1:80 sssl", "flag 'sssl'"),
        ("127.0.0.1:80 udp", "flag 'udp'"),
        ("127.0.0.1:80 backlog=0", "flag 'backlog=0'"),
        ("127.0.0.1:80 so_keepalive=maybe", "flag 'so_keepalive=maybe'"),
        ("127.0.0.1:80, 127.0.0.1:80 ssl", "127.0.0.1:80 is listed twice"),
    ],
)
def test_wrong_listen_strings(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=".+") as caught:
        Listen.parse(text)
    assert message in str(caught.value)


def test_socket_flags_of_kong() -> None:
    (listen,) = Listen.parse("localhost:80 bind deferred ipv6only=off so_keepalive=30m::5")
    assert listen.deferred
    assert not listen.ipv6only
    assert listen.so_keepalive == (1800, 0, 5)
    assert Listen.parse("localhost:80 so_keepalive=on")[0].so_keepalive == (0, 0, 0)
    assert Listen.parse("localhost:80 so_keepalive=off")[0].so_keepalive is None
    assert Listen.parse("OFF") == ()
    assert len(Listen.parse("127.0.0.1:0, 127.0.0.1:0")) == 2


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("gateway.internal:1", False),
    ],
)
def test_loopback(text: str, loopback: bool) -> None:
    assert Listen.parse(text)[0].is_loopback is loopback
