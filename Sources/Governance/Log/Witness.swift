import Core
import IO

/// What a log asks a witness: here is where you were, here is where I am, and this shows that one is the beginning of
/// the other.
///
/// Source: C2SP, tlog-witness, the body of `add-checkpoint`.
package struct WitnessRequest: Sendable, Equatable {
  package static let limitBytes = SignedNote.limitBytes + 8192

  package var old: Int64
  package var proof: [Digest]
  package var checkpoint: [UInt8]

  package init(old: Int64, proof: [Digest], checkpoint: [UInt8]) {
    (self.old, self.proof, self.checkpoint) = (old, proof, checkpoint)
  }

  package var encoded: [UInt8] {
    Array("old \(old)\n\(proof.map { Base64.encode($0.bytes) + "\n" }.joined())\n".utf8) + checkpoint
  }

  package init(_ bytes: [UInt8]) throws(LogError) {
    guard bytes.count <= Self.limitBytes else { throw .badNote("it is too long") }
    var rest = bytes[...]
    func line() throws(LogError) -> String {
      guard let end = rest.firstIndex(of: 10), let text = String(validating: rest[..<end], as: UTF8.self) else {
        throw .badNote("it ends before its checkpoint does")
      }
      rest = rest[(end + 1)...]
      return text
    }
    let first = try line()
    guard first.hasPrefix("old "), let size = Int64(first.dropFirst(4)), size >= 0, "old \(size)" == first else {
      throw .badNote("it does not begin with a size")
    }
    old = size
    proof = []
    while true {
      let text = try line()
      if text.isEmpty { break }
      guard proof.count < MerkleTree.proofLimit, let bytes = Base64.decode(text), let hash = Digest(bytes: bytes) else {
        throw .badNote("a line of the proof is no hash")
      }
      proof.append(hash)
    }
    checkpoint = Array(rest)
  }
}

/// Remembers the newest checkpoint of each log it has seen, and refuses what doesn't go on from it.
///
/// Every call blocks.
package struct Witness: Sendable {
  private let files: any LogFiles

  /// - Parameter files: A directory of its own.
  package init(_ files: any LogFiles) { self.files = files }

  private func path(_ origin: String) -> String { "\(Digest.of(origin).hex).checkpoint" }

  /// The newest seen, by the word of this witness's own files.
  package func seen(_ origin: String) throws(LogError) -> TreeHead? {
    let bytes: [UInt8]?
    do throws(SystemFailure) { bytes = try files.read(path(origin), limitBytes: SignedNote.limitBytes) } catch {
      throw LogError(error)
    }
    guard let bytes else { return nil }
    let head = try TreeHead(text: try SignedNote(bytes).text)
    guard head.origin == origin else { throw .badCheckpoint("what was seen is of \(head.origin)") }
    return head
  }

  /// Takes note of a checkpoint; durable when it returns.
  ///
  /// - Throws: ``LogError/fork(origin:oldSize:newSize:)`` or ``LogError/wentBack(origin:seen:found:)``: what was seen stays. The
  ///   checkpoint that was refused is kept beside it, for it is half of the proof.
  package func observe(_ request: WitnessRequest, trusting keys: [NoteKey]) throws(LogError) -> Checkpoint {
    let offered = try Checkpoint(request.checkpoint, trusting: keys)
    let origin = offered.head.origin
    return try files.alone { () throws(LogError) -> Checkpoint in
      let known = try seen(origin) ?? .empty(origin)
      if offered.head.size < known.size {
        try keep(request.checkpoint, as: "refused-\(path(origin))")
        throw .wentBack(origin: origin, seen: known.size, found: offered.head.size)
      }
      guard request.old == known.size else { throw .witnessBehind(seen: known.size, offered: request.old) }
      guard
        MerkleTree.isConsistent(
          from: known.size, known.root, to: offered.head.size, offered.head.root, request.proof)
      else {
        try keep(request.checkpoint, as: "refused-\(path(origin))")
        throw .fork(origin: origin, oldSize: known.size, newSize: offered.head.size)
      }
      try keep(request.checkpoint, as: path(origin))
      return offered
    }
  }

  private func keep(_ bytes: [UInt8], as path: String) throws(LogError) {
    do throws(SystemFailure) {
      try files.write(".new", bytes)
      try files.synchronize(".new")
      try files.rename(".new", to: path)
      try files.synchronizeDirectory("")
    } catch { throw LogError(error) }
  }
}
