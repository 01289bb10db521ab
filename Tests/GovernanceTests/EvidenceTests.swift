import Core
import Foundation
import Governance
import TestSupport
import Testing

/// A sample with every kind of value and character.
private func sample(_ signer: EvidenceSigner) throws -> Evidence {
  var builder = EvidenceBuilder()
  try builder.add(
    kind: "run.started", subject: "bank", body: ["by": "ops", "at": "2026-11-21T08:09:20Z", "dry": false])
  try builder.add(
    kind: "restore.swapped", subject: "ledger",
    body: [
      "position": "0/3000148", "rows": .integer(-9_007_199_254_740_991), "kept": .null, "proofs": ["a", ["b"], []],
    ])
  try builder.add(
    kind: "check.passed", subject: "sessions \"quoted\" \\ é \u{1F9EA} \u{7f}\u{1}\u{8}\u{c}\r\n\t/",
    body: ["\u{1F9EA}": 1, "\u{FFFD}": 2, "z": "{\"}", "a": .object([:])])
  return try builder.sealed(run: "bank-1", by: signer)
}

@Suite("Evidence") struct EvidenceTests {
  let signer: EvidenceSigner
  let bytes: [UInt8]

  init() throws {
    signer = try EvidenceSigner.create(randomness: SeededRandomness(seed: 7))
    bytes = try sample(signer).encoded()
  }

  private func failure(_ bytes: [UInt8], _ key: EvidencePublicKey? = nil) -> EvidenceError? {
    do throws(EvidenceError) {
      _ = try EvidenceVerifier.verify(bytes, publicKey: key ?? signer.publicKey)
      return nil
    } catch { return error }
  }

  private func replacing(_ text: String, _ other: String) throws -> [UInt8] {
    let whole = String(decoding: bytes, as: UTF8.self)
    let range = try #require(whole.range(of: text))
    return Array(whole.replacingCharacters(in: range, with: other).utf8)
  }

  @Test("what was sealed verifies, and comes back as it was") func roundTrip() throws {
    let evidence = try EvidenceVerifier.verify(bytes, publicKey: signer.publicKey)
    #expect(try evidence == sample(signer))
    #expect(evidence.records.map(\.kind) == ["run.started", "restore.swapped", "check.passed"])
    #expect(evidence.root == evidence.records.last?.digest)
  }

  @Test("any byte changed fails, whichever bits") func everyByte() {
    for offset in bytes.indices {
      // The case of a letter, the neighbouring digit, and one that differs from byte to byte.
      for mask in [0x20, 0x01, UInt8(1) << UInt8(offset % 8) | 0x02] {
        var changed = bytes
        changed[offset] ^= mask
        #expect(failure(changed) != nil, "byte \(offset), bits \(mask)")
      }
    }
  }

  @Test("any byte left out, doubled, or put in fails") func everyEdit() {
    for offset in bytes.indices {
      var shorter = bytes
      shorter.remove(at: offset)
      #expect(failure(shorter) != nil, "without byte \(offset)")
      var longer = bytes
      longer.insert([UInt8(ascii: " "), UInt8(ascii: "\n"), UInt8(ascii: "0"), bytes[offset]][offset % 4], at: offset)
      #expect(failure(longer) != nil, "byte \(longer[offset]) before byte \(offset)")
      #expect(failure(Array(bytes[..<offset])) != nil, "the first \(offset) bytes")
    }
  }

  @Test("a change is named where it is") func namesTheChange() throws {
    let swapped = EvidenceError.Place(index: 1, kind: "restore.swapped", subject: "ledger")
    #expect(failure(try replacing("0/3000148", "0/3000149")) == .recordChanged(swapped))
    #expect(EvidenceError.recordChanged(swapped).description.contains("record 1 (restore.swapped of ledger)"))
    let renamed = EvidenceError.Place(index: 1, kind: "restore.swapped", subject: "ledges")
    #expect(failure(try replacing("\"ledger\"", "\"ledges\"")) == .recordChanged(renamed))
    #expect(failure(try replacing("bank-1", "bank-2")) == .signatureWrong)
    #expect(failure(try replacing("evidence/v1", "evidence/v2")) == .unsupported(format: "salvor.dev/evidence/v2"))
    #expect(failure(try replacing("{\"format", "{ \"format")) == .notCanonical(offset: 1))
    #expect(failure(bytes + [10]) == .trailingData(bytes: 1))
    #expect(failure(bytes + bytes) == .trailingData(bytes: bytes.count))
    #expect(failure(try replacing("-9007199254740991", "-1.5")) == .recordChanged(swapped))
    #expect(failure(try replacing("-9007199254740991", "-9007199254740991.5")) != nil)
    #expect(failure(try replacing("-9007199254740991", "-9007199254740991.0")) != nil)
    let root = try sample(signer).root.hex
    let other = Digest.of("x").hex
    #expect(failure(try replacing("\"root\":\"\(root)", "\"root\":\"\(other)")) == .rootChanged)
    for broken in ["", "[]", "null", "{", "{]}", "\u{feff}{}"] {
      guard case .notJSON? = failure(Array(broken.utf8)) else {
        Issue.record("\(broken) is no JSON object")
        continue
      }
    }
    for depth in [60, 500, 510, 600, 100_000] {
      let deep = String(repeating: "{\"a\":", count: depth) + "1" + String(repeating: "}", count: depth)
      #expect(failure(Array(deep.utf8)) != nil)
    }
    #expect(failure(Array("{}".utf8)) == .malformed("there is no 'format'"))
  }

