"""A second reading of hardware reports, by other people's X.509 and cryptography: lines of JSON in, one word for each out.

A line has `kind` and, in hex: for `snp` the `report`, `vek`, `authority` and the vendor's `roots` (certificates); for `azure`
the `hcl` report, the vTPM's `attest` and `signature` (RSASSA's octets) and `pcrs` (a list of [register, hex]), with what `snp`
has, or the `quote` of a TD and `root`; for `gpu` the `report`, its `chain` and the `root`; for `launch` Google's `endorsement`
with the `report` or the `quote` that it should be about and the `root`'s SubjectPublicKeyInfo. `at` is in seconds since 1970.
The word is `good` or what is wrong. Signatures, chains and what ties them are looked at; what a policy would say is not.
"""

import base64
import hashlib
import json
import struct
import sys
from datetime import datetime, timezone

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

AMD = "1.3.6.1.4.1.3704.1."


class Wrong(Exception):
    pass


def need(holds, what):
    if not holds:
        raise Wrong(what)


def spki(certificate):
    return certificate.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def chained(chain, at):
    """Leaf first: each issued by the next, all of them valid."""
    moment = datetime.fromtimestamp(at, timezone.utc)
    for subject, issuer in zip(chain, chain[1:]):
        subject.verify_directly_issued_by(issuer)
    for certificate in chain:
        need(certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc, "dates")


def ecdsa(key, octets, message, digest, order="big"):
    half = len(octets) // 2
    r, s = int.from_bytes(octets[:half], order), int.from_bytes(octets[half:], order)
    key.verify(encode_dss_signature(r, s), message, ec.ECDSA(digest))


def certificate(text):
    return x509.load_der_x509_certificate(bytes.fromhex(text))


def snp(line):
    return snp_report(bytes.fromhex(line["report"]), line)


def snp_report(report, line):
    need(len(report) == 0x4A0, "length")
    vek, authority = certificate(line["vek"]), certificate(line["authority"])
    roots = [root for root in map(certificate, line["roots"]) if root.subject == authority.issuer]
    need(len(roots) == 1, "another root")
    chained([vek, authority, *roots], line["at"])
    values = {e.oid.dotted_string[len(AMD) :]: e.value.value for e in vek.extensions if e.oid.dotted_string.startswith(AMD)}
    number = lambda arc: int.from_bytes(values[arc][2:], "big")
    turin = values["2"][2:].startswith(b"Turin")
    places = {"3.9": 0, "3.1": 1, "3.2": 2, "3.3": 3, "3.8": 7} if turin else {"3.1": 0, "3.2": 1, "3.3": 6, "3.8": 7}
    tcb = report[0x180:0x188]
    need(all(number(arc) == tcb[place] for arc, place in places.items()), "TCB")
    if "4" in values:
        chip = values["4"] if len(values["4"]) in (8, 64) else values["4"][2:]
        need(report[0x1A0:0x1E0] == chip.ljust(64, b"\0"), "chip")
    need(not any(report[0x2A0 + 144 :]), "behind the signature")
    ecdsa(vek.public_key(), report[0x2A0 : 0x2A0 + 144], report[:0x2A0], hashes.SHA384(), "little")
    return report[0x50:0x90]


def td_quote(quote, line):
    """A quote of version 4 with a TD 1.0 body: what it says to have been told."""
    signed = quote[: 48 + 584]
    (length,) = struct.unpack("<I", quote[len(signed) : len(signed) + 4])
    auth = quote[len(signed) + 4 :][:length]
    need(struct.unpack("<H", quote[:2]) == (4,) and len(auth) == length, "form")
    signature, point, (kind, _), nested = auth[:64], auth[64:128], struct.unpack("<HI", auth[128:134]), auth[134:]
    need(kind == 6, "certification data")
    enclave, its_signature, (size,) = nested[:384], nested[384:448], struct.unpack("<H", nested[448:450])
    data, rest = nested[450 : 450 + size], nested[450 + size :]
    kind, size = struct.unpack("<HI", rest[:6])
    need(kind == 5, "certification data")
    chain = x509.load_pem_x509_certificates(rest[6 : 6 + size].rstrip(b"\0"))
    root = certificate(line["root"])
    need(len(chain) == 3 and spki(chain[2]) == spki(root), "another root")
    chained([*chain[:2], root], line["at"])
    ecdsa(chain[0].public_key(), its_signature, enclave, hashes.SHA256())
    need(enclave[320:384] == hashlib.sha256(point + data).digest() + bytes(32), "attestation key")
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\4" + point)
    ecdsa(key, signature, signed, hashes.SHA256())
    return signed[48 + 520 :]


