import ArgumentParser
import Console
import Core
import Foundation
import Governance
import IO
import Runtime
import StateKit

struct EvidenceCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "evidence",
    abstract: "What was done, on record: signed, in a log that can only grow, checked offline.",
    discussion: """
      Every run and every act is in the log, its intent before its outcome. A bundle has all that is known of one run, and \
      verifies on a machine that has nothing but `salvor` and the log's keys.

      EXAMPLES
        salvor evidence log
        salvor evidence key --log > log.keys
        salvor evidence export latest -o restore.bundle
        salvor evidence verify restore.bundle --key log.keys
        salvor evidence report restore.bundle --key log.keys -o restore.html
      """,
    subcommands: [
      EvidenceLogCommand.self, EvidenceCheckCommand.self, EvidenceProveCommand.self, EvidenceExportCommand.self,
      EvidenceVerifyCommand.self, EvidenceReportCommand.self, EvidencePublishCommand.self, EvidenceWitnessCommand.self,
      EvidenceCosignCommand.self, EvidenceKeyCommand.self, EvidenceRotateKeyCommand.self,
    ])
}

/// Which keys a file is checked against.
struct TrustOptions: ParsableArguments {
  @Option(
    help: "Keys to trust, as `salvor evidence key` prints them; may be given again (default: this machine's own).",
    completion: .file())
  var key: [String] = []

  /// Lines of the log's keys; none may be made here.
  func keys(_ host: Machine) async throws -> [NoteKey] {
    if key.isEmpty {
      let own = try await EvidenceLog.knownKeys(host)
      guard !own.isEmpty else { throw LogError.badKey("none was given, and this machine has none of its own") }
      return own
    }
    return try key.flatMap { path in
      try NoteKey.list(String(decoding: try Files.read(path, limitBytes: 1 << 18), as: UTF8.self))
    }
  }
}

struct EvidenceLogCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "log", abstract: "List what the log has, oldest first.",
    discussion: "EXAMPLES\n  salvor evidence log\n  salvor evidence log --run recovery-3f9a1c0b77de -o json")

  struct Line: Encodable {
    var index: Int64
    var at: String
    var action: String
    var subject: String
    var run: String?
    var actor: String
    var details: JSONValue
  }

  @Option(help: "Only what is about this run, or one whose id ends so.") var run: String?
  @Option(help: "How many of the newest; 0 for all.") var limit = 50
  @Option(help: "Another log's directory, such as a copy (default: this machine's own).", completion: .directory)
  var log: String?
  @OptionGroup var trust: TrustOptions
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let log = try await openLog(log, trust, system)
    var entries = try log.entries()
    if let run { entries = entries.filter { $0.entry.run == run || $0.entry.run?.hasSuffix("-" + run) == true } }
    if limit > 0 { entries = entries.suffix(limit) }
    let lines = entries.map { index, entry in
      Line(
        index: index, at: entry.at, action: entry.action, subject: entry.subject, run: entry.run, actor: entry.actor,
        details: entry.details)
    }
    try output.show(lines) { style in
      var table = Table([.init("entry", .right), .init("at"), .init("action"), .init("subject"), .init("run")])
      for line in lines {
        table.add("\(line.index)", line.at, line.action.harmless, line.subject.harmless, line.run?.harmless ?? "")
      }
      let head = log.checkpoint.head
      return table.lines(style) + ["\(head.origin)  \(Int(head.size).of("entry", "entries"))  root \(head.root.hex)"]
    }
  }
}

extension Int {
  /// `1 entry`, `2 entries`.
  func of(_ noun: String, _ nouns: String) -> String { "\(self) \(self == 1 ? noun : nouns)" }
}

func openLog(_ path: String?, _ trust: TrustOptions, _ system: SystemOptions) async throws -> OpenLog {
  if let path { return try OpenLog(LogDirectory(path), keys: try await trust.keys(system.host)) }
  return try await EvidenceLog(host: system.host, journal: try await system.journal()).open()
}

