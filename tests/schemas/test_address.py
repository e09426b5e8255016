"""One parser for every address, and no word of it that holds a password."""

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.contract.address import ESCAPES, Address
from schemas.contract.config import GatewayOptions
from schemas.contract.errors import ConfigError, DtError, PlanError
from schemas.contract.redact import redact
from schemas.host.settings import OptionName, load


@pytest.mark.parametrize(
    "password", ["TopSecret#1", "Top/Secret", "Top?Secret", "Top[Secret", "Top Secret", "Top\tSecret", "\u2100#"]
)
def test_a_password_that_is_not_escaped_is_refused_with_how_to_escape_it(password: str) -> None:
    with pytest.raises(PlanError) as caught:
        Address.parse(f"mqtt://me:{password}@127.0.0.1:1")
    said = str(caught.value)
    assert "Top" not in said and "Secret" not in said and "\n" not in said
    assert said.startswith("broker address 'mqtt://me:***@127.0.0.1:1': ") and said.endswith(ESCAPES)


@settings(deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_what_is_escaped_as_told_comes_through(user: str, password: str) -> None:
    told = dict(part.split(" for ")[::-1] for part in ESCAPES.partition("write ")[2].split(", "))
    assert all(quote(character, safe="") == code for character, code in told.items())
    address = Address.parse(f"mqtts://{quote(user, safe='')}:{quote(password, safe='')}@gw:77/")
    assert (address.user, address.password, address.host, address.port, address.tls) == (user, password, "gw", 77, True)
    assert len(password) < 3 or password not in repr(address) + str(address)


@settings(max_examples=300, deadline=None)
@given(
    st.text(min_size=1, max_size=20),
    st.sampled_from(["mqtt://me:{}@h:x", "mqtt://{}@h/p", "me:{}@h/p", "mqtt:/me:{}@h", "x://me:{}@h"]),
)
@example("://", "me:{}@h/p")
def test_no_refusal_holds_the_password(password: str, form: str) -> None:
    secret = f"qzx{password}xzq".replace(":", "" if "me:" not in form else ":")  # what stands before a colon is a user's name
    with pytest.raises(PlanError) as caught:
        Address.parse(form.format(secret) + "/p")
    assert "qzx" not in str(caught.value) and "xzq" not in str(caught.value)


@pytest.mark.parametrize("key", ["gateway.broker", "gateway.ha_broker", "edge.gateway", "edge.source"])
def test_every_option_variable_and_file_goes_through_it(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section, _, name = key.partition(".")
    scheme = "rtsp" if name == "source" else "mqtt"
    bad, good = f"{scheme}://me:Top#Secret@h", f"{scheme}://me:Top%23Secret@h"
    file, variable = tmp_path / "dt.toml", f"DT_{section}_{name}".upper()
    kinds: list[tuple[str, type[DtError]]] = []
    for kind, error in (("flag", PlanError), ("variable", ConfigError), ("file", ConfigError)):
        for value in (bad, good):
            monkeypatch.delenv(variable, raising=False)
            file.write_text(f'[{section}]\n{name} = "{value}"\n' if kind == "file" else "")
            if kind == "variable":
                monkeypatch.setenv(variable, value)
            flags: dict[OptionName, str] = {(section, name): value} if kind == "flag" else {}
            if value == good:
                assert "Top" not in str(list(load(flags, file).rows()))
                continue
            with pytest.raises(error) as caught:
                load(flags, file)
            said = str(caught.value)
            assert f"'{scheme}://me:***@h': " in said and "write %23 for #" in said
            assert "Top" not in said and "Secret" not in said
            kinds.append((kind, type(caught.value)))
    assert len(kinds) == 3


def test_the_words_for_a_broker_of_our_own_and_nothing_are_allowed() -> None:
    for word in ("amqtt", "mosquitto", "auto", "", None):
        assert GatewayOptions(broker=word).broker == word


@given(st.text(max_size=40))
def test_what_is_redacted_stays_so(text: str) -> None:
    assert redact(redact(text)) == redact(text)
