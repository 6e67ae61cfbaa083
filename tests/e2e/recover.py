"""The public key (x and y in hexadecimal) that made a secp256k1 signature r‖s‖v over a digest (SEC 1, 4.1.6)."""
import sys

P = 2**256 - 2**32 - 977
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
G = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)


def add(a, b):
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and (a[1] + b[1]) % P == 0:
        return None
    slope = 3 * a[0] ** 2 * pow(2 * a[1], -1, P) if a == b else (b[1] - a[1]) * pow(b[0] - a[0], -1, P)
    x = (slope**2 - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def multiply(k, point):
    result = None
    while k:
        if k & 1:
            result = add(result, point)
        point, k = add(point, point), k >> 1
    return result


signature, digest = map(bytes.fromhex, sys.argv[1:])
r, s, v = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big"), signature[64]
assert v in (27, 28), v
y = pow(r**3 + 7, (P + 1) // 4, P)
if y % 2 != v - 27:
    y = P - y
inverse = pow(r, -1, N)
e = int.from_bytes(digest, "big")
x, y = add(multiply(s * inverse % N, (r, y)), multiply(-e * inverse % N, G))
print(f"{x:064x}{y:064x}")