struct EvidenceCheckCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "check", abstract: "Read the whole log: every entry, every hash, and that it is what the journal has.",
    discussion: """
      With --repositories also that it goes on from every copy that the catalog's repositories have of it.

      EXAMPLES
        salvor evidence check
        salvor evidence check --log /mnt/copy/log --key log.keys
      """)

  struct Result: Encodable {
    var origin: String
    var size: Int64
    var root: Digest
    var copies: [String: Int]
  }

  @Option(help: "Another log's directory, such as a copy (default: this machine's own).", completion: .directory)
  var log: String?
  @Flag(help: "Compare it with the copies in the catalog's repositories.") var repositories = false
  @OptionGroup var trust: TrustOptions
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let opened: OpenLog
    var copies: [String: Int] = [:]
    if log != nil {
      opened = try await openLog(log, trust, system)
      try opened.reader.requireWhole()
    } else {
      let own = EvidenceLog(host: system.host, journal: try await system.journal())
      opened = try await own.check()
      if repositories {
        for found in try await own.compare(withCopiesIn: try await system.load()) {
          copies[found.repository] = found.copies
        }
      }
    }
    let head = opened.checkpoint.head
    try output.show(Result(origin: head.origin, size: head.size, root: head.root, copies: copies)) { style in
      [
        "\(style.paint("whole", .good))  \(head.origin): \(Int(head.size).of("entry", "entries")), root \(head.root.hex)"
      ]
        + copies.sorted { $0.key < $1.key }.map { "  goes on from \($0.value.of("copy", "copies")) in \($0.key)" }
    }
  }
}

struct EvidenceProveCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "prove",
    abstract: "Print the proof that an entry is in the log, or that the log goes on from where it was.",
    discussion: """
      An entry's proof is a file of c2sp.org/tlog-proof. With --since it is what `salvor evidence witness` takes: the body of \
      a request to add a checkpoint of c2sp.org/tlog-witness.

      EXAMPLES
        salvor evidence prove 17 > entry17.tlog-proof
        salvor evidence prove --since 12 | ssh witness salvor evidence witness --key bank.keys
      """)

  @Argument(help: "The entry's number, as `salvor evidence log` shows it.") var entry: Int64?
  @Option(help: "The size the log had.") var since: Int64?
  @OptionGroup var system: SystemOptions

  func validate() throws {
    guard (entry == nil) != (since == nil) else { throw ValidationError("give an entry, or --since") }
  }

  func run() async throws {
    let evidence = EvidenceLog(host: system.host, journal: try await system.journal())
    try await evidence.publish()
    let log = try await evidence.open()
    let bytes: [UInt8]
    if let entry {
      bytes =
        LogProof(index: entry, proof: try log.reader.inclusion(of: entry), checkpoint: log.checkpoint.encoded).encoded
    } else {
      let old = since ?? 0
      bytes =
        WitnessRequest(
          old: old, proof: try log.reader.consistency(from: old), checkpoint: log.checkpoint.encoded
        ).encoded
    }
    standardOutput(String(decoding: bytes, as: UTF8.self))
  }
}

struct EvidenceExportCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "export", abstract: "Put all that is known of one run or backup into one file.",
    discussion: """
      The file has the signed record, the manifests, the log's entries about it with their proofs, and the checkpoint: a \
      statement of in-toto in an envelope of DSSE. It has no secrets, for manifests have none.

      EXAMPLES
        salvor evidence export latest -o restore.bundle
        salvor evidence export 20261121T0809 -o backup.bundle
      """)

  @Argument(help: "A run's id or its end, a point's id or its beginning, or 'latest' for the newest run.") var run:
    String
  @Option(
    name: [.customShort("o"), .customLong("to")], help: "The file to write (default: standard output).",
    completion: .file())
  var to: String?
  @OptionGroup var system: SystemOptions

  func run() async throws {
    let journal = try await system.journal()
    var name = run
    if run == "latest" { name = try await Runs(journal, host: system.host).find(run).spec.id.text }
    let (found, bytes) = try await EvidenceLog(host: system.host, journal: journal).export(name)
    if let to {
      try Files.replace(absolute(to), with: bytes, mode: 0o644)
      standardError("\(found): \(formatBytes(Int64(bytes.count))) in \(to)\n")
    } else {
      standardOutput(String(decoding: bytes, as: UTF8.self))
    }
  }
}

