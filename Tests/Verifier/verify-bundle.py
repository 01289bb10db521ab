#!/usr/bin/env python3
"""Verify Salvor's evidence bundles without Salvor: verify-bundle.py KEYS BUNDLE...

Follows docs/formats/evidence-bundle.md and nothing else. Needs the packages `cryptography` (Ed25519) and `dilithium-py`
(ML-DSA-65). One line for each bundle: `OK name: …` or `BROKEN name: why`. Exit code 0 if all are OK, 1 if any isn't.
"""
import base64
import hashlib
import json
import os
import re
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from dilithium_py.ml_dsa import ML_DSA_65

LIMIT = 64 << 20
LATTICE = b"\xffsalvor.dev/ml-dsa-65"


class Broken(Exception):
    pass


def need(condition, why):
    if not condition:
        raise Broken(why)


def sha256(content):
    return hashlib.sha256(content).digest()


def unbase64(text):
    need(isinstance(text, str), "no base64")
    content = base64.b64decode(text, validate=True)
    need(base64.b64encode(content).decode() == text, "base64 in another spelling")
    return content


def canonical(value):
    """RFC 8785 for null, booleans, text, whole numbers, lists and objects."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(canonical(name) + ":" + canonical(value[name]) for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    need(not isinstance(value, float), "a number is not whole")
    return json.dumps(value, ensure_ascii=False)


def parse(content):
    value = json.loads(content.decode())
    need(canonical(value).encode() == content, "not in its one spelling")
    need(isinstance(value, dict), "no object")
    return value


class Key:
    """A line `name+id+base64(type || key)`, as c2sp.org/signed-note has it."""

    def __init__(self, line):
        self.name, self.id, blob = line.split("+", 2)
        blob = unbase64(blob)
        self.kind = "classic" if blob[:1] == b"\x01" else "lattice"
        marker = b"\x01" if self.kind == "classic" else LATTICE
        need(blob.startswith(marker), "a key of no known kind")
        self.key = blob[len(marker):]
        need(len(self.key) == (32 if self.kind == "classic" else 1952), "a key of another length")
        need(sha256(self.name.encode() + b"\n" + blob)[:4].hex() == self.id, "a key's id is not its own")
        self.label = f"{self.name}+{self.id}"
        self.line = line

    def check(self, signature, message):
        if self.kind == "classic":
            try:
                Ed25519PublicKey.from_public_bytes(self.key).verify(signature, message)
            except InvalidSignature:
                raise Broken(f"{self.label} has not signed this")
        else:
            need(len(signature) == 3309, "a signature of another length")
            need(ML_DSA_65.verify(self.key, message, signature), f"{self.label} has not signed this")


def checkpoint(note, keys):
    """The origin, size and root of a signed note."""
    text, separator, tail = note.rpartition("\n\n")
    need(separator and tail.endswith("\n"), "the checkpoint is no note")
    text += "\n"
    seen = set()
    for line in tail[:-1].split("\n"):
        match = re.fullmatch("\u2014 ([^ +]+) ([A-Za-z0-9+/=]+)", line)
        need(match, "a signature's line has another shape")
        blob = unbase64(match[2])
        for key in keys:
            if key.name == match[1] and key.id == blob[:4].hex():
                key.check(blob[4:], text.encode())
                seen.add(key.label)
    need(seen == {key.label for key in keys}, "not every key has signed the checkpoint")
    origin, size, root, rest = text.split("\n")
    need(rest == "" and str(int(size)) == size, "the checkpoint has other lines")
    return origin, int(size), unbase64(root)


def root_from(leaf, index, size, proof):
    """RFC 9162, section 2.1.3.2."""
    need(0 <= index < size and len(proof) <= 63, "no such entry")
    position, last, digest = index, size - 1, sha256(b"\0" + leaf)
    for sibling in proof:
        need(last > 0, "a proof is too long")
        if position & 1 or position == last:
            digest = sha256(b"\1" + sibling + digest)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            digest = sha256(b"\1" + digest + sibling)
        position, last = position >> 1, last >> 1
    need(last == 0, "a proof is too short")
    return digest


def record(document, run):
    """docs/formats/evidence.md"""
    form = document["format"]
    need(form == "salvor.dev/evidence/v1" and document["run"] == run, "the record is another one")
    previous = "0" * 64
    for index, entry in enumerate(document["records"]):
        need(set(entry) == {"body", "digest", "index", "kind", "subject"} and entry["index"] == index, "a record moved")
        covered = {name: entry[name] for name in ("body", "index", "kind", "subject")} | {"previous": previous}
        previous = hashlib.sha256(f"{form}/record\n{canonical(covered)}".encode()).hexdigest()
        need(previous == entry["digest"], f"record {index} was changed")
    need(previous == document["root"], "the record's root differs")
    signed = {"count": len(document["records"])} | {name: document[name] for name in ("publicKey", "root", "run")}
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(document["publicKey"]))
    key.verify(bytes.fromhex(document["signature"]), f"{form}/signature\n{canonical(signed)}".encode())


def verify(content, trusted):
    need(len(content) <= LIMIT, "too long")
    bundle = parse(content)
    need(set(bundle) == {"checkpoint", "entries", "envelope", "mediaType"}, "other members")
    need(bundle["mediaType"] == "application/vnd.salvor.evidence-bundle.v1+json", "another type")
    envelope = bundle["envelope"]
    need(set(envelope) == {"payload", "payloadType", "signatures"}, "another envelope")
    kind, payload = envelope["payloadType"], unbase64(envelope["payload"])
    need(kind == "application/vnd.in-toto+json", "another payload")
    statement = parse(payload)
    need(set(statement) == {"_type", "predicate", "predicateType", "subject"}, "another statement")
    need(statement["_type"] == "https://in-toto.io/Statement/v1", "another statement")
    need(statement["predicateType"] == "https://salvor.dev/evidence/run/v1", "another predicate")
    predicate, log = statement["predicate"], statement["predicate"]["log"]

    keys = [Key(line) for line in log["keys"]]
    need(keys and all(key.name == log["origin"] for key in keys), "keys of another log")
    own = [key for key in trusted if key.name == log["origin"]]
    relied = [key for key in keys if key.line in {key.line for key in own}]
    need(relied, "no key that is trusted has signed")
    need({key.kind for key in own} <= {key.kind for key in relied}, "a kind of key that is trusted is missing")
    need([signature["keyid"] for signature in envelope["signatures"]] == [key.label for key in keys], "other signatures")
    message = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    for key, signature in zip(keys, envelope["signatures"]):
        need(set(signature) == {"keyid", "sig"}, "another signature")
        key.check(unbase64(signature["sig"]), message)

    note = bundle["checkpoint"]
    need(sha256(note.encode()).hex() == log["checkpointDigest"], "another checkpoint")
    origin, size, root = checkpoint(note, keys)
    need((origin, size, root.hex()) == (log["origin"], log["size"], log["root"]), "another checkpoint")

    run, intended, written = predicate["run"], set(), False
    digest = hashlib.sha256(canonical(predicate["document"]).encode()).hexdigest()
    need([entry["index"] for entry in bundle["entries"]] == log["entries"], "other entries")
    for entry in bundle["entries"]:
        need(set(entry) == {"index", "leaf", "proof"}, "another entry")
        leaf = unbase64(entry["leaf"])
        proof = [unbase64(sibling) for sibling in entry["proof"]]
        need(all(len(sibling) == 32 for sibling in proof), "no hash")
        need(root_from(leaf, entry["index"], size, proof) == root, f"entry {entry['index']} is not in the log")
        fact = parse(leaf)
        need(fact["format"] == "salvor.dev/log/v1" and fact["run"] == run, "an entry about something else")
        action, subject = fact["action"], fact["subject"]
        if action in ("step.intended", "step.compensating", "act.intended"):
            intended.add(subject)
        elif action == "run.created":
            intended.add("")
        elif action in ("step.succeeded", "step.failed", "step.compensated", "step.compensation-failed", "act.succeeded", "act.failed"):
            need(subject in intended, f"{action} of {subject} was never intended")
        elif action == "evidence.written":
            written = written or fact["details"]["document"] == digest
    need(intended, "nothing was begun")
    need(written, "no entry says that the record was written")

    subjects = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    wanted = {f"record/{run}": digest}
    for path, text in predicate["manifests"].items():
        wanted[f"manifest/{path}"] = hashlib.sha256(text.encode()).hexdigest()
    need(subjects == wanted, "other subjects")
    record(predicate["document"], run)
    recorded = {f"manifest/{entry['subject']}": entry["body"]["sha256"] for entry in predicate["document"]["records"] if entry["kind"] == "manifest"}
    need(recorded | {f"record/{run}": digest} == wanted, "other manifests than the record's")
    return f"{len(bundle['entries'])} entries of {size}, run {run}"


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        trusted = [Key(line.strip()) for line in file if line.strip() and not line.startswith("#")]
    broken = False
    for path in sys.argv[2:]:
        name = os.path.basename(path)
        with open(path, "rb") as file:
            content = file.read(LIMIT + 1)
        try:
            print(f"OK {name}: {verify(content, trusted)}")
        except InvalidSignature:
            broken = True
            print(f"BROKEN {name}: the record's signature does not fit")
        except (Broken, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            broken = True
            print(f"BROKEN {name}: {error}")
    sys.exit(1 if broken else 0)


main()
