import Core

/// Shows, without the log, that an entry is in it.
///
/// Source: C2SP, tlog-proof.
package struct LogProof: Sendable, Equatable {
  static let firstLine = "c2sp.org/tlog-proof@v1"

  package var index: Int64
  package var proof: [Digest]
  package var checkpoint: [UInt8]

  package init(index: Int64, proof: [Digest], checkpoint: [UInt8]) {
    (self.index, self.proof, self.checkpoint) = (index, proof, checkpoint)
  }

  package var encoded: [UInt8] {
    let hashes = proof.map { Base64.encode($0.bytes) + "\n" }.joined()
    return Array("\(Self.firstLine)\nindex \(index)\n\(hashes)\n".utf8) + checkpoint
  }

  /// Reads a proof without `extra`, which Salvor never writes, and believes none of it.
  package init(_ bytes: [UInt8]) throws(LogError) {
    let head = Array("\(Self.firstLine)\nindex ".utf8)
    guard bytes.starts(with: head) else { throw .badNote("it is no proof of c2sp.org/tlog-proof@v1") }
    // The rest is what a witness is asked, but for the first word.
    let request = try WitnessRequest(Array("old ".utf8) + bytes.dropFirst(head.count))
    (index, proof, checkpoint) = (request.old, request.proof, request.checkpoint)
  }

  /// - Throws: Unless `leaf` is where the proof says, in a log that one of each kind of `keys` has signed for.
  package func verify(_ leaf: [UInt8], trusting keys: [NoteKey]) throws(LogError) -> Checkpoint {
    let signed = try Checkpoint(checkpoint, trusting: keys)
    guard
      MerkleTree.root(from: MerkleTree.leaf(leaf), at: index, in: signed.head.size, proof) == signed.head.root
    else { throw .proofWrong("entry \(index)") }
    return signed
  }
}
