import Core

/// Everything about one run that somebody needs who has nothing but a public key.
///
/// A statement (in-toto, version 1) in an envelope (DSSE): the signed record, the manifests, which checkpoint. Beside it that
/// checkpoint, and every entry of the log about the run with its proof. `docs/formats/evidence-bundle.md` describes the file.
package struct EvidenceBundle: Sendable, Equatable {
  package static let mediaType = "application/vnd.salvor.evidence-bundle.v1+json"
  package static let payloadType = "application/vnd.in-toto+json"
  package static let statementType = "https://in-toto.io/Statement/v1"
  package static let predicateType = "https://salvor.dev/evidence/run/v1"
  package static let limitBytes = 64 << 20
  package static let entryLimit = 100_000

  package struct ProvedEntry: Sendable, Equatable {
    package var index: Int64
    package var leaf: [UInt8]
    package var proof: [Digest]

    package init(index: Int64, leaf: [UInt8], proof: [Digest]) {
      (self.index, self.leaf, self.proof) = (index, leaf, proof)
    }
  }

  package var envelope: Envelope
  /// As the log wrote it.
  package var checkpoint: [UInt8]
  /// Ascending.
  package var entries: [ProvedEntry]

  /// What goes into a bundle.
  package struct Draft: Sendable {
    package var run: String
    /// The signed record, as its file has it.
    package var document: [UInt8]
    /// By path.
    package var manifests: [String: String]
    package var exportedAt: String

    package init(run: String, document: [UInt8], manifests: [String: String], exportedAt: String) {
      (self.run, self.document, self.manifests, self.exportedAt) = (run, document, manifests, exportedAt)
    }
  }

  /// - Parameter indices: Of every entry about the run.
  package init(
    _ draft: Draft, indices: [Int64], in reader: LogReader, checkpoint: Checkpoint, signedBy signers: [any NoteSigner]
  ) throws(LogError) {
    var entries: [ProvedEntry] = []
    for index in indices {
      entries.append(
        ProvedEntry(index: index, leaf: try reader.entry(index), proof: try reader.inclusion(of: index)))
    }
    let statement: [UInt8]
    do throws(EvidenceError) {
      let document = try CanonicalText.decode(draft.document)
      var subjects: [(name: String, digest: Digest)] = [("record/\(draft.run)", Digest.of(draft.document))]
      for (path, text) in draft.manifests.sorted(by: { $0.key < $1.key }) {
        subjects.append(("manifest/\(path)", Digest.of(text)))
      }
      statement = try CanonicalText.encode([
        "_type": .string(Self.statementType), "predicateType": .string(Self.predicateType),
        "subject": .array(
          subjects.map { ["digest": ["sha256": .string($0.digest.hex)], "name": .string($0.name)] }),
        "predicate": [
          "run": .string(draft.run), "exportedAt": .string(draft.exportedAt), "document": document,
          "manifests": .object(draft.manifests.mapValues { .string($0) }),
          "log": [
            "origin": .string(checkpoint.head.origin), "size": .integer(checkpoint.head.size),
            "root": .string(checkpoint.head.root.hex),
            "checkpointDigest": .string(Digest.of(checkpoint.encoded).hex),
            "keys": .array(signers.map { .string($0.key.text) }),
            "entries": .array(indices.map { .integer($0) }),
          ],
        ],
      ])
    } catch { throw .badBundle(error.report.summary) }
    envelope = try Envelope(statement, type: Self.payloadType, signedBy: signers)
    self.checkpoint = checkpoint.encoded
    self.entries = entries
  }

  package func encoded() throws(LogError) -> [UInt8] {
    do throws(EvidenceError) {
      return try CanonicalText.encode([
        "mediaType": .string(Self.mediaType), "envelope": envelope.json,
        "checkpoint": .string(String(decoding: checkpoint, as: UTF8.self)),
        "entries": .array(
          entries.map { entry in
            [
              "index": .integer(entry.index), "leaf": .string(Base64.encode(entry.leaf)),
              "proof": .array(entry.proof.map { .string(Base64.encode($0.bytes)) }),
            ]
          }),
      ])
    } catch { throw .badBundle(error.report.summary) }
  }

  /// Whether `bytes` say that they are a bundle.
  package static func isBundle(_ bytes: [UInt8]) -> Bool {
    // Members are in order, and the checkpoint comes first.
    bytes.starts(with: Array(#"{"checkpoint":"#.utf8))
  }

  /// Reads a bundle, and believes none of it.
  package init(_ bytes: [UInt8]) throws(LogError) {
    guard bytes.count <= Self.limitBytes else { throw .badBundle("it is longer than \(Self.limitBytes) bytes") }
    let value: JSONValue
    do throws(EvidenceError) {
      // One spelling: a byte that changes nothing else is found too.
      value = try CanonicalText.decode(bytes)
    } catch { throw .badBundle(error.report.summary) }
    guard let members = value.object, members.count == 4, members["mediaType"]?.string == Self.mediaType,
      let note = members["checkpoint"]?.string, let list = members["entries"]?.array
    else { throw .badBundle("it is not of the type \(Self.mediaType)") }
    guard list.count <= Self.entryLimit else { throw .badBundle("it has more than \(Self.entryLimit) entries") }
    envelope = try Envelope(members["envelope"])
    checkpoint = Array(note.utf8)
    entries = []
    for element in list {
      guard element.object?.count == 3, let index = element["index"]?.integer,
        let leaf = element["leaf"]?.string.flatMap(Base64.decode), leaf.count <= EntryBundle.entryLimitBytes,
        let hashes = element["proof"]?.array, hashes.count <= MerkleTree.proofLimit
      else { throw .badBundle("an entry has no proper shape") }
      var proof: [Digest] = []
      for hash in hashes {
        guard let digest = hash.string.flatMap(Base64.decode).flatMap({ Digest(bytes: $0) }) else {
          throw .badBundle("a proof has something that is no hash")
        }
        proof.append(digest)
      }
      if let last = entries.last, last.index >= index { throw .badBundle("entries are out of order") }
      entries.append(ProvedEntry(index: index, leaf: leaf, proof: proof))
    }
  }
}
