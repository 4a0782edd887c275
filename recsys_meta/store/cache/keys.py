"""Keys of cached states and lists, and the sealed form of values in the shared cache.

A key names all that its value was derived from, so nothing is ever invalidated. It reads `NAME#REST`: the shared cache
stores the value under NAME alone, and each value is sealed with the whole key, so that a value stored under the same
name for another key is a miss.

    owner  {TAG}            prefix of all that belongs to an entity; the owner key itself may hold a number in digits
    state  {TAG}s#DIGEST    s is one of `SLOTS`, chosen by the digest
    list   {TAG}S#DIGEST    S is one of `LISTS`, chosen by the digest
    state  DIGEST#          of an anonymous entity, which owns nothing; a list likewise

All names that the shared cache may hold of an entity can therefore be listed: an erasure needs no index, an entity
with many interactions holds no more than its slots, and two states that fall on one slot cost an adaptation now and
then. The braces make the tag decide the hash slot on a Redis Cluster: all names of an entity lie on one node.
"""

import hashlib
import hmac
from binascii import b2a_base64
from functools import lru_cache

SLOTS = "0123456789abcdefghijklmnopqrstuv"
LISTS = "ABCDEFGH"
_SEAL = 8  # bytes; a foreign value passes once in 2^64
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_TAG = 6  # bytes; entities that share a tag overwrite each other's states, but never read them


def state_key(model_version: str, kind: str, entity: str, support_digest: str) -> str:
    """Return the key of an adapted state: a digest of all that it is derived from. An empty entity is anonymous."""
    return _key(SLOTS, kind, entity, _hash(_model_part(model_version, kind) + _framed(entity, support_digest)))


def list_key(model: str, model_version: str, kind: str, entity: str, profile_mark: str, request: bytes) -> str:
    """Return the key of a ranked list: of the request, the model version and the mark of the stored profile."""
    request_digest = hashlib.blake2b(request, digest_size=16).hexdigest()
    rest = _framed(entity, profile_mark, request_digest)
    return _key(LISTS, kind, entity, _hash(_model_part("list", model, model_version, kind) + rest))


def _key(slots: str, kind: str, entity: str, digest: bytes) -> str:
    text = _text(digest)
    return f"{owner_key(kind, entity)}{slots[digest[0] % len(slots)]}#{text}" if entity else f"{text}#"


def owner_key(kind: str, entity: str) -> str:
    """Return the key that all keys of an entity start with."""
    return f"{{{_text(_hash(_framed(kind, entity))[:_TAG])}}}"


def redis_name(key: str) -> str:
    """Return the name under which the shared cache stores the value of a key."""
    return key.partition("#")[0]


def owned_names(owner: str) -> list[str]:
    """Return all names that the shared cache may hold for an owner."""
    return [owner, *(owner + slot for slot in SLOTS + LISTS)]


def seal_value(key: str, value: bytes) -> bytes:
    """Return the value as the shared cache stores it: after a digest of key and value. An owner's number has none."""
    return value if _is_digits_key(key) else _seal(key, value) + value


def unseal_value(key: str, raw: bytes) -> bytes | None:
    """Return the value that was sealed with this key, None if the bytes are anything else."""
    if _is_digits_key(key):
        return raw if raw.isdigit() else None
    value = raw[_SEAL:]
    return value if hmac.compare_digest(raw[:_SEAL], _seal(key, value)) else None


def _is_digits_key(key: str) -> bool:
    # Such a value is only compared, so a foreign one is at worst a mismatch. Redis stores digits without extra memory.
    return key.endswith("}")


def _seal(key: str, value: bytes) -> bytes:
    digest = hashlib.blake2b(key.encode(errors="surrogatepass") + b"\0", digest_size=_SEAL)
    digest.update(value)
    return digest.digest()


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _framed(*parts: str) -> bytes:
    """Join parts, each preceded by its length: ("ab", "c") and ("a", "bc") differ."""
    raw = [part.encode(errors="surrogatepass") for part in parts]
    return b"".join([len(r).to_bytes(8, "big") + r for r in raw])


_model_part = lru_cache(maxsize=256)(_framed)  # the same in every key of a model


def _text(raw: bytes) -> str:
    return b2a_base64(raw, newline=False).translate(_URL_SAFE).rstrip(b"=").decode()
