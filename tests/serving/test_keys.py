"""Who may do what: keys for the API, keys for the administration, and their exchange while the service runs."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resnet_infer.errors import UsageError
from resnet_infer.serving.settings import ApiKeys, Settings, load_keys
from tests.serving.conftest import Service

Make = Callable[..., Service]
NAMES = [f"key-{number}" for number in range(6)]


def ways(key: str) -> list[list[tuple[str, str]]]:
    """Headers with the key: by itself, and where a gateway adds keys and tokens of its own before or behind it."""
    bearer, header = ("Authorization", f"Bearer {key}"), ("X-API-Key", key)
    foreign = [("Authorization", "Bearer of-the-gateway"), ("Authorization", "Basic eDp5"), ("X-API-Key", "wrong")]
    return [[bearer], [header], *([own, other] for own in (bearer, header) for other in foreign)] + [
        [other, own] for own in (bearer, header) for other in foreign
    ]


def opens(service: Service, path: str, headers: list[tuple[str, str]]) -> int:
    method = "POST" if path.startswith("/admin") else "GET"
    status: int = service.run(service.client.request(method, path, headers=headers)).status_code
    return status


def test_a_key_counts_wherever_it_is_and_opens_only_what_is_its_own(make_service: Make) -> None:
    service = make_service(keys=("user", "second"), admin=("admin",))
    for key in ("user", "second"):
        for headers in ways(key):
            assert opens(service, "/model", headers) == 200, headers
            assert opens(service, "/admin/reload", headers) == 403, headers
    for headers in ways("admin"):
        assert opens(service, "/model", headers) == 401, headers
    assert [opens(service, "/admin/reload", headers) for headers in ways("admin")[:2]] == [200, 200]
    for headers in ([], [("Authorization", "Basic admin")], [("X-API-Key", "")], [("X-API-Key", "wrong")]):
        assert (opens(service, "/model", headers), opens(service, "/admin/reload", headers)) == (401, 401)


@pytest.mark.parametrize("keys", [(), ("user",)])
def test_without_an_admin_key_nobody_reloads_over_http(make_service: Make, keys: tuple[str, ...]) -> None:
    service = make_service(keys=keys)
    for headers in ([], ways("user")[0], ways("")[1]):
        assert opens(service, "/admin/reload", headers) == 403
    document = service.get("/openapi.json").json()["paths"]["/admin/reload"]["post"]
    assert "security" not in document
    assert "401" not in document["responses"]


def test_an_admin_key_alone_leaves_the_rest_open(make_service: Make) -> None:
    service = make_service(admin=("admin",))
    assert opens(service, "/model", []) == 200
    assert (opens(service, "/admin/reload", []), opens(service, "/admin/reload", ways("admin")[0])) == (401, 200)
    assert service.get("/openapi.json").json()["paths"]["/admin/reload"]["post"]["security"]


def test_after_a_reload_the_keys_of_the_file_open_and_no_others(make_service: Make, tmp_path: Path) -> None:
    """Whatever the file had before; one that cannot be read changes nothing."""
    rng = random.Random(2015)
    file, admin = tmp_path / "keys", tmp_path / "admin"
    file.write_text("key-0\n")
    admin.write_text("admin-0\n")
    service = make_service(api_key_file=str(file), admin_key_file=str(admin))
    master, holding = "admin-0", {"key-0"}
    for step in range(12):
        broken = rng.random() < 0.3
        new = set(rng.sample(NAMES, rng.randint(1, 4)))
        file.write_text(rng.choice(["", "# none\n", "two words\n", f"{master}\n"]) if broken else "\n".join(new))
        if not broken:
            admin.write_text(f"admin-{step}\n")
        assert opens(service, "/admin/reload", ways(master)[0]) == (409 if broken else 200)
        if not broken:
            master, holding = f"admin-{step}", new
        for name in NAMES:
            assert opens(service, "/model", rng.choice(ways(name))) == (200 if name in holding else 401), step
        for number in range(12):
            is_master = f"admin-{number}" == master
            assert service.app.keys.match(f"admin-{number}".encode(), admin=True) == is_master
    text = service.get("/metrics", headers={"X-API-Key": min(holding)}).text
    assert 'resnet_infer_reloads_total{outcome="failed"} 0.0' not in text


def test_a_removed_key_is_out_though_the_model_cannot_be_opened(make_service: Make, tmp_path: Path) -> None:
    from resnet_infer.zoo import SMALL, built_in

    file, model = tmp_path / "keys", tmp_path / "model.onnx"
    file.write_text("old\n")
    model.write_bytes(Path(built_in(SMALL, ".onnx")).read_bytes())
    service = make_service(api_key_file=str(file), model=str(model))
    file.write_text("new\n")
    model.write_bytes(b"damaged")
    with pytest.raises(Exception, match="model"):
        service.run(api_of(service).context.renew())
    assert [opens(service, "/model", ways(key)[0]) for key in ("old", "new")] == [401, 200]


def api_of(service: Service) -> Any:
    guard: Any = service.app
    return guard.app


def test_one_key_is_not_both(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="both"):
        ApiKeys(("a", "b"), ("b",))
    file = tmp_path / "keys"
    file.write_text("a\nb\n")
    with pytest.raises(UsageError, match="both"):
        load_keys(Settings(api_key_file=str(file)), {"RESNET_INFER_ADMIN_KEY": "b"})
    keys = load_keys(Settings(admin_key_file=str(file)), {"RESNET_INFER_API_KEY": "c"})
    assert [keys.match(b"a"), keys.match(b"a", admin=True), keys.match(b"c")] == [False, True, True]


@pytest.mark.parametrize("admin", [(), ("admin",)])
@pytest.mark.parametrize("method", ["GET", "PUT", "TRACE", "DELETE"])
def test_another_method_is_said_to_be_another(make_service: Make, admin: tuple[str, ...], method: str) -> None:
    service = make_service(admin=admin)
    for headers in ([], [("X-API-Key", "admin")]):
        answer = service.run(service.client.request(method, "/admin/reload", headers=headers))
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
