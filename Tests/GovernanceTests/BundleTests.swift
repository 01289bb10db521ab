import Core
import Foundation
import IO
import TestSupport
import Testing

@testable import Governance

/// A bundle of a small restore, and what it was made from.
struct BundleScene {
  static let origin = "bank.example/salvor/0011aabb"
  let keys: LogKeys
  let files = CrashingFiles()
  let bytes: [UInt8]
  let checkpoint: Checkpoint

  /// - Parameter skips: An action whose entry is left out, for controls.
  init(seed: UInt64 = 7, isClassic: Bool = false, skips: String? = nil, witness: (any NoteSigner)? = nil) throws {
    keys = try LogKeys(Self.origin, seed: seed, isClassic: isClassic)
    var builder = EvidenceBuilder()
    let manifest = "kind: System\nname: <bank> & \"co\"\n"
    try builder.add(
      kind: "run", subject: "recovery-1", body: ["title": "restore ledger", "state": "succeeded", "failure": .null])
    try builder.add(kind: "point", subject: "p1", body: ["mode": "barrier", "time": "2026-11-21T08:00:00Z"])
    try builder.add(kind: "copy", subject: "ledger", body: ["snapshot": "aa", "bytes": 17])
    try builder.add(kind: "step", subject: "swap/ledger", body: ["state": "succeeded", "attempts": 1])
    try builder.add(kind: "comparison", subject: "ledger", body: ["verdict": "equal", "rows": 4])
    try builder.add(kind: "check", subject: "sums", body: ["verdict": "passed", "violations": 0])
    try builder.add(
      kind: "service", subject: "bank",
      body: [
        "rtoVerdict": "met", "rtoMilliseconds": 900, "rtoObjectiveMilliseconds": 60000, "rpoVerdict": "missed",
        "rpoMilliseconds": 90000, "rpoObjectiveMilliseconds": 60000,
      ])
    try builder.add(
      kind: "manifest", subject: "salvor.yaml",
      body: ["sha256": .string(Digest.of(manifest).hex), "bytes": .integer(Int64(manifest.utf8.count))])
    let document = try builder.sealed(run: "recovery-1", by: keys.classic).encoded()
    var entries: [LogEntry] = []
    func add(_ action: String, _ subject: String, run: String? = "recovery-1", _ details: JSONValue = .null) {
      if action == skips { return }
      let sequence = Int64(entries.count + 1)
      entries.append(
        LogEntry(
          at: "2026-11-21T08:00:0\(sequence % 10)Z", actor: "db1/1/2/3", action: action, subject: subject, run: run,
          details: details, journal: (sequence, Digest.of("\(sequence)"))))
    }
    add("stores.reserved", "ledger", run: nil)
    add("run.created", "recovery-1")
    add("step.intended", "swap/ledger", ["attempt": 1])
    add("stores.released", "ledger", run: nil)
    add("step.succeeded", "swap/ledger")
    add("run.succeeded", "recovery-1")
    add("evidence.written", "recovery-1", ["document": .string(Digest.of(document).hex)])
    let log = TransparencyLog(files, origin: Self.origin, keys: keys.keys)
    let leaves = try entries.map { try $0.encoded() }
    var checkpoint = try #require(
      try log.append(signedBy: keys.signers) { Array(leaves[Int($0.head.size)...]) })
    if let witness {
      checkpoint = try log.attach([try witness.signature(of: checkpoint.note.text)], of: [witness.key])
    }
    self.checkpoint = checkpoint
    let indices = entries.indices.filter { entries[$0].run != nil }.map(Int64.init)
    bytes = try EvidenceBundle(
      .init(
        run: "recovery-1", document: document, manifests: ["salvor.yaml": manifest], exportedAt: "2026-11-21T09:00:00Z"),
      indices: indices, in: log.reader(of: checkpoint.head), checkpoint: checkpoint, signedBy: keys.signers
    ).encoded()
  }

  func verify(_ bytes: [UInt8]? = nil, _ trusted: [NoteKey]? = nil) -> BundleReading {
    BundleVerifier.verify(bytes ?? self.bytes, trusting: trusted ?? keys.keys)
  }

  /// The bundle with a member changed, and spelled properly again.
  func changed(_ body: (inout [String: JSONValue]) throws -> Void) throws -> [UInt8] {
    var members = try #require(try EvidenceVerifier.parse(bytes).whole.object)
    try body(&members)
    return try CanonicalText.encode(.object(members))
  }

  /// As ``changed(_:)``, inside the statement; signed again by `signers`, or as it was.
  func restated(
    signedBy signers: [any NoteSigner]? = nil, _ body: (inout [String: JSONValue]) throws -> Void
  ) throws -> [UInt8] {
    var bundle = try EvidenceBundle(bytes)
    var statement = try #require(try EvidenceVerifier.parse(bundle.envelope.payload).whole.object)
    try body(&statement)
    bundle.envelope.payload = try CanonicalText.encode(.object(statement))
    if let signers {
      bundle.envelope = try Envelope(bundle.envelope.payload, type: bundle.envelope.payloadType, signedBy: signers)
    }
    return try bundle.encoded()
  }
}

