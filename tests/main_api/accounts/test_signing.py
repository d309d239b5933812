"""Keys: which are taken, what they are called, and that nothing shows a secret."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from main_api.accounts.signing import SigningKeys
from tests.main_api.accounts.forging import (
    OTHER_SECRET,
    SECRET,
    ec_key,
    ed_key,
    pem,
    public_pem,
    rsa_key,
)


def written(folder: Path, *contents: bytes) -> list[Path]:
    paths = [folder / f"key{number}.pem" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def fault(*contents: bytes, folder: Path) -> str:
    with pytest.raises(ValueError, match="key") as caught:
        SigningKeys.from_files(written(folder, *contents))
    return str(caught.value)


def test_the_first_secret_signs_and_every_secret_is_found_by_its_name() -> None:
    keys = SigningKeys.from_secrets([SECRET, OTHER_SECRET])
    swapped = SigningKeys.from_secrets([OTHER_SECRET, SECRET])

    assert (keys.current.signing, keys.current.algorithm) == (SECRET.encode(), "HS256")
    assert keys.key(swapped.current.kid) == swapped.current
    assert keys.current.kid != swapped.current.kid
    assert keys.key("unknown") is None
    assert keys.key(None) is None


def test_a_name_is_short_and_hexadecimal_and_no_plain_hash_of_the_secret() -> None:
    kid = SigningKeys.from_secrets([SECRET]).current.kid

    assert len(kid) == 16
    assert set(kid) <= set("0123456789abcdef")
    assert not hashlib.sha256(SECRET.encode()).hexdigest().startswith(kid)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        SECRET[:31],
        "a" * 64,
        "abcdefg" * 8,
        "changeme" * 8,
        "change-me-" * 4,
        "password" * 4 + "pass",
        "0123456789abcdef" * 2,
        "1234567890123456789012345678901234567890",
        "aabbccddeeffgaabbccddeeffggfedcbaabc",
    ],
)
def test_a_secret_that_is_short_or_easy_is_refused_without_a_word_of_it(secret: str) -> None:
    with pytest.raises(ValueError, match=r"^secret number 2: ") as caught:
        SigningKeys.from_secrets([SECRET, secret])

    assert not secret or secret[:6] not in str(caught.value)
    assert SECRET[:6] not in str(caught.value)


def test_a_secret_of_32_bytes_is_long_enough_whatever_characters_they_are() -> None:
    assert SigningKeys.from_secrets([SECRET[:32]]).current.signing == SECRET[:32].encode()
    assert SigningKeys.from_secrets(["äöüßéèçñøåæœ¡¿§µ"]).current.algorithm == "HS256"


def test_a_public_key_or_a_jwk_is_no_secret() -> None:
    for text in (public_pem(rsa_key()).decode(), '{"kty":"oct","k":"Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MA"}'):
        with pytest.raises(ValueError, match=r"^secret number 1: ") as caught:
            SigningKeys.from_secrets([text])
        assert text[:20] not in str(caught.value)


def test_without_a_key_that_signs_there_are_none() -> None:
    for make in (SigningKeys.from_secrets, SigningKeys.from_files):
        with pytest.raises(ValueError, match="the first key"):
            make([])


def test_nothing_shows_a_secret(tmp_path: Path) -> None:
    secrets = SigningKeys.from_secrets([SECRET, OTHER_SECRET])
    files = SigningKeys.from_files(written(tmp_path, pem(ec_key())))

    for shown in (repr(secrets), repr(secrets.current), str(secrets), repr(files), repr(files.current)):
        assert SECRET not in shown
        assert OTHER_SECRET not in shown
        assert "PrivateKey" not in shown
    assert repr(files) == f"SigningKeys({files.current.kid})"


@pytest.mark.parametrize(("key", "algorithm"), [(rsa_key, "RS256"), (ec_key, "ES256")])
def test_the_kind_of_the_file_gives_the_algorithm(key: Any, algorithm: str, tmp_path: Path) -> None:
    keys = SigningKeys.from_files(written(tmp_path, pem(key())))

    assert keys.current.algorithm == algorithm
    assert keys.current.signing is not None


def test_a_key_is_named_by_its_public_half_so_that_a_public_file_will_do_for_an_old_one(
    tmp_path: Path,
) -> None:
    keys = SigningKeys.from_files(written(tmp_path, pem(rsa_key()), public_pem(ec_key())))
    old = SigningKeys.from_files(written(tmp_path, pem(ec_key())))

    found = keys.key(old.current.kid)

    assert found is not None
    assert (found.algorithm, found.signing) == ("ES256", None)


def test_files_as_openssl_writes_them_are_taken(tmp_path: Path) -> None:
    # `openssl ecparam -genkey` puts the parameters before the key; older ones write PKCS 1.
    traditional = rsa_key().private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    sec1 = ec_key().private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"

    keys = SigningKeys.from_files(written(tmp_path, traditional, sec1, parameters + sec1))

    assert keys.current.algorithm == "RS256"


def test_a_first_key_that_cannot_sign_is_refused(tmp_path: Path) -> None:
    assert "private" in fault(public_pem(rsa_key()), pem(rsa_key()), folder=tmp_path)


def test_other_kinds_of_keys_are_refused_by_the_name_of_their_file(tmp_path: Path) -> None:
    password = BestAvailableEncryption(b"canary-password")
    encrypted = rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, password)
    wrong = [
        b"",
        b"nonsense",
        b"\xff\xfe\x00",
        pem(rsa_key())[:200],
        pem(ed_key()),
        pem(rsa_key(bits=1024)),
        pem(ec_key(curve=ec.SECP384R1)),
        SECRET.encode(),
        public_pem(ed_key()),
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    ]

    for content in wrong:
        said = fault(pem(ec_key()), content, folder=tmp_path)
        assert said.startswith(f"{tmp_path}/key1.pem: ")
        assert SECRET not in said
    assert "without a password" in fault(encrypted, folder=tmp_path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pem", tmp_path):
        with pytest.raises(ValueError, match=str(path)):
            SigningKeys.from_files([path])
