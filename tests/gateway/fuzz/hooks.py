"""Lets many of the requests that are made up get past the first checks: names of keys that are there, algorithms that fit
them, base64 that is some. The others stay as they are.

What is put in depends on what was made up only, so that a seed stands for one run.
"""

import base64
import json
import zlib
from pathlib import Path

import schemathesis
from schemathesis.transport.serialization import Binary

# The keys of fuzz.rs, and what they sign with.
SIGNS = {
    "p256": ["SHA256_WITH_ECDSA", "SHA512_WITH_ECDSA", "NONE_WITH_ECDSA"],
    "k1": ["SHA256_WITH_ECDSA", "KECCAK256_WITH_ECDSA"],
    "rsa": ["SHA256_WITH_RSA", "SHA512_WITH_RSA_PSS", "NONE_WITH_RSA"],
    "ed": ["EDDSA"],
}
CERTIFIES = {"p256": ["SHA256_WITH_ECDSA"], "rsa": ["SHA256_WITH_RSA"], "ed": ["EDDSA"]}
ENCRYPTS = {
    "aes-cipher": ["AES_GCM", "AES_CTR", "AES", "AES_ECB"],
    "rsa-cipher": ["RSA_PADDING_OAEP", "RSA"],
}
MACS = ["hmac"]
# It may leave the token, also wrapped by itself.
OPEN = "aes-open"
FILES = "p256-files"
# The only one that gets passwords.
GUARDED = "ed-guarded"
CHANGE = "/v1/key/changePassword"
# What the test had made before.
MADE = json.loads(Path("made.json").read_text())
# Where the token has trees, a master signs, and a key that is derived from it for a moment.
TREE = "k1-tree"
if MADE["tree"]:
    SIGNS[TREE] = SIGNS[f"{TREE}/0'/1"] = SIGNS["k1"]
ALL = [*SIGNS, *ENCRYPTS, *MACS, OPEN, FILES]
# What tokens make in a moment.
MAKES = [
    {"algorithm": "EC", "curveOid": "1.2.840.10045.3.1.7", "keySize": None},
    {"algorithm": "ED", "curveOid": "1.3.101.112", "keySize": 0},
    {"algorithm": "AES", "curveOid": None, "keySize": 256},
    {"algorithm": "RSA", "curveOid": None, "keySize": 2048},
]
WRAPS = ["AES_WRAP", "AES_WRAP_PAD"]
NAMES = ["label", "keyName", "signKeyName", "encryptKeyName", "decryptKeyName", "masterKeyLabel", "unwrapKeyName"]
BASE64 = [
    "payload",
    "encryptedPayload",
    "initializationVector",
    "additionalAuthenticationData",
    "signature",
    "seed",
    "value",
    "certificate",
    "wrappedKey",
    "privateKey",
    "publicKey",
    "secretKey",
]


def number(value):
    """Of anything, and the same in each run: hash() is not."""
    return zlib.crc32(json.dumps(value, sort_keys=True, default=str).encode())


def pick(choices, value):
    return choices[number(value) % len(choices)]


def better(value):
    """Names and base64, wherever they are."""
    if isinstance(value, list):
        return [better(one) for one in value]
    if not isinstance(value, dict):
        return value
    new = {}
    for member, inner in value.items():
        if isinstance(inner, str) and member in NAMES and number(inner) % 4:
            inner = pick(ALL, inner)
        elif isinstance(inner, str) and member in BASE64 and number(inner) % 8:
            inner = base64.b64encode(inner.encode("utf-8", "surrogatepass")).decode()
        new[member] = better(inner)
    return new


def paired(request, name, algorithm, pairs, **more):
    """A key and an algorithm that go together."""
    key = pick(list(pairs), request)
    return {**request, name: key, algorithm: pick(pairs[key], [request]), **more}


def label(kind, body):
    return f"{kind} {number(body) % 1000}"


def attributes(body):
    """Of no tree of keys; half of them fit every kind of key."""
    asked = body.get("attributes")
    if not isinstance(asked, dict) or number(asked) % 2:
        return {"destroyable": True}
    return {**asked, "bip32": None, "slip10": None}