extension JSONValue {
  /// The value with one deep inside replaced.
  func setting(_ path: [String], _ value: JSONValue) -> JSONValue {
    guard let first = path.first else { return value }
    if case .array(var elements) = self, let index = Int(first) {
      elements[index] = elements[index].setting(Array(path.dropFirst()), value)
      return .array(elements)
    }
    var members = object ?? [:]
    members[first] = (members[first] ?? .null).setting(Array(path.dropFirst()), value)
    return .object(members)
  }
}

@Suite("Evidence bundles") struct BundleTests {
  let scene: BundleScene

  init() throws { scene = try BundleScene() }

  @Test func `a bundle verifies with the log's keys, and with either of them`() throws {
    for keys in [scene.keys.keys, [scene.keys.keys[0]], [scene.keys.keys[1]]] {
      let reading = scene.verify(nil, keys)
      #expect(reading.isSound, "\(reading.findings)")
      #expect(reading.findings.contains { $0.what.contains("ML-DSA-65") && $0.verdict == .proved })
      #expect(reading.run == "recovery-1" && reading.entries.map(\.index) == [1, 2, 4, 5, 6])
      #expect(reading.evidence?.records.count == 8)
    }
    #expect(EvidenceBundle.isBundle(scene.bytes))
    #expect(try EvidenceBundle(scene.bytes).encoded() == scene.bytes)
  }

