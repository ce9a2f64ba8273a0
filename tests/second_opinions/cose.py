"""A second reading of COSE evidence, by other people's CBOR, COSE and cryptography: lines of JSON in, one word for each out.

A line has `kind` (nitro, cca, psa), the `evidence` in hex, `at` in seconds since 1970, and for cca and psa the `key` of the
device (SubjectPublicKeyInfo in hex); for nitro the `root`'s SubjectPublicKeyInfo in hex. The word is `good` or what is wrong.
Debug mode counts as wrong, as does any lifecycle but `secured`; what a policy would pin is not looked at.
"""

import hashlib
import json
import sys
from datetime import datetime, timezone
from importlib.metadata import version

import cbor2
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

try:
    from pycose.keys import EC2Key
    from pycose.messages import Sign1Message
except ImportError:
    Sign1Message = None
if not version("cbor2").startswith("5."):
    Sign1Message = None  # pycose 1.1 does not read what later ones give it

ALGORITHMS = {-7: (hashes.SHA256(), "secp256r1", "P_256"), -35: (hashes.SHA384(), "secp384r1", "P_384")}
HASHES = {"sha-256": hashlib.sha256, "sha-384": hashlib.sha384, "sha-512": hashlib.sha512}


class Wrong(Exception):
    pass


def sign1(octets, key):
    """The payload of a COSE_Sign1 that `key` signed."""
    item = cbor2.loads(octets)
    if isinstance(item, cbor2.CBORTag):
        if item.tag != 18:
            raise Wrong("no COSE_Sign1")
        item = item.value
    protected, _, payload, signature = item
    alg = cbor2.loads(protected)[1]
    digest, curve, pycose_curve = ALGORITHMS[alg]
    if key.curve.name != curve:
        raise Wrong("algorithm of another curve")
    half = len(signature) // 2
    if half * 8 != key.curve.key_size:
        raise Wrong("signature of another length")
    structure = cbor2.dumps(["Signature1", protected, b"", payload])
    r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    key.verify(encode_dss_signature(r, s), structure, ec.ECDSA(digest))
    if Sign1Message is not None:
        numbers = key.public_numbers()
        message = Sign1Message.decode(cbor2.dumps(cbor2.CBORTag(18, [protected, {}, payload, signature])))
        message.key = EC2Key(crv=pycose_curve, x=numbers.x.to_bytes(half, "big"), y=numbers.y.to_bytes(half, "big"))
        if not message.verify_signature():
            raise Wrong("pycose says no")
    return payload


def public(spki):
    return serialization.load_der_public_key(spki)


def nitro(line):
    octets = bytes.fromhex(line["evidence"])
    item = cbor2.loads(octets)
    item = item.value if isinstance(item, cbor2.CBORTag) else item
    document = cbor2.loads(item[2])
    chain = [x509.load_der_x509_certificate(der) for der in [*document["cabundle"], document["certificate"]]]
    at = datetime.fromtimestamp(line["at"], timezone.utc)
    spki = chain[0].public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if spki.hex() != line["root"]:
        raise Wrong("another root")
    for issuer, subject in zip([chain[0], *chain], chain):
        subject.verify_directly_issued_by(issuer)
        if not subject.not_valid_before_utc <= at <= subject.not_valid_after_utc:
            raise Wrong("dates")
    sign1(octets, chain[-1].public_key())
    if "pcrs" in document and not any(document["pcrs"][0]):
        raise Wrong("debug mode")


def secured(lifecycle):
    if not 0x3000 <= lifecycle <= 0x30FF:
        raise Wrong("lifecycle")


def cca(line):
    token = cbor2.loads(bytes.fromhex(line["evidence"]))
    parts = {key: value[1] if isinstance(value, (list, tuple)) else value for key, value in token.value.items()}
    platform = cbor2.loads(sign1(parts[44234], public(bytes.fromhex(line["key"]))))
    untrusted = cbor2.loads(cbor2.loads(parts[44241]).value[2])
    raw = untrusted[44237]
    if HASHES[untrusted[44240]](raw).digest() != platform[10]:
        raise Wrong("the realm's key is not bound")
    if 265 in untrusted:
        key = cbor2.loads(raw)
        numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(key[-2], "big"), int.from_bytes(key[-3], "big"), ec.SECP384R1())
        key = numbers.public_key()
    else:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), raw)
    sign1(parts[44241], key)
    secured(platform[2395])


def psa(line):
    claims = cbor2.loads(sign1(bytes.fromhex(line["evidence"]), public(bytes.fromhex(line["key"]))))
    secured(claims.get(2395, claims.get(-75002)))


for text in sys.stdin:
    line = json.loads(text)
    try:
        {"nitro": nitro, "cca": cca, "psa": psa}[line["kind"]](line)
        print("good")
    except InvalidSignature:
        print("signature")
    except Wrong as wrong:
        print(wrong)
    except Exception as error:  # octets that these libraries cannot read
        print(f"unreadable: {type(error).__name__}")