struct EvidenceVerifyCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify", abstract: "Check that a bundle or a record is as it was signed, byte for byte.",
    discussion: """
      Needs nothing but the file and the public keys, which must have come another way: no state, no network. Says of each \
      thing that was looked at whether it is proved. Exit status 4 if anything is refuted.

      EXAMPLES
        salvor evidence verify restore.bundle --key log.keys
        salvor evidence verify restore.bundle --key log.keys --witness witness.keys
        salvor evidence verify recovery-3f9a1c0b77de-succeeded.json --key evidence.pub
      """)

  struct Result: Encodable {
    var run: String
    var records: Int
    var root: Digest
    var key: String
  }

  struct BundleResult: Encodable {
    var run: String
    var origin: String
    var size: Int64
    var root: Digest?
    var isSound: Bool
    var findings: [BundleFinding]
  }

  @Argument(help: "The bundle, or the record.", completion: .file()) var file: String
  @OptionGroup var trust: TrustOptions
  @Option(help: "Keys of witnesses, of which one must have seen the log; may be given again.", completion: .file())
  var witness: [String] = []
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let bytes = try Files.read(file, limitBytes: EvidenceBundle.limitBytes)
    if EvidenceBundle.isBundle(bytes) {
      let reading = BundleVerifier.verify(
        bytes, trusting: try await trust.keys(system.host), witnesses: try witnessKeys(witness))
      try output.show(
        BundleResult(
          run: reading.run, origin: reading.origin, size: reading.size, root: reading.root, isSound: reading.isSound,
          findings: reading.findings)
      ) { style in BundleText.lines(reading, style) }
      if !reading.isSound { throw ExitStatus.validationFailed }
      return
    }
    let publicKey = try await recordKey(bytes)
    let evidence = try EvidenceVerifier.verify(bytes, publicKey: publicKey)
    try output.show(
      Result(run: evidence.run, records: evidence.records.count, root: evidence.root, key: publicKey.id)
    ) { style in
      [
        "\(style.paint("verified", .good))  \(evidence.run): \(evidence.records.count) records, signed by \(publicKey.id)"
      ]
    }
  }

  /// A record is checked with a key in PEM, or with one of the log's.
  private func recordKey(_ bytes: [UInt8]) async throws -> EvidencePublicKey {
    guard let path = trust.key.first else {
      guard let own = try await EvidenceLog.knownPublicKey(system.host) else {
        throw LogError.badKey("none was given, and this machine has none of its own")
      }
      return own
    }
    let text = String(decoding: try Files.read(path, limitBytes: 1 << 18), as: UTF8.self)
    if text.hasPrefix("-----BEGIN") { return try EvidencePublicKey(text: text) }
    let keys = try await trust.keys(system.host).filter { $0.algorithm == .ed25519 }
    guard let first = keys.first else {
      throw LogError.badKey("a record is signed with Ed25519, and no such key was given")
    }
    return try EvidencePublicKey(bytes: first.bytes)
  }
}

func witnessKeys(_ paths: [String]) throws -> [NoteKey] {
  try paths.flatMap { try NoteKey.list(String(decoding: try Files.read($0, limitBytes: 1 << 18), as: UTF8.self)) }
}

