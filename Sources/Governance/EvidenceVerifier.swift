import Core

/// Checks evidence, offline, against a public key that came another way.
package enum EvidenceVerifier {
  /// The document, if every byte of it is as it was signed.
  ///
  /// Records are checked before the signature, so that a change is named where it is.
  /// O(*n* log *n*) in bytes, for the order of members.
  package static func verify(
    _ bytes: [UInt8], publicKey expected: EvidencePublicKey
  ) throws(EvidenceError) -> Evidence {
    let (document, value) = try parse(bytes)
    guard let format = document["format"]?.string else { throw .malformed("there is no 'format'") }
    guard format == Evidence.format else { throw .unsupported(format: format) }
    try expect(["format", "publicKey", "records", "root", "run", "signature"], in: document, of: "the document")
    guard let list = document["records"]?.array, !list.isEmpty else {
      throw .malformed("'records' is no list, or empty")
    }
    guard let run = document["run"]?.string else { throw .malformed("'run' is no text") }
    let root = try hex("root", 32, document)
    let key = try EvidencePublicKey(bytes: try hex("publicKey", 32, document))
    let signature = try hex("signature", 64, document)

    var records: [EvidenceRecord] = []
    for (index, element) in list.enumerated() {
      records.append(try record(element, at: index, after: records.last?.digest))
    }
    guard let last = records.last?.digest, last.bytes == root else { throw .rootChanged }
    let spelling = try CanonicalText.encode(value)
    guard spelling == bytes else {
      throw .notCanonical(offset: zip(spelling, bytes).enumerated().first { $1.0 != $1.1 }?.offset ?? spelling.count)
    }
    guard key == expected else { throw .keyWrong(expected: expected.id, found: key.id) }
    let message = try Evidence.signedBytes(run: run, count: records.count, root: last, publicKey: key)
    guard expected.accepts(signature, for: message) else { throw .signatureWrong }
    return Evidence(run: run, records: records, root: last, publicKey: key, signature: signature)
  }

  /// The document, if it is whole under the key that it names itself: who that is has to be known from elsewhere.
  package static func verify(ofOwnWord bytes: [UInt8]) throws(EvidenceError) -> Evidence {
    let (document, _) = try parse(bytes)
    return try verify(bytes, publicKey: EvidencePublicKey(bytes: try hex("publicKey", 32, document)))
  }

  static func parse(_ bytes: [UInt8]) throws(EvidenceError) -> (members: [String: JSONValue], whole: JSONValue) {
    guard bytes.first == UInt8(ascii: "{") else { throw .notJSON("it doesn't begin with '{'") }
    guard let end = CanonicalText.endOfObject(bytes) else { throw .notJSON("it ends before its last '}'") }
    let value: JSONValue
    do { value = try CanonicalJSON.decode(JSONValue.self, from: bytes[..<end]) } catch {
      throw .notJSON("it can't be parsed")
    }
    guard end == bytes.count else { throw .trailingData(bytes: bytes.count - end) }
    guard case .object(let members) = value else { throw .notJSON("it is no object") }
    return (members, value)
  }

  private static func record(
    _ element: JSONValue, at index: Int, after previous: Digest?
  ) throws(EvidenceError) -> EvidenceRecord {
    guard let members = element.object else { throw .malformed("record \(index) is no object") }
    guard let number = members["index"]?.integer, let kind = members["kind"]?.string,
      let subject = members["subject"]?.string, let body = members["body"], let digest = members["digest"]?.string
    else { throw .malformed("record \(index) lacks a member, or has one of the wrong type") }
    let place = EvidenceError.Place(index: Int(number), kind: kind, subject: subject)
    guard number == Int64(index) else { throw .recordOutOfPlace(place, expectedIndex: index) }
    try expect(["body", "digest", "index", "kind", "subject"], in: members, of: "\(place)")
    let actual: Digest
    do throws(EvidenceError) {
      actual = try Evidence.digest(
        index: index, kind: kind, subject: subject, body: body, previous: previous?.hex ?? Evidence.beginning)
    } catch {
      // Nobody could have signed what can't be written.
      throw .recordChanged(place)
    }
    guard digest == actual.hex else { throw .recordChanged(place) }
    return EvidenceRecord(index: index, kind: kind, subject: subject, body: body, digest: actual)
  }

  private static func expect(
    _ names: Set<String>, in members: [String: JSONValue], of what: String
  ) throws(EvidenceError) {
    let found = Set(members.keys)
    guard found == names else {
      throw .malformed("\(what) has the members \(found.sorted().joined(separator: ", "))")
    }
  }

  private static func hex(
    _ name: String, _ count: Int, _ members: [String: JSONValue]
  ) throws(EvidenceError) -> [UInt8] {
    guard let text = members[name]?.string, let bytes = Hex.decode(text), bytes.count == count else {
      throw .malformed("'\(name)' is not \(count) bytes in lowercase hexadecimal")
    }
    return bytes
  }
}
