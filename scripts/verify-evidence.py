#!/usr/bin/env python3
"""Verify Salvor's evidence without Salvor: verify-evidence.py FILE PUBLIC-KEY.PEM

Follows docs/formats/evidence.md and nothing else. Needs the package `cryptography`.
Exit code 0 and one line if every byte is as it was signed; 1 and the reason otherwise.
"""
import hashlib
import json
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

FORMAT = "salvor.dev/evidence/v1"


class Broken(Exception):
    pass


def canonical(value):
    """RFC 8785 for null, booleans, text, whole numbers, lists and objects."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(canonical(name) + ":" + canonical(value[name]) for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, float):
        raise Broken("a number is not whole")
    return json.dumps(value, ensure_ascii=False)


def digest(what, value):
    return hashlib.sha256(f"{FORMAT}/{what}\n{canonical(value)}".encode()).hexdigest()


def verify(content, key):
    document = json.loads(content.decode())
    if document["format"] != FORMAT:
        raise Broken("unknown format")
    if canonical(document).encode() != content:
        raise Broken("not spelled as it was signed")
    if set(document) != {"format", "publicKey", "records", "root", "run", "signature"} or not document["records"]:
        raise Broken("not the members of this format")
    previous = "0" * 64
    for index, record in enumerate(document["records"]):
        if set(record) != {"body", "digest", "index", "kind", "subject"} or record["index"] != index:
            raise Broken(f"record {index} is out of place")
        covered = {name: record[name] for name in ("body", "index", "kind", "subject")} | {"previous": previous}
        if digest("record", covered) != record["digest"]:
            raise Broken(f"record {index} ({record['kind']} of {record['subject']}) was changed")
        previous = record["digest"]
    if document["root"] != previous:
        raise Broken("the root differs")
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    if document["publicKey"] != raw.hex():
        raise Broken("signed with another key")
    signed = {"count": len(document["records"])} | {name: document[name] for name in ("publicKey", "root", "run")}
    if document["signature"] != document["signature"].lower():
        raise Broken("the signature is not lowercase")
    key.verify(bytes.fromhex(document["signature"]), f"{FORMAT}/signature\n{canonical(signed)}".encode())
    return document


def main():
    with open(sys.argv[1], "rb") as file:
        content = file.read()
    with open(sys.argv[2], "rb") as file:
        key = serialization.load_pem_public_key(file.read())
    try:
        document = verify(content, key)
    except InvalidSignature:
        sys.exit("BROKEN: the signature does not fit")
    except (Broken, KeyError, TypeError, ValueError) as error:
        sys.exit(f"BROKEN: {error}")
    print(f"OK: {len(document['records'])} records of run {document['run']}")


main()