/// What was found in a bundle, for people.
enum BundleText {
  static func lines(_ reading: BundleReading, _ style: Style) -> [String] {
    var lines = [
      reading.isSound
        ? "\(style.paint("verified", .good))  \(reading.run.harmless), \(reading.entries.count) of \(reading.size) entries of \(reading.origin.harmless)"
        : "\(style.paint("refuted", .bad))  \(reading.run.harmless)"
    ]
    for finding in reading.findings {
      let verdict =
        switch finding.verdict {
        case .proved: style.paint("proved ", .good)
        case .refuted: style.paint("refuted", .bad)
        case .open: style.paint("open   ", .warning)
        }
      lines.append("  \(verdict)  \(finding.what): \(finding.why.harmless)")
    }
    return lines
  }
}

struct EvidenceReportCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "report",
    abstract: "Write a page for auditors from bundles: what is proved, what is not, by which entry.",
    discussion: """
      One HTML file without scripts or anything from elsewhere, made to be printed. It follows the questions of DORA, ISO 22301 and \
      NIST SP 800-34. Only what the bundles prove counts; exit status 4 if one of them is refuted, and the page says so.

      EXAMPLE
        salvor evidence report backup.bundle restore.bundle --key log.keys -o report.html
      """)

  @Argument(help: "Bundles.", completion: .file()) var bundles: [String]
  @Option(
    name: [.customShort("o"), .customLong("to")], help: "The file to write (default: standard output).",
    completion: .file())
  var to: String?
  @OptionGroup var trust: TrustOptions
  @Option(help: "Keys of witnesses, of which one must have seen the log; may be given again.", completion: .file())
  var witness: [String] = []
  @OptionGroup var system: SystemOptions

  func run() async throws {
    let keys = try await trust.keys(system.host)
    let witnesses = try witnessKeys(witness)
    let readings = try bundles.map { path in
      let bytes = try Files.read(path, limitBytes: EvidenceBundle.limitBytes)
      return EvidenceReport.Source(
        file: Files.last(of: path), digest: Digest.of(bytes),
        reading: BundleVerifier.verify(bytes, trusting: keys, witnesses: witnesses))
    }
    let page = EvidenceReport(sources: readings, writtenAt: system.host.time.now()).html
    if let to { try Files.replace(absolute(to), with: Array(page.utf8), mode: 0o644) } else { standardOutput(page) }
    if readings.contains(where: { !$0.reading.isSound }) { throw ExitStatus.validationFailed }
  }
}

struct EvidencePublishCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "publish", abstract: "Bring the log up to date with the journal, and sign it.",
    discussion: """
      Every act does so at its end; this is for what was interrupted.

      EXAMPLE
        salvor evidence publish
      """)

  @Flag(help: "Go on with a journal that doesn't follow the log. An entry says so, for ever.") var journalReplaced =
    false
  @OptionGroup var consent: ConsentOptions
  @OptionGroup var system: SystemOptions

  func run() async throws {
    if journalReplaced { try consent.require("Is the journal that the log was written from lost?") }
    let log = EvidenceLog(host: system.host, journal: try await system.journal())
    guard let checkpoint = try await log.publish(journalReplaced: journalReplaced) else {
      standardError("nothing was ever done\n")
      return
    }
    standardOutput(String(decoding: checkpoint.encoded, as: UTF8.self))
  }
}

