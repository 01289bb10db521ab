import Core

/// One thing that happened, or was found, and by whose word.
package struct EvidenceRecord: Sendable, Equatable {
  package let index: Int
  /// What sort of thing, such as `restore.swapped` or `check.passed`.
  package let kind: String
  /// What it is about, such as a store or a service.
  package let subject: String
  package let body: JSONValue
  /// Covers all of the above and the record before.
  package let digest: Digest

  package var place: EvidenceError.Place { .init(index: index, kind: kind, subject: subject) }
}

/// What ran, on record: a chain of records under one signature. `docs/formats/evidence.md` describes the file.
package struct Evidence: Sendable, Equatable {
  package static let format = "salvor.dev/evidence/v1"

  package let run: String
  package let records: [EvidenceRecord]
  package let root: Digest
  package let publicKey: EvidencePublicKey
  /// 64 bytes, Ed25519.
  package let signature: [UInt8]

  /// The file, byte for byte; nothing else verifies.
  package func encoded() throws(EvidenceError) -> [UInt8] {
    try CanonicalText.encode(
      .object([
        "format": .string(Self.format),
        "publicKey": .string(Hex.encode(publicKey.bytes)),
        "records": .array(
          records.map { record in
            .object([
              "body": record.body, "digest": .string(record.digest.hex), "index": .integer(Int64(record.index)),
              "kind": .string(record.kind), "subject": .string(record.subject),
            ])
          }),
        "root": .string(root.hex),
        "run": .string(run),
        "signature": .string(Hex.encode(signature)),
      ]))
  }

  /// What stands for the record before the first.
  static let beginning = String(repeating: "0", count: 64)

  static func digest(
    index: Int, kind: String, subject: String, body: JSONValue, previous: String
  ) throws(EvidenceError) -> Digest {
    let text = try CanonicalText.encode(
      .object([
        "body": body, "index": .integer(Int64(index)), "kind": .string(kind), "previous": .string(previous),
        "subject": .string(subject),
      ]))
    return Digest.of(Array("\(format)/record\n".utf8) + text)
  }

  static func signedBytes(
    run: String, count: Int, root: Digest, publicKey: EvidencePublicKey
  ) throws(EvidenceError) -> [UInt8] {
    let text = try CanonicalText.encode(
      .object([
        "count": .integer(Int64(count)), "publicKey": .string(Hex.encode(publicKey.bytes)), "root": .string(root.hex),
        "run": .string(run),
      ]))
    return Array("\(format)/signature\n".utf8) + text
  }
}

/// Collects records in the order in which things happened.
package struct EvidenceBuilder: Sendable {
  package private(set) var records: [EvidenceRecord] = []

  package init() {}

  /// - Parameter body: Text, whole numbers, lists and objects; never a secret.
  /// - Throws: ``EvidenceError/notRepresentable(_:)`` for fractions; nothing is added then.
  package mutating func add(kind: String, subject: String, body: JSONValue) throws(EvidenceError) {
    let index = records.count
    let digest = try Evidence.digest(
      index: index, kind: kind, subject: subject, body: body, previous: records.last?.digest.hex ?? Evidence.beginning)
    records.append(EvidenceRecord(index: index, kind: kind, subject: subject, body: body, digest: digest))
  }

  /// - Throws: ``EvidenceError/notRepresentable(_:)`` if there is no record: empty evidence proves nothing.
  package func sealed(run: String, by signer: EvidenceSigner) throws(EvidenceError) -> Evidence {
    guard let root = records.last?.digest else { throw .notRepresentable("there are no records") }
    let message = try Evidence.signedBytes(run: run, count: records.count, root: root, publicKey: signer.publicKey)
    return Evidence(
      run: run, records: records, root: root, publicKey: signer.publicKey, signature: try signer.sign(message))
  }
}
