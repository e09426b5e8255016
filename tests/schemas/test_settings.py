"""Flags > environment > credentials > files > defaults, where a value comes from, and what a mistake says."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.contract.config import EdgeOptions
from schemas.contract.errors import ConfigError, PlanError
from schemas.host import settings
from schemas.host.settings import fields, find, load, without_ours


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every place that is looked at, empty, in one folder."""
    for name in [n for n in os.environ if n.startswith("DT_")]:
        monkeypatch.delenv(name)
    for name in ("CONFIGURATION_DIRECTORY", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(settings, "SYSTEM", tmp_path / "etc")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    return tmp_path


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def edge_name(name: str) -> str:
    return f"[edge]\nname = '{name}'\n"


def test_each_layer_hides_those_beneath_and_is_named(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(**flags: Any) -> tuple[Any, str]:
        loaded = load({("edge", name): value for name, value in flags.items()})
        return loaded.settings.edge.name, loaded.origins.get(("edge", "name"), "default")

    assert seen() == (None, "default")
    first = put(places / "etc/deepthings/../1.toml", edge_name("first"))
    assert seen() == ("first", str(places / "etc" / "1.toml")) and first.exists()
    second = put(places / "etc/2.toml", edge_name("second"))
    assert seen() == ("second", str(second))
    own = put(places / "xdg/deepthings/mine.toml", edge_name("mine"))
    assert seen() == ("mine", str(own))
    secrets = put(places / "credentials/secrets.toml", edge_name("credential"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(secrets.parent))
    assert seen() == ("credential", str(secrets))
    monkeypatch.setenv("DT_EDGE_NAME", "variable")
    assert seen() == ("variable", "DT_EDGE_NAME")
    assert seen(name="flag") == ("flag", "--name")


SERVICE = [
    "service_host", "service_port", "service_port_mqtt", "port", "port_1883_tcp", "port_1883_tcp_proto", "port_1883_tcp_port",
    "port_53_udp_addr", "http_port", "ha_service_host", "http_port_8099_tcp_addr",
]  # fmt: skip


@pytest.mark.parametrize("section", ["gateway", "edge"])
def test_the_address_of_a_service_of_our_name_is_ignored_with_one_line(
    section: str, places: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"DT_{section}_{name}".upper() for name in SERVICE]
    for name in names:
        monkeypatch.setenv(name, "tcp://10.43.0.5:1883")
    monkeypatch.setenv("DT_PORT", "tcp://10.43.0.5:1883")
    monkeypatch.setenv("DT_GATEWAY_HTTP", "127.0.0.1:8099")
    assert load().origins == {("gateway", "http"): "DT_GATEWAY_HTTP"}
    (record,) = caplog.records
    assert all(name in record.getMessage() for name in names) and "\n" not in record.getMessage()


def test_no_option_has_a_name_that_a_service_s_address_could_have() -> None:
    assert not [key for key in fields() if settings._FOREIGN.fullmatch(key[-1])]


def test_layers_mix_key_by_key(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(places / "etc/a.toml", "log = 'debug'\n[edge]\nname = 'a'\nkeep = 3\n[gateway]\nlisten = '0.0.0.0:1'\n")
    monkeypatch.setenv("DT_EDGE_KEEP", "5")
    loaded = load({("edge", "threads"): 2}).settings
    assert loaded.edge == EdgeOptions(name="a", keep=5, threads=2)
    assert loaded.log == "debug" and loaded.gateway.listen == "0.0.0.0:1"


def test_a_named_file_is_the_only_one(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(places / "etc/a.toml", edge_name("etc"))
    one, two = put(places / "one", edge_name("one")), put(places / "two", edge_name("two"))
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(places / "etc"))
    monkeypatch.setenv("DT_CONFIG", str(one))
    assert load().settings.edge.name == "one" and load(config=two).settings.edge.name == "two"
    monkeypatch.setenv("DT_CONFIG", os.devnull)
    assert load().settings.edge.name is None


def test_a_service_reads_its_own_folders_the_last_of_them_wins(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(places / "xdg/deepthings/mine.toml", edge_name("mine"))
    all_edges, kitchen = put(places / "all/a.toml", edge_name("all")), put(places / "kitchen/a.toml", edge_name("kitchen"))
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", f"{all_edges.parent}:{kitchen.parent}")
    assert find() == [all_edges, kitchen] and load().settings.edge.name == "kitchen"


def test_a_path_in_a_file_counts_from_its_folder(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(places / "etc/a.toml", "[gateway]\nmodel = 'models/x.tflite'\n[edge]\ncache = '/var/c'\n")
    loaded = load().settings
    assert loaded.gateway.model == places / "etc/models/x.tflite" and loaded.edge.cache == Path("/var/c")
    monkeypatch.setenv("DT_GATEWAY_MODEL", "x.tflite")
    assert load().settings.gateway.model == Path("x.tflite")


MISTAKES = [
    ("[edge]\nnmae = 'a'", "{file}: edge.nmae: there is no such key: did you mean edge.name?"),
    ("[egde]\nname = 'a'", "{file}: egde.name: there is no such key: did you mean edge.name?"),
    ("lag = 'a'", "{file}: lag: there is no such key: did you mean log?"),
    ("edge = 3", "{file}: edge: there is no such key: did you mean"),
    ("[edge]\nname = 'a/b'", "{file}: edge.name 'a/b': use 1 to 64 letters, digits, _ and - only"),
    ("[edge]\nkeep = 0", "{file}: edge.keep 0: Input should be greater than or equal to 1"),
    ("[edge]\nkeep = 'many'", "{file}: edge.keep 'many': Input should be a valid integer"),
    ("[gateway]\nlisten = 'x'", "{file}: gateway.listen 'x': give HOST:PORT"),
    ("[gateway]\ngrid = '3by3'", "{file}: gateway.grid '3by3': give rows x columns"),
    ("[gateway]\ngrid = '65x1'", "{file}: gateway.grid '65x1': give rows x columns"),
    ("log = 'loud'", "{file}: log 'loud': Input should be 'debug', 'info', 'warning' or 'error'"),
    ("[edge", "{file}: not a TOML file: "),
    ("[edge.name]\na = 1", "{file}: edge.name {{'a': 1}}: Input should be a valid string"),
]


@pytest.mark.parametrize(("text", "says"), MISTAKES, ids=[says for _, says in MISTAKES])
def test_a_mistake_in_a_file_names_file_key_and_remedy(places: Path, text: str, says: str) -> None:
    file = put(places / "etc/a.toml", text)
    with pytest.raises(ConfigError) as caught:
        load()
    assert str(caught.value).startswith(says.format(file=file)) and caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("DT_EDGE_GATEWY", "a", "DT_EDGE_GATEWY: there is no such key: did you mean DT_EDGE_GATEWAY?"),
        ("DT_EDGE_KEEP", "x", "DT_EDGE_KEEP 'x': Input should be a valid integer"),
        ("DT_GATEWAY", "pi:1883", "environment: error parsing value"),
        ("DT_LOG", "loud", "DT_LOG 'loud': Input should be"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    places: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load()
    assert str(caught.value).startswith(says)


def test_variables_that_are_no_options_are_left_alone(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DT_DEBUG", "DT_END_WITH_STDIN"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("DT_LOG", "WARN")
    assert load().settings.log == "warning" and list(load().origins) == [("log",)]


def test_a_mistake_in_a_flag_is_one_of_usage(places: Path) -> None:
    with pytest.raises(PlanError, match=r"^--name 'a/b': use 1 to 64 letters"):
        load({("edge", "name"): "a/b"})


def test_a_file_that_is_not_there_or_not_text_is_one_line(places: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*absent.toml: No such file"):
        load(config=places / "absent.toml")
    (places / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"bytes.toml: not a TOML file"):
        load(config=places / "bytes.toml")


def test_no_password_is_shown_not_even_in_a_mistake(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put(places / "etc/a.toml", "[edge]\ngateway = 'mqtt://me:s3cret@pi'\nsource = 'rtsp://me:s3cret@cam/?token=s3cret'")
    shown = {key: value for key, value, _ in load().rows()}
    assert shown["edge.gateway"] == "mqtt://me:***@pi" and "s3cret" not in str(shown)
    file.write_text("[edge]\nname = 'mqtt://me:s3cret@pi'")
    with pytest.raises(ConfigError) as caught:
        load()
    assert "s3cret" not in str(caught.value)


def test_a_secret_is_hidden_whatever_it_holds(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"secret": True}
    monkeypatch.setattr(EdgeOptions.model_fields["name"], "json_schema_extra", extra)
    put(places / "etc/a.toml", edge_name("s3cret"))
    rows = {key: (value, origin) for key, value, origin in load().rows()}
    assert rows["edge.name"] == ("(hidden)", str(places / "etc/a.toml")) and rows["edge.cache"] == (None, "default")
    put(places / "etc/a.toml", edge_name("s3cret/"))
    with pytest.raises(ConfigError, match=r"edge.name '\(hidden\)': use 1 to 64") as caught:
        load()
    assert "s3cret" not in str(caught.value)


@given(st.sampled_from(sorted(fields())))
def test_a_child_is_freed_of_each_of_our_variables(key: tuple[str, ...]) -> None:
    name = "_".join(("DT", *key)).upper()
    systemd = {"CONFIGURATION_DIRECTORY": "/etc/x", "CREDENTIALS_DIRECTORY": "/run/x"}
    others = {"dt_edge_name": "x", "DT_GATEWAY_PORT": "tcp://10.43.0.5:1883", "DT_EDGE_NMAE": "x"}
    kept = without_ours({name: "x", "DT_DEBUG": "1", "HOME": "/h", **systemd, **others})
    expected = {"DT_DEBUG": "1", "HOME": "/h", "DT_CONFIG": os.devnull} | ({name: "x"} if key == ("log",) else {})
    assert kept == expected
