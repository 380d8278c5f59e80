"""Settings: out of the environment what was put into it, and nothing that is misspelt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_infer.errors import UsageError
from resnet_infer.serving.settings import ApiKeys, Settings, load_keys

WHOLE = st.integers(1, 10**6)
NUMBER = st.floats(1e-3, 1e6, allow_nan=False)


@given(
    st.builds(
        Settings,
        model=st.none() | st.text("abc/.-é ", min_size=1),
        threads=st.none() | st.integers(1, 256),
        max_wait_ms=NUMBER,
        max_queue=WHOLE,
        timeout=NUMBER,
        max_body_mb=NUMBER,
        max_pixels=WHOLE,
        access_log=st.booleans(),
    )
)
def test_the_environment_carries_settings_unchanged(settings: Settings) -> None:
    assert Settings.from_environment(settings.to_environment()) == settings


def test_other_variables_do_not_matter_and_empty_ones_mean_the_default() -> None:
    environment = {"PATH": "/bin", "RESNET_INFER_MODEL": "x", "RESNET_INFER_SERVE_TIMEOUT": ""}
    assert Settings.from_environment(environment) == Settings()


@pytest.mark.parametrize("service", ["SERVE", "SERVE_CATS", "SERVE_MODEL"])
def test_what_kubernetes_sets_for_a_service_of_that_name_stops_nothing(service: str) -> None:
    port = {"": "tcp://10.0.0.7:3000", "_PROTO": "tcp", "_PORT": "3000", "_ADDR": "10.0.0.7"}
    environment = {"SERVICE_HOST": "10.0.0.7", "SERVICE_PORT": "3000", "SERVICE_PORT_HTTP": "3000", "PORT": port[""]}
    environment |= {f"PORT_3000_TCP{part}": text for part, text in port.items()}
    environment = {f"RESNET_INFER_{service}_{name}": text for name, text in environment.items()}
    assert Settings.from_environment({**environment, "RESNET_INFER_SERVE_TIMEOUT": "5"}) == Settings(timeout=5)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("MAX_QUEU", "5", "did you mean RESNET_INFER_SERVE_MAX_QUEUE"),
        ("PORT", "3000", "there is no setting RESNET_INFER_SERVE_PORT"),
        ("MAX_QUEUE", "many", "a whole number, not 'many'"),
        ("MAX_QUEUE", "0", "at least 1"),
        ("TIMEOUT", "nan", "more than 0"),
        ("MAX_BODY_MB", "inf", "max-body-mb is more than 0 and at most 1,000,000"),
        ("MAX_WAIT_MS", "inf", "max-wait-ms is from 0"),
        ("TIMEOUT", "soon", "a number, not 'soon'"),
        ("ACCESS_LOG", "perhaps", "true or false, not 'perhaps'"),
        ("MAX_WAIT_MS", "-1", "max-wait-ms is from 0"),
    ],
)
def test_a_variable_that_makes_no_sense_is_refused(name: str, text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Settings.from_environment({f"RESNET_INFER_SERVE_{name}": text})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_keys_come_from_the_environment_and_from_a_file(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "keys"
    file.write_text("# Keys of two people\n\none\n\n  two  \n  # three: old\n", encoding=encoding)
    keys = load_keys(Settings(api_key_file=str(file)), {"RESNET_INFER_API_KEY": "three"})
    assert [keys.match(key) for key in (b"one", b"two", b"three", b"", b"Keys", b"old", b"on")] == [True] * 3 + [
        False
    ] * 4
    assert not load_keys(Settings(), {})
    assert not ApiKeys().match(b"")


def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path: Path) -> None:
    """As Notepad and PowerShell write it in front of a text."""
    file = tmp_path / "keys"
    file.write_text("one\n", encoding="utf-8-sig")
    assert load_keys(Settings(api_key_file=str(file)), {}).match(b"one")


@pytest.mark.parametrize(
    "content", [b"", b"  \n", b"# only a comment\n", b"first\nsecond third\n", b"\xff\xfe", b"\xef\xbb\xbf"]
)
def test_a_file_without_keys_is_no_open_door(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    for path in (file, tmp_path / "absent"):
        with pytest.raises(UsageError):
            load_keys(Settings(api_key_file=str(path)), {})


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key is compared by `hmac.compare_digest`, also after one that matched."""
    import hmac

    compared: list[Any] = []
    compare = hmac.compare_digest

    def watched(given: bytes, known: bytes) -> bool:
        compared.append(known)
        return compare(given, known)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    assert ApiKeys(("one", "two", "three")).match(b"one")
    assert compared == [b"one", b"two", b"three"]