  /// Signatures of ML-DSA are long, and each of their bytes is like the next: where both have signed, some of them.
  @Test(.timeLimit(.minutes(10)), arguments: [true, false])
  func `every byte of a bundle changed is refused, and every end cut off`(_ isClassic: Bool) throws {
    let scene = try BundleScene(isClassic: isClassic)
    for place in stride(from: 0, to: scene.bytes.count, by: isClassic ? 1 : 17) {
      var changed = scene.bytes
      changed[place] ^= place % 2 == 0 ? 1 : 0x20
      #expect(!scene.verify(changed).isSound, "byte \(place)")
      if place % 64 == 0 { #expect(!scene.verify(Array(scene.bytes[..<place])).isSound, "the first \(place)") }
    }
    #expect(!scene.verify(scene.bytes + [10]).isSound)
  }

  @Test func `whoever has no key of the log's is told so, and who has one of each kind wants both`() throws {
    let other = try LogKeys(BundleScene.origin, seed: 8)
    #expect(!scene.verify(nil, other.keys).isSound)
    #expect(!scene.verify(nil, []).isSound)
    // The right key for one kind, a foreign one for the other.
    #expect(!scene.verify(nil, [scene.keys.keys[0], other.keys[1]]).isSound)
    #expect(!scene.verify(nil, [other.keys[0], scene.keys.keys[1]]).isSound)
    // After a change of keys both are known, and one of each is enough.
    #expect(scene.verify(nil, scene.keys.keys + other.keys).isSound)
    // Signed again by somebody else, in all its parts.
    let forged = try BundleScene(seed: 8)
    #expect(forged.verify().isSound)
    #expect(!scene.verify(forged.bytes).isSound)
  }

  /// Damage that keeps the file well formed, and what is named.
  static func damages(_ scene: BundleScene) throws -> [(String, [UInt8])] {
    let other = try BundleScene(seed: 8)
    let both = scene.keys.signers
    let bundle = try EvidenceBundle(scene.bytes)
    return [
      ("entry taken out", try scene.changed { $0["entries"] = .array(Array(($0["entries"]?.array ?? []).dropLast())) }),
      (
        "an outcome taken out",
        try scene.changed {
          let list = $0["entries"]?.array ?? []
          $0["entries"] = .array(list.filter { $0["index"]?.integer != 5 })
        }
      ),
      (
        "the same tree, signed once more",
        try scene.changed {
          let again = try Checkpoint(scene.checkpoint.head, signedBy: both)
          $0["checkpoint"] = .string(String(decoding: again.encoded, as: UTF8.self))
        }
      ),
      (
        "entry doubled",
        try scene.changed {
          let list = $0["entries"]?.array ?? []
          $0["entries"] = .array(list + [list[0]])
        }
      ),
      ("entries swapped", try scene.changed { $0["entries"] = .array(($0["entries"]?.array ?? []).reversed()) }),
      (
        "entry moved",
        try scene.changed { $0["entries"] = $0["entries"]?.setting(["0", "index"], .integer(0)) }
      ),
      (
        "proof shortened",
        try scene.changed {
          $0["entries"] = $0["entries"]?.setting(
            ["0", "proof"], .array(bundle.entries[0].proof.dropLast().map { .string(Base64.encode($0.bytes)) }))
        }
      ),
      (
        "proof of another entry",
        try scene.changed {
          $0["entries"] = $0["entries"]?.setting(
            ["0", "proof"], .array(bundle.entries[1].proof.map { .string(Base64.encode($0.bytes)) }))
        }
      ),
      (
        "leaf of another entry",
        try scene.changed {
          $0["entries"] = $0["entries"]?.setting(["0", "leaf"], .string(Base64.encode(bundle.entries[1].leaf)))
        }
      ),
      (
        "checkpoint of another log",
        try scene.changed { $0["checkpoint"] = .string(String(decoding: other.checkpoint.encoded, as: UTF8.self)) }
      ),
      (
        "checkpoint with one signature",
        try scene.changed {
          let half = try Checkpoint(scene.checkpoint.head, signedBy: [both[0]])
          $0["checkpoint"] = .string(String(decoding: half.encoded, as: UTF8.self))
        }
      ),
      (
        "statement says another run",
        try scene.restated { $0["predicate"] = $0["predicate"]?.setting(["run"], "recovery-2") }
      ),
      (
        "statement says another run, signed by another",
        try scene.restated(signedBy: other.keys.signers) {
          $0["predicate"] = $0["predicate"]?.setting(["run"], "recovery-2")
        }
      ),
      (
        "another run, signed by the log itself",
        try scene.restated(signedBy: both) { $0["predicate"] = $0["predicate"]?.setting(["run"], "recovery-2") }
      ),
      (
        "a record changed, signed by the log itself",
        try scene.restated(signedBy: both) {
          $0["predicate"] = $0["predicate"]?.setting(["document", "records", "1", "body", "mode"], "fuzzy")
        }
      ),
      (
        "a manifest changed, signed by the log itself",
        try scene.restated(signedBy: both) {
          $0["predicate"] = $0["predicate"]?.setting(["manifests", "salvor.yaml"], "kind: Other\n")
        }
      ),
      (
        "a root that is not the checkpoint's, signed by the log itself",
        try scene.restated(signedBy: both) {
          $0["predicate"] = $0["predicate"]?.setting(["log", "root"], .string(Digest.of("x").hex))
        }
      ),
      (
        "only one signature",
        try scene.changed {
          let list = $0["envelope"]?["signatures"]?.array ?? []
          $0["envelope"] = $0["envelope"]?.setting(["signatures"], .array([list[0]]))
        }
      ),
      (
        "another payload type",
        try scene.changed { $0["envelope"] = $0["envelope"]?.setting(["payloadType"], "text/plain") }
      ),
      ("a member more", try scene.changed { $0["more"] = 1 }),
      ("spaces", Array(" ".utf8) + scene.bytes), ("a newline at the end", scene.bytes + [10]),
      ("cut off", Array(scene.bytes.dropLast(100))), ("empty", []),
      ("an outcome without its intent", try BundleScene(skips: "step.intended").bytes),
      ("no word that the record was written", try BundleScene(skips: "evidence.written").bytes),
    ]
  }

  @Test func `damage that keeps the file well formed is refused too`() throws {
    for (what, bytes) in try Self.damages(scene) {
      let reading = scene.verify(bytes)
      #expect(!reading.isSound, "\(what)")
      #expect(reading.findings.contains { $0.verdict == .refuted && !$0.why.isEmpty }, "\(what)")
    }
  }

  @Test func `hostile files end soon`() throws {
    for depth in [100, 600, 100_000] {
      let deep = #"{"checkpoint":"# + String(repeating: "[", count: depth)
      #expect(!scene.verify(Array(deep.utf8)).isSound)
    }
    let many = try scene.changed {
      let entry = $0["entries"]?.array?[0] ?? .null
      $0["entries"] = .array([JSONValue](repeating: entry, count: 2000))
    }
    #expect(!scene.verify(many).isSound)
    #expect(!scene.verify([UInt8](repeating: 0x7b, count: EvidenceBundle.limitBytes + 1)).isSound)
  }

  @Test func `a witness that was asked for must have signed`() throws {
    let signer = try EvidenceSigner.create(randomness: SeededRandomness(seed: 5))
    let witness = try WitnessSigner(name: "w.example/witness/1", signer, at: Timestamp(seconds: 1_700_000_000))
    let seen = try BundleScene(witness: witness)
    func verify(_ scene: BundleScene, _ witnesses: [NoteKey]) -> BundleReading {
      BundleVerifier.verify(scene.bytes, trusting: scene.keys.keys, witnesses: witnesses)
    }
    #expect(verify(seen, [witness.key]).isSound)
    #expect(verify(seen, [witness.key]).witnesses == [witness.key.label])
    #expect(!verify(scene, [witness.key]).isSound)
    let stranger = try NoteKey(
      name: "w.example/witness/1", algorithm: .cosignature, bytes: [UInt8](repeating: 3, count: 32))
    #expect(!verify(seen, [stranger]).isSound)
    #expect(verify(seen, []).findings.contains { $0.verdict == .open && $0.what.contains("somebody else") })
  }

  @Test func `the report counts only what verifies, and nothing in it is markup that was not meant`() throws {
    var builder = EvidenceBuilder()
    try builder.add(kind: "run", subject: "<script>alert(1)</script>", body: ["title": "\u{202e}\"><img src=x>"])
    let good = EvidenceReport.Source(file: "a.bundle", digest: Digest.of(scene.bytes), reading: scene.verify())
    var hostile = good
    hostile.reading.evidence = try builder.sealed(run: "<b>", by: scene.keys.classic)
    hostile.reading.run = "recovery-<b>"
    let report = EvidenceReport(sources: [good], writtenAt: Timestamp(seconds: 0))
    let lines = report.chapters.flatMap(\.lines)
    #expect(lines.contains { $0.place == "Article 12(7)" && $0.answer == .proved && !$0.by.isEmpty })
    #expect(lines.contains { $0.question.contains("point objectives") && $0.answer == .refuted })
    #expect(lines.contains { $0.question.hasPrefix("Are backups taken") && $0.answer == .unproved })
    #expect(!report.html.contains("<script"))
    let page = EvidenceReport(sources: [hostile], writtenAt: Timestamp(seconds: 0)).html
    #expect(!page.contains("<script") && !page.contains("<img") && !page.contains("\u{202e}"))
    #expect(page.contains("&lt;script&gt;"))
    var broken = scene.bytes
    broken[scene.bytes.count / 2] ^= 1
    let bad = EvidenceReport.Source(file: "b.bundle", digest: Digest.of(broken), reading: scene.verify(broken))
    let refuted = EvidenceReport(sources: [bad], writtenAt: Timestamp(seconds: 0))
    #expect(refuted.html.contains("Not every bundle verifies"))
    #expect(!refuted.chapters.flatMap(\.lines).contains { $0.answer == .proved })
  }
}

/// The same verdicts from a program in another language, with other libraries, written from the format's page.
@Suite("Evidence bundles, by another program") struct OtherVerifierTests {
  @Test(.timeLimit(.minutes(10))) func `it agrees on good bundles and on every planted damage`() throws {
    let scene = try BundleScene()
    let place = try TemporaryDirectory("bundles")
    try Data(scene.keys.keys.map { $0.text + "\n" }.joined().utf8).write(to: URL(filePath: place.file("log.keys")))
    var bundles: [(what: String, bytes: [UInt8])] = [("good", scene.bytes)]
    bundles += try BundleTests.damages(scene)
    // Bytes of every part; few enough, for ML-DSA in Python takes its time.
    for offset in stride(from: 5, to: scene.bytes.count, by: scene.bytes.count / 60) {
      var changed = scene.bytes
      changed[offset] ^= 1
      bundles.append(("byte \(offset)", changed))
    }
    var paths: [String] = []
    for (number, bundle) in bundles.enumerated() {
      paths.append(place.file("\(number).bundle"))
      try Data(bundle.bytes).write(to: URL(filePath: paths[number]))
    }
    let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent()
    let process = Process()
    process.executableURL = root.appending(path: ".build/test-tools/bin/python3")
    process.arguments =
      [
        root.appending(path: "Tests/Verifier/verify-bundle.py").path, place.file("log.keys"),
      ] + paths
    let pipe = Pipe()
    process.standardOutput = pipe
    try process.run()
    let output = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    let lines = output.split(separator: "\n").map(String.init)
    try #require(lines.count == bundles.count, "\(output.suffix(2000))")
    for ((what, bytes), line) in zip(bundles, lines) {
      #expect(scene.verify(bytes).isSound == line.hasPrefix("OK "), "\(what): \(line)")
      #expect((what == "good") == line.hasPrefix("OK "), "\(what): \(line)")
    }
  }
}