  @Test("records can't be left out, doubled or moved, also at the end") func removed() throws {
    let evidence = try sample(signer)
    func rebuilt(_ indices: [Int]) throws -> [UInt8] {
      let whole = try #require(try CanonicalJSON.decode(JSONValue.self, from: bytes).object)
      var changed = whole
      let records = try #require(whole["records"]?.array)
      changed["records"] = .array(indices.map { records[$0] })
      // Sorted and without spaces; these values are spelled the same either way.
      return try CanonicalJSON.encode(JSONValue.object(changed))
    }
    #expect(failure(try rebuilt([0, 1])) == .rootChanged)
    #expect(failure(try rebuilt([0, 2])) == .recordOutOfPlace(evidence.records[2].place, expectedIndex: 1))
    #expect(failure(try rebuilt([1, 0, 2])) == .recordOutOfPlace(evidence.records[1].place, expectedIndex: 0))
    #expect(failure(try rebuilt([0, 0, 1, 2])) == .recordOutOfPlace(evidence.records[0].place, expectedIndex: 1))
    #expect(failure(try rebuilt([])) == .malformed("'records' is no list, or empty"))
  }

  @Test("another key, and a signature of someone who put in a key of their own") func keys() throws {
    let other = try EvidenceSigner.create(randomness: SeededRandomness(seed: 8))
    #expect(failure(bytes, other.publicKey) == .keyWrong(expected: other.publicKey.id, found: signer.publicKey.id))
    #expect(failure(try sample(other).encoded()) == .keyWrong(expected: signer.publicKey.id, found: other.publicKey.id))

    let again = try EvidenceSigner(privateKeyFile: signer.privateKeyFile)
    #expect(again.publicKey == signer.publicKey)
    #expect(try EvidencePublicKey(text: signer.publicKey.text) == signer.publicKey)
    #expect("\(signer)".contains("***"), "a signer prints no key")
    for text in ["", signer.publicKey.text, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
      #expect(throws: EvidenceError.self) { _ = try EvidenceSigner(privateKeyFile: Secret(text)) }
    }
    #expect(throws: EvidenceError.self) {
      _ = try EvidencePublicKey(text: "-----BEGIN PUBLIC KEY-----\n*\n-----END PUBLIC KEY-----")
    }
  }

  @Test("what no other parser would read the same is refused") func notRepresentable() throws {
    var builder = EvidenceBuilder()
    var deep = JSONValue.null
    for _ in 0..<100 { deep = [deep] }
    for body in [JSONValue.number(0.5), .integer(.max), .array([.number(1)]), deep] {
      #expect(throws: EvidenceError.self) { try builder.add(kind: "k", subject: "s", body: body) }
    }
    #expect(builder.records.isEmpty)
    #expect(throws: EvidenceError.self) { _ = try builder.sealed(run: "r", by: signer) }
  }

  @Test("a script in another language comes to the same verdict", .timeLimit(.minutes(10))) func otherLanguage() throws
  {
    let place = try TemporaryDirectory("evidence")
    try Data(signer.publicKey.text.utf8).write(to: URL(fileURLWithPath: place.file("key.pem")))
    let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent()
    func verdict(_ bytes: [UInt8]) throws -> (Int32, String) {
      try Data(bytes).write(to: URL(fileURLWithPath: place.file("evidence.json")))
      let process = Process()
      process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
      process.arguments = [
        "python3", root.appendingPathComponent("scripts/verify-evidence.py").path, place.file("evidence.json"),
        place.file("key.pem"),
      ]
      let pipe = Pipe()
      process.standardOutput = pipe
      process.standardError = pipe
      try process.run()
      let output = pipe.fileHandleForReading.readDataToEndOfFile()
      process.waitUntilExit()
      return (process.terminationStatus, String(decoding: output, as: UTF8.self))
    }
    let good = try verdict(bytes)
    #expect(good == (0, "OK: 3 records of run bank-1\n"))
    let changes: [([UInt8], String)] = [
      (try replacing("0/3000148", "0/3000149"), "record 1 (restore.swapped of ledger) was changed"),
      (try replacing("bank-1", "bank-2"), "the signature does not fit"), (bytes + [10], "not spelled"),
      (try replacing("{\"format", "{ \"format"), "not spelled"), (Array(bytes.dropLast()), "BROKEN"),
    ]
    for (changed, reason) in changes {
      let (code, output) = try verdict(changed)
      #expect(code == 1 && output.contains(reason), "\(reason): \(output)")
    }
  }
}
