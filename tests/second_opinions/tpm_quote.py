"""A second reading of TPM quotes, by other people's cryptography: lines of JSON in, one word for each out.

A line has `attest` and `signature` (TPMS_ATTEST and TPMT_SIGNATURE in hex), `pcrs` (a list of [register, hex]) with their
`bank`, and `key` (SubjectPublicKeyInfo in PEM). The word is `good`, or what is wrong.
"""

import hashlib
import json
import struct
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

BANKS = {0x000B: "sha256", 0x000C: "sha384"}
HASHES = {0x000B: (hashes.SHA256(), hashlib.sha256), 0x000C: (hashes.SHA384(), hashlib.sha384)}


class Wrong(Exception):
    pass


class Octets:
    def __init__(self, octets):
        self.octets, self.at = octets, 0

    def take(self, length):
        taken = self.octets[self.at : self.at + length]
        if len(taken) != length:
            raise Wrong("malformed")
        self.at += length
        return taken

    def number(self, form):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def sized(self):
        return self.take(self.number(">H"))

    def end(self):
        if self.at != len(self.octets):
            raise Wrong("malformed")


def attested(octets):
    attest = Octets(octets)
    if attest.number(">I") != 0xFF544347:
        raise Wrong("magic")
    if attest.number(">H") != 0x8018:
        raise Wrong("type")
    attest.sized(), attest.sized(), attest.take(17), attest.take(8)
    if attest.number(">I") != 1:
        raise Wrong("selection")
    bank, size = attest.number(">H"), attest.number(">B")
    if size != 3:
        raise Wrong("selection")
    bitmap = int.from_bytes(attest.take(3), "little")
    digest = attest.sized()
    attest.end()
    return bank, [index for index in range(24) if bitmap >> index & 1], digest


def verified(key, signature, message):
    scheme, algorithm = signature.number(">H"), signature.number(">H")
    if algorithm not in HASHES:
        raise Wrong("signature")
    hash_of = HASHES[algorithm][0]
    try:
        if scheme == 0x0014 and isinstance(key, rsa.RSAPublicKey):
            octets = signature.sized()
            signature.end()
            key.verify(octets, message, padding.PKCS1v15(), hash_of)
        elif scheme == 0x0018 and isinstance(key, ec.EllipticCurvePublicKey):
            numbers = [int.from_bytes(signature.sized(), "big") for _ in range(2)]
            signature.end()
            key.verify(encode_dss_signature(*numbers), message, ec.ECDSA(hash_of))
        else:
            raise Wrong("signature")
    except InvalidSignature:
        raise Wrong("signature") from None
    return HASHES[algorithm][1]


def judge(case):
    message = bytes.fromhex(case["attest"])
    bank, selected, digest = attested(message)
    if BANKS.get(bank) != case["bank"] or selected != [index for index, _ in case["pcrs"]] or not selected:
        raise Wrong("selection")
    key = serialization.load_pem_public_key(case["key"].encode())
    algorithm = verified(key, Octets(bytes.fromhex(case["signature"])), message)
    if algorithm(b"".join(bytes.fromhex(value) for _, value in case["pcrs"])).digest() != digest:
        raise Wrong("digest")


for line in sys.stdin:
    try:
        judge(json.loads(line))
        print("good")
    except Wrong as wrong:
        print(wrong)