def azure(line):
    hcl = bytes.fromhex(line["hcl"])
    (size,) = struct.unpack("<I", hcl[1232:1236])
    claims = hcl[1236 : 1236 + size]
    told = hashlib.sha256(claims).digest() + bytes(32)
    if "quote" in line:
        need(hcl[32 + 128 : 32 + 192] == told, "the TD's report")
        need(td_quote(bytes.fromhex(line["quote"]), line) == told, "the claims are not bound")
    else:
        need(snp_report(hcl[32:1216], line) == told, "the claims are not bound")
    (key,) = [key for key in json.loads(claims)["keys"] if key["kid"] == "HCLAkPub"]
    n, e = (int.from_bytes(base64.urlsafe_b64decode(key[part] + "=="), "big") for part in "ne")
    attest, signature = bytes.fromhex(line["attest"]), bytes.fromhex(line["signature"])
    rsa.RSAPublicNumbers(e, n).public_key().verify(signature, attest, padding.PKCS1v15(), hashes.SHA256())
    need(attest[:6] == b"\xffTCG\x80\x18", "magic or type")
    # One bank, SHA-256, with a bitmap of three octets, and the digest of its registers behind.
    need(attest[-44:-37] == b"\0\0\0\1\0\x0b\3" and attest[-34:-32] == b"\0\x20", "selection")
    bitmap = int.from_bytes(attest[-37:-34], "little")
    need([index for index in range(24) if bitmap >> index & 1] == [index for index, _ in line["pcrs"]], "selection")
    need(hashlib.sha256(b"".join(bytes.fromhex(value) for _, value in line["pcrs"])).digest() == attest[-32:], "digest")


def gpu(line):
    chain, root, report = [*map(certificate, line["chain"])], certificate(line["root"]), bytes.fromhex(line["report"])
    need(spki(chain[-1]) == spki(root), "another root")
    chained([*chain[:-1], root], line["at"])
    ecdsa(chain[0].public_key(), report[-96:], report[:-96], hashes.SHA384())


def fields(octets):
    """A protocol buffer's fields with their numbers: octets, or None for a kind that is not asked for here."""
    at = 0

    def varint():
        nonlocal at
        value = 0
        for shift in range(0, 70, 7):
            octet, at = octets[at], at + 1
            value |= (octet & 0x7F) << shift
            if octet < 0x80:
                return value
        raise Wrong("form")

    while at < len(octets):
        number, kind = divmod(varint(), 8)
        value = None
        if kind == 2:
            size = varint()
            value, at = octets[at : at + size], at + size
        elif kind == 0:
            varint()
        else:
            need(kind in (1, 5), "form")
            at += 8 if kind == 1 else 4
        need(number > 0 and at <= len(octets), "form")
        yield number, value


def launch(line):
    outer = [*fields(bytes.fromhex(line["endorsement"]))]
    need(sorted(number for number, _ in outer) == [1, 2], "form")
    signed, signature = (value for _, value in sorted(outer))
    golden = dict(fields(signed))
    authorities, signer = x509.load_pem_x509_certificates(golden[6]), x509.load_der_x509_certificate(golden[4])
    need(spki(authorities[0]).hex() == line["root"], "another root")
    try:
        chained([signer, *authorities[::-1]], line["at"])
    except (InvalidSignature, ValueError):
        raise Wrong("chain") from None
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)
    signer.public_key().verify(signature, signed, pss, hashes.SHA256())
    if "report" in line:
        measurement, part, place = bytes.fromhex(line["report"])[0x90:0xC0], 7, 2
    else:
        quote = bytes.fromhex(line["quote"])
        body = {4: 48, 5: 48 + 6}[struct.unpack("<H", quote[:2])[0]]
        measurement, part, place = quote[body + 136 : body + 184], 8, 3
    endorsed = [dict(fields(entry))[place] for number, entry in fields(golden.get(part, b"")) if number == 2]
    need(measurement in endorsed, "measurement")


for text in sys.stdin:
    line = json.loads(text)
    try:
        {"snp": snp, "azure": azure, "gpu": gpu, "launch": launch}[line["kind"]](line)
        print("good")
    except InvalidSignature:
        print("signature")
    except Wrong as wrong:
        print(wrong)
    except Exception as error:  # octets that these libraries cannot read
        print(f"unreadable: {type(error).__name__}: {error}".replace("\n", " "))