def fitting(operation, body):
    body = better(body)
    sign, verify = body.get("signRequest"), body.get("verifySignatureRequest")
    encrypt, decrypt = body.get("encryptRequest"), body.get("decryptRequest")
    hmac, verify_hmac = body.get("hmacRequest"), body.get("verifyHmacRequest")
    # One of both.
    if isinstance(verify, dict) and isinstance(verify_hmac, dict):
        verify_hmac = body["verifyHmacRequest"] = None
    if isinstance(sign, dict):
        more = {"payloadType": None, "signedApprovals": []}
        body["signRequest"] = paired(sign, "signKeyName", "signatureAlgorithm", SIGNS, **more)
    if isinstance(verify, dict):
        more = {"payloadType": None, "masterKeyPassword": None, "payload": "YQ==", "signature": "YQ=="}
        body["verifySignatureRequest"] = paired(verify, "signKeyName", "signatureAlgorithm", SIGNS, **more)
    if isinstance(encrypt, dict):
        more = {"tagLength": 0, "additionalAuthenticationData": None}
        body["encryptRequest"] = paired(encrypt, "encryptKeyName", "cipherAlgorithm", ENCRYPTS, **more)
    if isinstance(decrypt, dict):
        more = {"signedApprovals": []}
        body["decryptRequest"] = paired(decrypt, "decryptKeyName", "cipherAlgorithm", ENCRYPTS, **more)
    if isinstance(hmac, dict):
        body["hmacRequest"] = {**hmac, "keyName": pick(MACS, hmac)}
    if isinstance(verify_hmac, dict):
        body["verifyHmacRequest"] = {**verify_hmac, "keyName": pick(MACS, verify_hmac)}
    wrap, unwrap = body.get("wrapKeyRequest"), body.get("unwrapKeyRequest")
    if isinstance(wrap, dict):
        keys = {"wrapKeyName": OPEN, "keyToBeWrapped": OPEN}
        body["wrapKeyRequest"] = {**wrap, **keys, "wrapMethod": pick(WRAPS, wrap)}
    # SoftHSM does not tell how long a secret key is that it unwraps, so that this gets as far as the token and is refused.
    if isinstance(unwrap, dict):
        more = {"policy": None, "signedApprovals": None, "attributes": attributes(unwrap)}
        key = {"unwrapKeyName": OPEN, "wrapMethod": "AES_WRAP_PAD", "wrappedKey": MADE["wrapped"]}
        body["unwrapKeyRequest"] = {**unwrap, **key, **more, "label": label("unwrapped", unwrap)}
    if "SignedFileEncryptRequestDto" in body:
        key = {"fileEncryptRequest": {"encryptKeyName": FILES}}
        body = {"SignedFileEncryptRequestDto": key, "file": body.get("file", "")}
    if "SignedFileDecryptRequestDto" in body:
        key = {"fileDecryptRequest": {"decryptKeyName": FILES}}
        sealed = base64.b64decode(MADE["sealed"])
        body = {"SignedFileDecryptRequestDto": key, "file": Binary(sealed)}
    if operation.path == "/v1/createRfcTimestamp":
        body = {**body, "hashAlgorithm": pick(["SHA256", "SHA384", "SHA512"], body)}
    if operation.path == CHANGE:
        # The first one, and then itself once more.
        old, new = pick([None, "one"], body), pick(["one", ["o", "n", "e"]], [body])
        body = {"label": GUARDED, "password": old, "newPassword": new}
    if MADE["tree"] and operation.path == "/v1/derivedKey":
        master = {"masterKeyLabel": TREE, "masterKeyPassword": None}
        body = {**master, "derivationPath": f"{number(body) % 1000}'/1", "attributes": attributes(body)}
    if MADE["tree"] and operation.path == "/v1/importedKey":
        nothing = dict.fromkeys(["password", "policy", "addressFormat", "id"])
        seed = base64.b64encode(b"%032d" % number(body)).decode()
        key = {"algorithm": "EC", "curveOid": "1.3.132.0.10", "keySize": None, "seed": seed}
        more = {"sign": True, "derive": True, "slip10": True, "destroyable": True}
        body = {**body, **nothing, **key, "label": label("seed", body), "attributes": more}
    if operation.path == "/v1/key/export/plain":
        body = {**body, "label": OPEN}
    if operation.path == "/v1/key/import/plain":
        nothing = ["password", "policy", "addressFormat", "privateKey", "publicKey", "certificate"]
        nothing = dict.fromkeys(nothing)
        key = {"algorithm": "AES", "secretKey": base64.b64encode(b"%032d" % number(body)).decode()}
        body = {**body, **nothing, **key, "label": label("imported", body), "attributes": attributes(body)}
    if "/certificate/synchronous/" in operation.path:
        subject = {"commonName": f"leaf {number(body)}", "country": pick(["CH", None, "de"], body)}
        body = paired(body, "signKeyName", "signatureAlgorithm", CERTIFIES)
        body = {**body, "validity": number(body) % 1000, "standardCertificateAttributes": subject}
    if (operation.method, operation.path) == ("post", "/v1/key"):
        nothing = dict.fromkeys(["password", "id", "policy", "addressFormat"])
        more = {"label": label("made", body), "attributes": attributes(body)}
        body = {**body, **nothing, **pick(MAKES, body), **more}
    return body


@schemathesis.hook
def map_body(context, body):
    if not isinstance(body, dict):
        return body
    if context.operation.path == CHANGE and body.get("label") in ALL:
        # With a password, it would be of no use to the other operations.
        body = {**body, "label": GUARDED, "newPassword": None}
    if number(body) % 3 == 0:
        return body
    return fitting(context.operation, body)


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    if not isinstance(path_parameters, dict):
        return path_parameters
    if context.operation.path == "/v1/key/{keyName}/export/plain" and number(path_parameters) % 2:
        return {**path_parameters, "keyName": OPEN}
    if "/certificate/" in context.operation.path and number(path_parameters) % 2:
        return {**path_parameters, "keyName": pick(list(CERTIFIES), path_parameters)}
    return better(path_parameters)
