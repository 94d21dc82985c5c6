"""Les clés : leurs noms, leurs limites, leur relecture ; jamais leur valeur."""

import pytest
from http_helpers import (
    LateEngine,
    ScriptedEngine,
    check_envelope,
    client_of,
    make_context,
    running_engine,
    wait_until,
)

from gpt_architecture.errors import ConfigurationError
from gpt_architecture.serving.engine.messages import Finished
from gpt_architecture.serving.http.access import Access, Bucket, KeyRing, read_keys

COMPLETIONS = "/v1/completions"
FIRST, SECOND = "premiere-clef-0123456789", "seconde-clef-0123456789"


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def test_keys_have_names_and_limits(tmp_path):
    """Une clé par ligne, seule comme autrefois, ou nommée et limitée."""
    path = tmp_path / "cles.txt"
    path.write_text(
        f"# équipe\n{FIRST}\néquipe-a  {SECOND}\trequests/min=60 tokens/min=20000\n", "utf-8"
    )
    keys = KeyRing(read_keys(path))
    assert keys.names == ["clé 1", "équipe-a"]
    assert keys.find(f"Bearer {FIRST}").limits == (None, None)
    assert keys.find(f"Bearer {SECOND}").limits == (60, 20_000)
    assert keys.find("Bearer équipe-a") is None
    assert keys.find(None) is None


@pytest.mark.parametrize(
    "line",
    [
        f"{FIRST} équipe-a",  # l'ordre inverse : le nom serait la clé
        f"équipe-a {FIRST} requests/min=0",
        f"équipe-a {FIRST} requests/min=-1",
        f"équipe-a {FIRST} requests/min=1.5",
        f"équipe-a {FIRST} requests/min=",
        f"équipe-a {FIRST} requests/s=4",
        f"équipe-a {FIRST} tokens/min=4 tokens/min=5",
        f"équipe-a {FIRST} # commentaire",
        f"équipe:a {FIRST}",
        f"{'a' * 48} {FIRST}",
        "équipe-a",
        "équipe-a courte",
        "",
    ],
)
def test_a_bad_line_is_refused_without_being_quoted(line):
    """L'erreur dit quelle ligne, et rien de ce qu'elle contient."""
    with pytest.raises(ConfigurationError, match="n° 2") as refused:
        KeyRing([SECOND, line])
    assert not any(word in str(refused.value) for word in line.split() if "=" not in word)


@pytest.mark.parametrize("line", [f"autre {FIRST}", f"équipe-a {SECOND}"])
def test_a_key_or_a_name_given_twice_is_refused(line):
    """On saurait mal qui a fait quoi."""
    with pytest.raises(ConfigurationError, match="n° 2 reprend"):
        KeyRing([f"équipe-a {FIRST}", line])


def test_all_keys_are_compared(monkeypatch):
    """Trouver une clé ne prend pas moins de temps que n'en trouver aucune."""
    compared = []
    from gpt_architecture.serving.http import access

    usual = access.hmac.compare_digest
    monkeypatch.setattr(
        access.hmac, "compare_digest", lambda a, b: compared.append(a) or usual(a, b)
    )
    keys = KeyRing([FIRST, SECOND])
    for key, count in ((FIRST, 2), (SECOND, 4), ("fausse", 6)):
        keys.find(f"Bearer {key}")
        assert len(compared) == count


def test_a_replaced_ring_keeps_its_counts():
    """Relire ne remet pas les comptes à zéro ; changer une limite, si. Un refus ne change rien."""
    keys = KeyRing([f"a {FIRST} requests/min=1"])
    access = keys.find(f"Bearer {FIRST}")
    keys.replace([f"a {SECOND} requests/min=1", f"b {FIRST} requests/min=1"])
    assert keys.find(f"Bearer {SECOND}") is access
    assert keys.find(f"Bearer {FIRST}") is not access
    with pytest.raises(ConfigurationError):
        keys.replace([f"a {SECOND} requests/min=2", "courte"])
    assert keys.find(f"Bearer {SECOND}") is access
    keys.replace([f"a {SECOND} requests/min=2"])
    assert keys.find(f"Bearer {SECOND}").limits == (2, None)


def test_a_bucket_fills_at_its_rate():
    """Une minute d'avance au plus ; l'attente annoncée suffit, et pas moins."""
    now = [0.0]
    bucket = Bucket(60, clock=lambda: now[0])
    assert bucket.take(60) == 0
    assert bucket.take(1) == pytest.approx(1)
    now[0] = 0.9
    assert bucket.take(1) == pytest.approx(0.1)
    now[0] = 1.0
    assert bucket.take(1) == 0
    now[0] = 1000.0
    assert bucket.take(60) == 0
    assert bucket.take(30) == pytest.approx(30)


