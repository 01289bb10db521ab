import Core

/// One thing that was about to be done, or was done: a leaf of the log.
package struct LogEntry: Sendable, Equatable {
  package static let format = "salvor.dev/log/v1"

  /// RFC 3339.
  package var at: String
  package var actor: String
  /// Such as `step.intended`, `step.succeeded`.
  package var action: String
  package var subject: String
  package var run: String?
  package var details: JSONValue
  /// Its place in the journal's own chain, and what it has there; `nil` for what the log says of itself.
  package var journal: (sequence: Int64, digest: Digest)?

  package init(
    at: String, actor: String, action: String, subject: String, run: String? = nil, details: JSONValue = .null,
    journal: (sequence: Int64, digest: Digest)? = nil
  ) {
    (self.at, self.actor, self.action, self.subject) = (at, actor, action, subject)
    (self.run, self.details, self.journal) = (run, details, journal)
  }

  package static func == (a: LogEntry, b: LogEntry) -> Bool {
    a.at == b.at && a.actor == b.actor && a.action == b.action && a.subject == b.subject && a.run == b.run
      && a.details == b.details && a.journal?.sequence == b.journal?.sequence && a.journal?.digest == b.journal?.digest
  }

  /// The leaf. Details that the log can't take are there as a digest.
  package func encoded() throws(LogError) -> [UInt8] {
    if let bytes = try? CanonicalText.encode(json(details)), bytes.count <= EntryBundle.entryLimitBytes {
      return bytes
    }
    let bytes: [UInt8]
    do {
      let digest = try CanonicalJSON.digest(details)
      bytes = try CanonicalText.encode(json(["leftOut": .string(digest.hex)]))
    } catch {
      throw .entryTooLong(bytes: EntryBundle.entryLimitBytes + 1)
    }
    guard bytes.count <= EntryBundle.entryLimitBytes else { throw .entryTooLong(bytes: bytes.count) }
    return bytes
  }

  private func json(_ details: JSONValue) -> JSONValue {
    .object([
      "action": .string(action), "actor": .string(actor), "at": .string(at), "details": details,
      "format": .string(Self.format),
      "journal": journal.map { ["digest": .string($0.digest.hex), "sequence": .integer($0.sequence)] } ?? .null,
      "run": run.map { .string($0) } ?? .null, "subject": .string(subject),
    ])
  }

  /// Reads what ``encoded()`` wrote, in its one spelling.
  package init(_ bytes: [UInt8]) throws(LogError) {
    let value: JSONValue
    do throws(EvidenceError) {
      value = try CanonicalText.decode(bytes)
    } catch { throw .badBundle("an entry is no canonical JSON") }
    guard let members = value.object, members.count == 8, members["format"]?.string == Self.format,
      let at = members["at"]?.string, let actor = members["actor"]?.string, let action = members["action"]?.string,
      let subject = members["subject"]?.string, let details = members["details"], let run = members["run"],
      let journal = members["journal"], run == .null || run.string != nil
    else { throw .badBundle("an entry is not of the format \(Self.format)") }
    self.init(at: at, actor: actor, action: action, subject: subject, run: run.string, details: details)
    if journal != .null {
      guard let sequence = journal["sequence"]?.integer, let hex = journal["digest"]?.string,
        let digest = Digest(hex: hex), journal.object?.count == 2
      else { throw .badBundle("an entry has no proper place in the journal") }
      self.journal = (sequence, digest)
    }
  }

  package var json: JSONValue { json(details) }
}
