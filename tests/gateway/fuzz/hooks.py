"""Lets many of the requests that are made up get past the first checks: names of keys that are there, algorithms that fit
them, base64 that is some. The others stay as they are.

What is put in depends on what was made up only, so that a seed stands for one run.
"""

import base64
import json
import zlib

import schemathesis

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
ALL = [*SIGNS, *ENCRYPTS, *MACS]
# What tokens make in a moment.
MAKES = [
    {"algorithm": "EC", "curveOid": "1.2.840.10045.3.1.7", "keySize": None},
    {"algorithm": "ED", "curveOid": "1.3.101.112", "keySize": 0},
    {"algorithm": "AES", "curveOid": None, "keySize": 256},
    {"algorithm": "RSA", "curveOid": None, "keySize": 2048},
]
NAMES = ["label", "keyName", "signKeyName", "encryptKeyName", "decryptKeyName", "masterKeyLabel"]
BASE64 = [
    "payload",
    "encryptedPayload",
    "initializationVector",
    "additionalAuthenticationData",
    "signature",
    "seed",
    "value",
    "certificate",
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


def fitting(operation, body):
    body = better(body)
    sign, verify = body.get("signRequest"), body.get("verifySignatureRequest")
    encrypt, decrypt = body.get("encryptRequest"), body.get("decryptRequest")
    hmac, verify_hmac = body.get("hmacRequest"), body.get("verifyHmacRequest")
    if isinstance(sign, dict):
        more = {"payloadType": None, "signedApprovals": []}
        body["signRequest"] = paired(sign, "signKeyName", "signatureAlgorithm", SIGNS, **more)
    if isinstance(verify, dict):
        body["verifySignatureRequest"] = paired(verify, "signKeyName", "signatureAlgorithm", SIGNS)
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
    if "/certificate/synchronous/" in operation.path:
        subject = {"commonName": f"leaf {number(body)}", "country": pick(["CH", None, "de"], body)}
        body = paired(body, "signKeyName", "signatureAlgorithm", CERTIFIES)
        body = {**body, "validity": number(body) % 1000, "standardCertificateAttributes": subject}
    if (operation.method, operation.path) == ("post", "/v1/key"):
        nothing = dict.fromkeys(["password", "id", "policy", "addressFormat"])
        attributes = body.get("attributes")
        if isinstance(attributes, dict):
            attributes = {**attributes, "bip32": None, "slip10": None}
        label = f"made {number(body) % 1000}"
        body = {**body, **nothing, **pick(MAKES, body), "label": label, "attributes": attributes}
    return body


@schemathesis.hook
def map_body(context, body):
    if not isinstance(body, dict) or number(body) % 3 == 0:
        return body
    return fitting(context.operation, body)


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    if not isinstance(path_parameters, dict):
        return path_parameters
    if "/certificate/" in context.operation.path and number(path_parameters) % 2:
        return {**path_parameters, "keyName": pick(list(CERTIFIES), path_parameters)}
    return better(path_parameters)