struct EvidenceWitnessCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "witness", abstract: "Take note of another machine's log, and refuse one that was forked or cut.",
    discussion: """
      Reads what `salvor evidence prove --since` writes. What goes on from what was seen is remembered, and a signature over \
      it is printed, which `salvor evidence cosign` takes. What doesn't is refused with status 4, and kept: it is half of the \
      proof. With --seen prints how many entries were seen, for --since.

      EXAMPLES
        salvor evidence witness --seen db1/salvor/0011aabb
        salvor evidence prove --since 12 | ssh witness salvor evidence witness --key bank.keys > seen
        salvor evidence witness --print-key > witness.keys
      """)

  @Argument(help: "The file with the request; '-' for standard input.", completion: .file()) var request = "-"
  @Option(help: "Only print how many entries of this log were seen.") var seen: String?
  @Flag(help: "Only print the key that this witness signs with.") var printKey = false
  @OptionGroup var trust: TrustOptions
  @OptionGroup var system: SystemOptions

  func run() async throws {
    let witness = EvidenceWitness(host: system.host)
    if let seen {
      standardOutput("\(try await witness.seen(seen))\n")
    } else if printKey {
      standardOutput(try await witness.key().text + "\n")
    } else {
      // Its own keys say nothing about another's log.
      guard !trust.key.isEmpty else { throw ValidationError("give the log's keys with --key") }
      let bytes =
        request == "-"
        ? try readStandardInput(limitBytes: WitnessRequest.limitBytes)
        : try Files.read(request, limitBytes: WitnessRequest.limitBytes)
      standardOutput(try await witness.observe(bytes, trusting: try await trust.keys(system.host)))
    }
  }
}

func readStandardInput(limitBytes: Int) throws -> [UInt8] {
  var bytes: [UInt8] = []
  while let data = try FileHandle.standardInput.read(upToCount: 1 << 16), !data.isEmpty {
    bytes += data
    guard bytes.count <= limitBytes else { throw SystemFailure("read", path: "standard input", number: EFBIG) }
  }
  return bytes
}

struct EvidenceCosignCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "cosign", abstract: "Put a witness's signature under the log's checkpoint.",
    discussion: """
      Bundles that are exported after it carry it.

      EXAMPLE
        salvor evidence cosign seen --witness witness.keys
      """)

  @Argument(help: "What the witness printed; '-' for standard input.", completion: .file()) var file = "-"
  @Option(help: "The witness's keys.", completion: .file()) var witness: [String]
  @OptionGroup var system: SystemOptions

  func run() async throws {
    let bytes =
      file == "-"
      ? try readStandardInput(limitBytes: SignedNote.limitBytes)
      : try Files.read(file, limitBytes: SignedNote.limitBytes)
    let log = try await EvidenceLog(host: system.host, journal: try await system.journal()).open()
    let signatures = try bytes.split(separator: 10).map { try SignedNote.signature($0) }
    let keys = try witnessKeys(witness).filter(\.algorithm.isCosignature)
    let checkpoint = try log.log.attach(signatures, of: keys)
    standardOutput(String(decoding: checkpoint.encoded, as: UTF8.self))
  }
}

struct EvidenceKeyCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "key", abstract: "Print this machine's public keys, for those who are to verify.",
    discussion: """
      With --log the keys of the log, which bundles are checked with: one line each for Ed25519 and ML-DSA-65, as \
      c2sp.org/signed-note writes them. Without it the one that records are signed with, in PEM.

      EXAMPLES
        salvor evidence key --log > log.keys
        salvor evidence key > evidence.pub
      """)

  @Flag(help: "The keys of the log.") var log = false
  @OptionGroup var system: SystemOptions

  func run() async throws {
    if log {
      let keys = try await EvidenceLog(host: system.host, journal: try await system.journal()).keys()
      standardOutput(keys.map { $0.text + "\n" }.joined())
      return
    }
    let text = try await EvidenceArchive(host: system.host).publicKey().text
    standardOutput(text + (text.hasSuffix("\n") ? "" : "\n"))
  }
}

struct EvidenceRotateKeyCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "rotate-key",
    abstract: "Sign with new keys from now on. The old ones say so in the log, and are gone then.",
    discussion: """
      Prints the new keys: hand them to those who verify. Run again, it finishes what was interrupted.

      EXAMPLE
        salvor evidence rotate-key --yes > log.keys
      """)

  @OptionGroup var consent: ConsentOptions
  @OptionGroup var system: SystemOptions

  func run() async throws {
    try consent.require("Replace the keys that evidence is signed with?")
    let keys = try await EvidenceLog(host: system.host, journal: try await system.journal()).rotateKeys()
    standardOutput(keys.map { $0.text + "\n" }.joined())
  }
}