def test_a_bucket_lends_to_a_large_request():
    """Plus qu'une minute ne passe que seul, et sa dette se paie : le rythme est tenu."""
    now = [0.0]
    bucket = Bucket(60, clock=lambda: now[0])
    assert bucket.take(1) == 0
    assert bucket.take(600) == pytest.approx(1)
    now[0] = 1.0
    assert bucket.take(600) == 0
    assert bucket.take(1) == pytest.approx(541)
    bucket.give(570)  # trente ont servi
    assert bucket.take(31) == pytest.approx(1)
    bucket.give(1000)
    assert bucket.take(61) == 0


def test_too_many_requests_of_a_key_are_refused():
    """429, quand revenir, et quelle limite ; les autres clés et les sondes passent."""
    keys = KeyRing([f"sobre {FIRST} requests/min=2", f"autre {SECOND}"])
    with client_of(make_context(ScriptedEngine()), keys=keys) as client:
        for _ in range(2):
            assert client.get("/v1/models", headers=bearer(FIRST)).status_code == 200
        answer = client.get("/v1/models", headers=bearer(FIRST))
        error = check_envelope(answer, 429)
        assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
        assert "sobre" in error["message"]
        assert 1 <= int(answer.headers["retry-after"]) <= 30
        assert client.get("/health", headers=bearer(FIRST)).status_code == 200
        assert client.get("/v1/models", headers=bearer(SECOND)).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_tokens_of_a_key_are_those_of_its_usage(stream):
    """Ce qui est retenu d'avance est rendu : seuls comptent les tokens lus et écrits."""
    with running_engine() as engine:
        keys = KeyRing([f"sobre {FIRST} tokens/min=100"])
        with client_of(make_context(engine), keys=keys) as client:
            body = {"prompt": "le passeur", "ignore_eos": True, "stream": stream}
            for count in (20, 20):
                answer = client.post(
                    COMPLETIONS, json={**body, "max_tokens": count}, headers=bearer(FIRST)
                )
                assert answer.status_code == 200
            # 60 tokens ont servi : 100 − 60 = 40, et 10 de début.
            refused = client.post(
                COMPLETIONS, json={**body, "max_tokens": 60}, headers=bearer(FIRST)
            )
            error = check_envelope(refused, 429)
            assert (error["type"], error["code"]) == ("tokens", "rate_limit_exceeded")
            assert 10 <= int(refused.headers["retry-after"]) <= 18
            accepted = client.post(
                COMPLETIONS, json={**body, "max_tokens": 25}, headers=bearer(FIRST)
            )
            assert accepted.status_code == 200


def test_an_answer_shorter_than_asked_costs_what_it_wrote():
    """Les tokens retenus et non écrits sont rendus à la fin."""
    end = Finished(reason="stop", prompt_tokens=3, completion_tokens=2, cached_tokens=0)
    keys = KeyRing([f"sobre {FIRST} tokens/min=60"])
    with client_of(make_context(ScriptedEngine([end])), keys=keys) as client:
        for _ in range(8):  # 8 × (3 + 2) = 40, et jamais 8 × (3 + 16)
            body = {"prompt": "abc", "max_tokens": 16}
            assert client.post(COMPLETIONS, json=body, headers=bearer(FIRST)).status_code == 200


def test_tokens_are_held_while_a_request_runs():
    """Deux requêtes à la fois ne passent pas ensemble sous la même limite."""
    import threading

    engine = LateEngine()
    keys = KeyRing([f"sobre {FIRST} tokens/min=100"])
    with client_of(make_context(engine), keys=keys) as client:
        body = {"prompt": "abc", "max_tokens": 60}
        first = threading.Thread(
            target=client.post, args=(COMPLETIONS,), kwargs={"json": body, "headers": bearer(FIRST)}
        )
        first.start()
        wait_until(lambda: engine.requests)
        refused = client.post(COMPLETIONS, json=body, headers=bearer(FIRST))
        check_envelope(refused, 429)
        engine.on_event(
            Finished(reason="stop", prompt_tokens=3, completion_tokens=1, cached_tokens=0)
        )
        first.join(10)
        access = keys.find(f"Bearer {FIRST}")
        wait_until(lambda: _admits(access, 90))


def _admits(access: Access, tokens):
    from gpt_architecture.serving.api_errors import ApiError

    try:
        access.settle(access.reserve(tokens), 0)
    except ApiError:
        return False
    return True
