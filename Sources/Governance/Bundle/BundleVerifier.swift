import Core

/// What was looked at in a bundle, and what came of it.
package struct BundleFinding: Sendable, Equatable, Encodable {
  package enum Verdict: String, Sendable, Encodable {
    case proved
    case refuted
    /// Nobody can tell from what is there; not a failure, and not a proof.
    case open
  }

  package var what: String
  package var verdict: Verdict
  package var why: String
}

/// A bundle that was read, and how far it can be relied on.
package struct BundleReading: Sendable {
  package var run = ""
  package var origin = ""
  package var size: Int64 = 0
  package var root: Digest?
  package var exportedAt = ""
  package var findings: [BundleFinding] = []
  /// The signed record; `nil` unless it verified.
  package var evidence: Evidence?
  /// Entries whose proofs lead to the checkpoint's root.
  package var entries: [(index: Int64, entry: LogEntry)] = []
  package var manifests: [String: Digest] = [:]
  package var witnesses: [String] = []

  package init() {}

  package var isSound: Bool {
    !findings.isEmpty && findings.allSatisfy { $0.verdict != .refuted }
  }
}

/// Checks a bundle, offline, against keys that came another way.
package enum BundleVerifier {
  /// Never throws for what is wrong with a bundle: that is among the findings.
  ///
  /// - Parameters:
  ///   - trusted: Of the log. At least the one whose name is the origin must have signed; if keys of both kinds are
  ///     trusted, both must.
  ///   - witnesses: If any are given, one of them must have signed the checkpoint.
  package static func verify(
    _ bytes: [UInt8], trusting trusted: [NoteKey], witnesses: [NoteKey] = []
  ) -> BundleReading {
    var check = Check(trusted: trusted, witnesses: witnesses)
    do throws(LogError) { try check.run(bytes) } catch {
      check.add("the bundle can be read and belongs together", .refuted, error.report.summary)
    }
    return check.reading
  }

  private struct Check {
    let trusted: [NoteKey]
    let witnesses: [NoteKey]
    var reading = BundleReading()

    mutating func add(_ what: String, _ verdict: BundleFinding.Verdict, _ why: String) {
      reading.findings.append(BundleFinding(what: what, verdict: verdict, why: why))
    }

    mutating func run(_ bytes: [UInt8]) throws(LogError) {
      let bundle = try EvidenceBundle(bytes)
      let statement = try self.statement(bundle)
      let predicate = statement["predicate"] ?? .null
      guard let log = predicate["log"], let origin = log["origin"]?.string,
        let lines = log["keys"]?.array?.compactMap(\.string), lines.count <= 8, let size = log["size"]?.integer,
        let root = log["root"]?.string.flatMap({ Digest(hex: $0) }),
        let digest = log["checkpointDigest"]?.string.flatMap({ Digest(hex: $0) }),
        let indices = log["entries"]?.array?.compactMap(\.integer), log.object?.count == 6,
        let run = predicate["run"]?.string, let exported = predicate["exportedAt"]?.string,
        let document = predicate["document"], let manifests = predicate["manifests"]?.object,
        predicate.object?.count == 5
      else { throw .badBundle("the statement lacks a member, or has one of the wrong type") }
      var keys: [NoteKey] = []
      for line in lines { keys.append(try NoteKey(text: line)) }
      (reading.run, reading.origin, reading.size, reading.root) = (run, origin, size, root)
      reading.exportedAt = exported

      guard try signatures(bundle, keys, origin) else { return }
      guard try checkpoint(bundle, keys, TreeHead(origin: origin, size: size, root: root), digest) else { return }
      guard try entries(bundle, indices, root, size) else { return }
      try record(document, run, statement["subject"])
      self.manifests(manifests, statement["subject"])
      order(run)
      witnessed(bundle)
      add(
        "that what was recorded is true, and when it was written", .open,
        "signatures and proofs show that nothing was changed, taken out or put in since; not that it was true")
    }

    private func statement(_ bundle: EvidenceBundle) throws(LogError) -> JSONValue {
      guard bundle.envelope.payloadType == EvidenceBundle.payloadType else {
        throw .badBundle("its payload is of the type \(bundle.envelope.payloadType)")
      }
      let statement: JSONValue
      do throws(EvidenceError) {
        statement = try CanonicalText.decode(bundle.envelope.payload)
      } catch { throw .badBundle("the statement: \(error.report.summary)") }
      guard statement["_type"]?.string == EvidenceBundle.statementType,
        statement["predicateType"]?.string == EvidenceBundle.predicateType, statement.object?.count == 4
      else { throw .badBundle("its statement is of another type") }
      return statement
    }

    /// The keys that the statement names have signed it, and those that are trusted are among them.
    private mutating func signatures(
      _ bundle: EvidenceBundle, _ keys: [NoteKey], _ origin: String
    ) throws(LogError) -> Bool {
      let what = "the statement is signed by the log's keys"
      guard !keys.isEmpty, keys.allSatisfy({ $0.name == origin && !$0.algorithm.isCosignature }),
        bundle.envelope.signatures.map(\.keyID) == keys.map(\.label)
      else {
        add(what, .refuted, "the signatures are not those of the keys that it names")
        return false
      }
      let own = trusted.filter { $0.name == origin && !$0.algorithm.isCosignature }
      let relied = keys.filter { own.contains($0) }
      guard !relied.isEmpty else {
        let error = LogError.notSigned(by: keys.map(\.label))
        add(what, .refuted, error.report.summary)
        return false
      }
      for algorithm in Set(own.map(\.algorithm)) where !relied.contains(where: { $0.algorithm == algorithm }) {
        add(what, .refuted, "no \(algorithm.title) key that is trusted has signed")
        return false
      }
      for key in keys where !bundle.envelope.isSigned(by: key) {
        add(what, .refuted, LogError.signatureWrong(key: key.label).report.summary)
        return false
      }
      for key in keys {
        let how = relied.contains(key) ? "trusted" : "named by the statement, which a trusted key has signed"
        add("\(what): \(key.algorithm.title)", .proved, "\(key.label), \(how)")
      }
      return true
    }

    private mutating func checkpoint(
      _ bundle: EvidenceBundle, _ keys: [NoteKey], _ head: TreeHead, _ digest: Digest
    ) throws(LogError) -> Bool {
      let what = "the checkpoint is signed by the log's keys, and is the one that the statement names"
      let checkpoint: Checkpoint
      do throws(LogError) { checkpoint = try Checkpoint(bundle.checkpoint, trusting: keys) } catch {
        add(what, .refuted, error.report.summary)
        return false
      }
      guard Digest.of(bundle.checkpoint) == digest, checkpoint.head == head else {
        add(what, .refuted, "it is another one")
        return false
      }
      add(what, .proved, "\(head.origin), \(head.size) entries, root \(head.root.short)…")
      return true
    }

    private mutating func entries(
      _ bundle: EvidenceBundle, _ indices: [Int64], _ root: Digest, _ size: Int64
    ) throws(LogError) -> Bool {
      let what = "every entry is in the log, at its place"
      guard bundle.entries.map(\.index) == indices else {
        add(what, .refuted, "the entries are not those that were signed for: some were taken out, or put in")
        return false
      }
      for entry in bundle.entries {
        guard MerkleTree.root(from: MerkleTree.leaf(entry.leaf), at: entry.index, in: size, entry.proof) == root else {
          add(what, .refuted, LogError.proofWrong("entry \(entry.index)").report.summary)
          return false
        }
        reading.entries.append((entry.index, try LogEntry(entry.leaf)))
      }
      add(what, .proved, "\(indices.count) inclusion proofs lead to the root of the checkpoint")
      return true
    }

    private mutating func record(
      _ document: JSONValue, _ run: String, _ subjects: JSONValue?
    ) throws(LogError) {
      let what = "the record of the run is as it was signed"
      do throws(EvidenceError) {
        let bytes = try CanonicalText.encode(document)
        // Whose key it is, a trusted key says by signing the statement that it is a part of; it may be an older one.
        let evidence = try EvidenceVerifier.verify(ofOwnWord: bytes)
        let digest = Digest.of(bytes)
        guard evidence.run == run, subjects?.array?.first?["digest"]?["sha256"]?.string == digest.hex else {
          add(what, .refuted, "it is of \(evidence.run), or not the one that the statement is about")
          return
        }
        guard
          let written = reading.entries.first(where: {
            $0.entry.action == "evidence.written" && $0.entry.run == run
              && $0.entry.details["document"]?.string == digest.hex
          })
        else {
          add(what, .refuted, "no entry of the log says that it was written")
          return
        }
        reading.evidence = evidence
        add(what, .proved, "\(evidence.records.count) records; entry \(written.index) has its digest")
      } catch {
        add(what, .refuted, error.report.summary)
      }
    }

    private mutating func manifests(_ manifests: [String: JSONValue], _ subjects: JSONValue?) {
      let what = "the manifests are those that were signed for"
      var named: [String: String] = [:]
      for subject in subjects?.array ?? [] {
        if let name = subject["name"]?.string, name.hasPrefix("manifest/") {
          named[String(name.dropFirst(9))] = subject["digest"]?["sha256"]?.string
        }
      }
      for (path, text) in manifests {
        guard let text = text.string, named[path] == Digest.of(text).hex else {
          add(what, .refuted, "\(path) has another digest")
          return
        }
        reading.manifests[path] = Digest.of(text)
      }
      let recorded = (reading.evidence?.records ?? []).filter { $0.kind == "manifest" }
      guard named.count == manifests.count, recorded.count == manifests.count,
        recorded.allSatisfy({ named[$0.subject] == $0.body["sha256"]?.string })
      else {
        add(what, .refuted, "one is missing, or not the one of the record")
        return
      }
      add(what, .proved, manifests.isEmpty ? "there are none" : manifests.keys.sorted().joined(separator: ", "))
    }

    /// Nothing was done that had not been announced.
    private mutating func order(_ run: String) {
      let what = "every outcome follows its intent"
      var intended: Set<String> = []
      var outcomes = 0
      for (index, entry) in reading.entries {
        guard entry.run == run else {
          add(what, .refuted, "entry \(index) is about another run")
          return
        }
        switch entry.action {
        case "step.intended", "step.compensating", "act.intended": intended.insert(entry.subject)
        case "run.created": intended.insert("")
        case "step.succeeded", "step.failed", "step.compensated", "step.compensation-failed", "act.succeeded",
          "act.failed":
          outcomes += 1
          guard intended.contains(entry.subject) else {
            add(what, .refuted, "entry \(index) says \(entry.action) of \(entry.subject), which was never intended")
            return
          }
        default: break
        }
      }
      guard !intended.isEmpty else {
        add(what, .refuted, "no entry says that the run was begun")
        return
      }
      add(what, .proved, "\(outcomes) outcomes")
    }

    private mutating func witnessed(_ bundle: EvidenceBundle) {
      let what = "somebody else has seen the same log"
      guard !witnesses.isEmpty else {
        add(what, .open, "no witness's key was given: whoever holds the log's keys could show others another log")
        return
      }
      do throws(LogError) {
        let signed = try SignedNote(bundle.checkpoint).verified(by: witnesses.filter(\.algorithm.isCosignature))
        reading.witnesses = signed.map(\.label)
        add(what, .proved, reading.witnesses.joined(separator: ", "))
      } catch {
        add(what, .refuted, error.report.summary)
      }
    }
  }
}
