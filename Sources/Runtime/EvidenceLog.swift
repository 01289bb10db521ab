import Core
import Governance
import IO
import Recovery
import StateKit
import Vault

/// The journal's audit entries as a transparency log, in `log/` of the state directory.
///
/// An entry is durable in the journal first, in the transaction of what it tells; here it is published, in the same order.
/// What could not be published is the next time.
package struct EvidenceLog: Sendable {
  let host: Machine
  private let journal: any RunJournal

  package init(host: Machine, journal: any RunJournal) { (self.host, self.journal) = (host, journal) }

  private static let pageLimit = 2048

  package var directory: String { host.path("log") }

  // MARK: Publishing

  /// Adds what the journal has and the log has not, and signs.
  ///
  /// - Parameter replacing: Go on with a journal that does not follow; an entry says so, for ever.
  /// - Returns: The newest checkpoint; `nil` if nothing was ever done.
  @discardableResult
  package func publish(journalReplaced replacing: Bool = false) async throws(AnyFailure) -> Checkpoint? {
    do {
      let (host, path) = (host, directory)
      let own = try await host.pool.run { try EvidenceKeyring(host: host).own() }
      let log = TransparencyLog(LogDirectory(path), origin: own.origin, keys: own.keys)
      // What a crash interrupted comes first: it may be further than the checkpoint says.
      var checkpoint = try await host.pool.run { try log.append(signedBy: own.signers) { _ in [] } }
      while true {
        let current = checkpoint
        let last = try await host.pool.run { try Self.place(in: log, current) }
        var after = last?.sequence ?? 0
        // The last that is known comes with them, to see that it is the same journal.
        var page = try await journal.auditTrail(after: max(0, after - 1), run: nil, limit: Self.pageLimit)
        var known = page.first { $0.sequence == after }
        var isReplaced = false
        if let last, known?.digest != last.digest {
          guard replacing else {
            throw LogError.journalReplaced(
              known == nil ? "it ends before entry \(after)" : "its entry \(after) is another")
          }
          isReplaced = true
          (after, known) = (0, nil)
          page = try await journal.auditTrail(after: 0, run: nil, limit: Self.pageLimit)
        }
        try AuditChain.verify(
          page.filter { $0.sequence > after }, after: known.map { ($0.sequence, $0.digest) })
        guard let newest = page.last, newest.sequence > after else { return current }
        let (entries, marksReplacement, time) = (page, isReplaced, host.time)
        let before = last
        checkpoint = try await host.pool.run {
          var isGiven = false
          return try log.append(signedBy: own.signers) { (reader) throws(LogError) -> [[UInt8]] in
            if isGiven { return [] }
            isGiven = true
            // Somebody else may have been here meanwhile, with the same journal.
            let now = try Self.place(of: reader)
            guard !marksReplacement || now?.digest == before?.digest else { return [] }
            let start = marksReplacement ? 0 : now?.sequence ?? 0
            var leaves: [[UInt8]] = []
            if marksReplacement {
              leaves.append(
                try LogEntry(
                  at: time.now().description, actor: "log", action: "log.journal-replaced", subject: own.origin,
                  details: [
                    "lastSequence": .integer(before?.sequence ?? 0), "lastDigest": .string(before?.digest.hex ?? ""),
                  ]
                ).encoded())
            }
            let fresh = entries.filter { $0.sequence > start }
            guard marksReplacement || start == 0 || fresh.isEmpty || fresh[0].previous == now?.digest else {
              throw .journalReplaced("its entry \(start + 1) does not follow entry \(start)")
            }
            for entry in fresh { leaves.append(try Self.leaf(entry)) }
            return leaves
          }
        }
      }
    } catch {
      throw AnyFailure(error)
    }
  }

  /// As ``publish(journalReplaced:)``, where what was done is done whether or not it can be published now.
  func publishOrWarn() async {
    do { try await publish() } catch {
      host.log("warning: the evidence could not be published: \(error.report.description)")
    }
  }

  static func leaf(_ entry: AuditEntry) throws(LogError) -> [UInt8] {
    try LogEntry(
      at: entry.at.description, actor: entry.actor, action: entry.action, subject: entry.subject,
      run: entry.run?.text, details: entry.details, journal: (entry.sequence, entry.digest)
    ).encoded()
  }

  private static func place(
    in log: TransparencyLog, _ checkpoint: Checkpoint?
  ) throws(LogError) -> (sequence: Int64, digest: Digest)? {
    guard let checkpoint else { return nil }
    return try place(of: log.reader(of: checkpoint.head))
  }

  /// Which entry of the journal is the log's last.
  private static func place(of reader: LogReader) throws(LogError) -> (sequence: Int64, digest: Digest)? {
    guard reader.head.size > 0 else { return nil }
    return try LogEntry(try reader.entry(reader.head.size - 1)).journal
  }

  // MARK: Reading

  /// The log as it stands, checked as far as its newest checkpoint.
  package func open() async throws(AnyFailure) -> OpenLog {
    do {
      let (host, path) = (host, directory)
      return try await host.pool.run {
        let keys = try EvidenceKeyring(host: host).known()
        return try OpenLog(LogDirectory(path), keys: keys)
      }
    } catch { throw AnyFailure(error) }
  }

  /// Reads all of it, and compares it with the journal.
  package func check() async throws(AnyFailure) -> OpenLog {
    let log = try await open()
    do {
      try await host.pool.run { () throws(LogError) in try log.reader.requireWhole() }
      var sequence: Int64 = 0
      var isReplaced = false
      var start: Int64 = 0
      while start < log.checkpoint.head.size {
        let range = start..<min(start + 256, log.checkpoint.head.size)
        let leaves = try await host.pool.run { () throws(LogError) in try log.reader.entries(range) }
        for leaf in leaves {
          let entry = try LogEntry(leaf)
          if let place = entry.journal {
            sequence = place.sequence
          } else if entry.action == "log.journal-replaced" {
            (sequence, isReplaced) = (0, true)
          }
        }
        start = range.upperBound
      }
      // After a replacement only the newest journal is there to be compared with.
      let count = isReplaced ? min(sequence, log.checkpoint.head.size) : sequence
      var done: Int64 = 0
      while done < count {
        let page = try await journal.auditTrail(after: done, run: nil, limit: Self.pageLimit)
        guard !page.isEmpty else { throw LogError.journalReplaced("it ends before entry \(count)") }
        for entry in page where entry.sequence <= count {
          let index = log.checkpoint.head.size - count + entry.sequence - 1
          let reader = log.reader
          let leaf = try await host.pool.run { () throws(LogError) in try reader.entry(index) }
          guard try LogEntry(leaf).journal?.digest == entry.digest, try entry.computedDigest == entry.digest else {
            throw LogError.journalReplaced("its entry \(entry.sequence) is another than the log's entry \(index)")
          }
          done = entry.sequence
        }
      }
      return log
    } catch { throw AnyFailure(error) }
  }

  // MARK: Keys

  /// Replaces the keys: the log first says so under the old ones, then both sign, then the old ones are gone.
  package func rotateKeys() async throws(AnyFailure) -> [NoteKey] {
    let host = host
    do {
      let old = try await host.pool.run { try EvidenceKeyring(host: host).own() }
      let next = try await host.pool.run { try EvidenceKeyring(host: host).prepareNext() }
      _ = try await journal.append(
        AuditDraft(
          actor: Holder.thisProcess.text, action: "evidence.keys-changed", subject: old.origin,
          details: [
            "from": .array(old.signers.map { .string($0.key.label) }), "to": .array(next.keys.map { .string($0.text) }),
          ]), under: nil)
      try await publish()
      try await host.pool.run {
        try EvidenceKeyring(host: host).announce(next)
        _ = try TransparencyLog(LogDirectory(host.path("log")), origin: old.origin, keys: old.keys + next.keys)
          .sign(with: old.signers + next.signers)
        try EvidenceKeyring(host: host).adopt(next)
      }
      return next.keys
    } catch { throw AnyFailure(error) }
  }

  /// Those that new evidence is signed with.
  package func keys() async throws(AnyFailure) -> [NoteKey] {
    do {
      let host = host
      return try await host.pool.run { try EvidenceKeyring(host: host).own().signers.map(\.key) }
    } catch { throw AnyFailure(error) }
  }

  /// All this machine's log ever had; makes none.
  package static func knownKeys(_ host: Machine) async throws(AnyFailure) -> [NoteKey] {
    do { return try await host.pool.run { try EvidenceKeyring(host: host).known() } } catch { throw AnyFailure(error) }
  }

  /// Makes none.
  package static func knownPublicKey(_ host: Machine) async throws(AnyFailure) -> EvidencePublicKey? {
    do { return try await host.pool.run { try EvidenceKeyring(host: host).classicPublicKey() } } catch {
      throw AnyFailure(error)
    }
  }

  // MARK: Exporting

  /// Everything about one run, or one backup, in one file.
  ///
  /// - Parameter text: A run's id, the end of one, or a point's id that a backup took.
  package func export(_ text: String) async throws(AnyFailure) -> (run: String, bytes: [UInt8]) {
    try await publish()
    do {
      let host = host
      let own = try await host.pool.run { try EvidenceKeyring(host: host).own() }
      let log = try await open()
      return try await host.pool.run {
        let all = try log.entries()
        let runs = Set(
          all.compactMap { _, entry in
            entry.run.flatMap { run in
              run == text || run.hasPrefix(text) || run.hasSuffix("-" + text)
                || entry.details["point"]?.string?.hasPrefix(text) == true ? run : nil
            }
          })
        guard let run = runs.contains(text) ? text : runs.sorted().first else { throw LogError.notLogged("'\(text)'") }
        guard runs.contains(text) || runs.count == 1 else { throw RunsError.ambiguous(text, runs.sorted()) }
        let about = all.filter { $0.entry.run == run }
        guard let written = about.last(where: { $0.entry.action == "evidence.written" })?.entry,
          let file = written.details["file"]?.string, let digest = written.details["document"]?.string,
          FileName(untrusted: Array(file.utf8)) != nil
        else { throw LogError.notLogged("the end of \(run)") }
        let document = try Files.read(host.path("evidence/\(file)"), limitBytes: EvidenceBundle.limitBytes)
        guard Digest.of(document).hex == digest else {
          throw LogError.damaged(path: "evidence/\(file)", why: "it is not what was written")
        }
        let evidence = try EvidenceVerifier.verify(ofOwnWord: document)
        var manifests: [String: String] = [:]
        for record in evidence.records where record.kind == "manifest" {
          guard let hex = record.body["sha256"]?.string, Digest(hex: hex) != nil else { continue }
          let bytes = try Files.read(host.path("evidence/manifests/\(hex)"), limitBytes: EvidenceBundle.limitBytes)
          manifests[record.subject] = String(decoding: bytes, as: UTF8.self)
        }
        let bundle = try EvidenceBundle(
          .init(run: run, document: document, manifests: manifests, exportedAt: host.time.now().description),
          indices: about.map(\.index), in: log.reader, checkpoint: log.checkpoint, signedBy: own.signers)
        return (run, try bundle.encoded())
      }
    } catch { throw AnyFailure(error) }
  }
}

