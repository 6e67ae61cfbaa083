"""Reads and writes encrypted files as docs/file-format.md says, and knows nothing else of this project.

open KEY.pem < encrypted > file      seal PUBLIC.pem < file > encrypted
"""

import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SUITES = {1: (ec.SECP256R1, hashes.SHA256, 65), 2: (ec.SECP384R1, hashes.SHA384, 97), 3: (ec.SECP521R1, hashes.SHA512, 133)}
PIECE = 65536


def spki(public):
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def digest(data):
    context = hashes.Hash(hashes.SHA256())
    context.update(data)
    return context.finalize()


def cipher(z, header, algorithm):
    info = b"hsm-operator file encryption 1" + header
    return AESGCM(HKDF(algorithm(), 32, None, info).derive(z))


def nonce(number, last):
    return number.to_bytes(11, "big") + bytes([last])


def open_file(key, data):
    assert data[:8] == b"HSMFILE\x01" and data[9:12] == b"\x01\x00\x00", "header"
    curve, algorithm, length = SUITES[data[8]]
    header, rest = data[: 44 + length], data[44 + length :]
    assert header[12:44] == digest(spki(key.public_key())), "another key"
    point = ec.EllipticCurvePublicKey.from_encoded_point(curve(), header[44:])
    aead = cipher(key.exchange(ec.ECDH(), point), header, algorithm)
    segments = [rest[at : at + PIECE + 16] for at in range(0, len(rest), PIECE + 16)] or [b""]
    assert len(segments) == 1 or len(segments[-1]) > 16, "empty end"
    last = len(segments) - 1
    return b"".join(aead.decrypt(nonce(n, n == last), segment, None) for n, segment in enumerate(segments))


def seal_file(public, data):
    number, (_, algorithm, _) = next(one for one in SUITES.items() if isinstance(public.curve, one[1][0]))
    pair = ec.generate_private_key(public.curve)
    point = pair.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    header = b"HSMFILE\x01" + bytes([number, 1, 0, 0]) + digest(spki(public)) + point
    aead = cipher(pair.exchange(ec.ECDH(), public), header, algorithm)
    pieces = [data[at : at + PIECE] for at in range(0, len(data), PIECE)] or [b""]
    last = len(pieces) - 1
    return header + b"".join(aead.encrypt(nonce(n, n == last), piece, None) for n, piece in enumerate(pieces))


pem, data = open(sys.argv[2], "rb").read(), sys.stdin.buffer.read()
if sys.argv[1] == "seal":
    sys.stdout.buffer.write(seal_file(serialization.load_pem_public_key(pem), data))
else:
    try:
        sys.stdout.buffer.write(open_file(serialization.load_pem_private_key(pem, None), data))
    except InvalidTag:
        sys.exit("not authentic")