/// A log at its newest checkpoint, from any directory that has one.
package struct OpenLog: Sendable {
  package let log: TransparencyLog
  package let checkpoint: Checkpoint
  package let reader: LogReader

  /// - Throws: ``LogError/notLogged(_:)`` if there is none; whatever is wrong with the checkpoint or the root.
  package init(_ files: any LogFiles, keys: [NoteKey]) throws(LogError) {
    guard let origin = keys.first?.name else { throw .notLogged("anything") }
    log = TransparencyLog(files, origin: origin, keys: keys)
    guard let checkpoint = try log.checkpoint() else { throw .notLogged("anything") }
    self.checkpoint = checkpoint
    reader = log.reader(of: checkpoint.head)
    try reader.requireRoot()
  }

  package func entries(_ range: Range<Int64>? = nil) throws(LogError) -> [(index: Int64, entry: LogEntry)] {
    var result: [(Int64, LogEntry)] = []
    let wanted = range ?? 0..<checkpoint.head.size
    var start = wanted.lowerBound
    while start < wanted.upperBound {
      let end = min(wanted.upperBound, (start / 256 + 1) * 256)
      for (offset, leaf) in try reader.entries(start..<end).enumerated() {
        result.append((start + Int64(offset), try LogEntry(leaf)))
      }
      start = end
    }
    return result
  }
}
