import Core
import Foundation

/// A text and who signed it.
///
/// Source: C2SP, signed-note.
package struct SignedNote: Sendable, Equatable {
  package struct Signature: Sendable, Equatable {
    package var name: String
    package var keyID: UInt32
    package var bytes: [UInt8]

    /// The line as a note has it, newline included.
    package var line: String {
      "\u{2014} \(name) \(Base64.encode(NoteKey.idBytes(keyID) + bytes))\n"
    }
  }

  /// Larger than a note with sixteen signatures of the largest kind.
  package static let limitBytes = 1 << 17
  package static let signatureLimit = 32

  /// Ends in a newline.
  package var text: String
  package var signatures: [Signature]

  package init(text: String, signatures: [Signature]) { (self.text, self.signatures) = (text, signatures) }

  package var encoded: [UInt8] { Array((text + "\n" + signatures.map(\.line).joined()).utf8) }

  /// Reads a note, and believes none of it.
  package init(_ bytes: [UInt8]) throws(LogError) {
    guard bytes.count <= Self.limitBytes else { throw .badNote("it is longer than \(Self.limitBytes) bytes") }
    guard let whole = String(validating: bytes, as: UTF8.self), Array(whole.utf8) == bytes else {
      throw .badNote("it is not UTF-8")
    }
    guard bytes.allSatisfy({ $0 >= 32 || $0 == 10 }) else { throw .badNote("it has control characters") }
    // By bytes: what Swift counts as one character may be several.
    var split: Int?
    var index = bytes.count - 2
    while index >= 0 {
      if bytes[index] == 10, bytes[index + 1] == 10 {
        split = index
        break
      }
      index -= 1
    }
    guard let split else { throw .badNote("there is no blank line before signatures") }
    text = String(decoding: bytes[...split], as: UTF8.self)
    let tail = bytes[(split + 2)...]
    guard !tail.isEmpty, tail.last == 10 else { throw .badNote("it ends before its last signature does") }
    signatures = []
    for line in tail.dropLast().split(separator: 10, omittingEmptySubsequences: false) {
      guard signatures.count < Self.signatureLimit else { throw .badNote("it has too many signatures") }
      signatures.append(try Self.signature(line))
    }
  }

  /// Reads a line without its newline.
  package static func signature(_ line: ArraySlice<UInt8>) throws(LogError) -> Signature {
    let fields = line.split(separator: 32, omittingEmptySubsequences: false)
    guard fields.count == 3, Array(fields[0]) == Array("\u{2014}".utf8),
      let blob = Base64.decode(String(decoding: fields[2], as: UTF8.self)), blob.count > 4
    else { throw .badNote("a line is no signature") }
    let name = String(decoding: fields[1], as: UTF8.self)
    guard NoteKey.isName(name) else { throw .badNote("a signature has no proper name") }
    return Signature(
      name: name, keyID: blob[..<4].reduce(0) { $0 << 8 | UInt32($1) }, bytes: Array(blob[4...]))
  }

  /// Those of `keys` that have signed.
  ///
  /// - Throws: ``LogError/signatureWrong(key:)`` if one that is known doesn't fit, ``LogError/notSigned(by:)`` if none is.
  @discardableResult
  package func verified(by keys: [NoteKey]) throws(LogError) -> [NoteKey] {
    var signed: [NoteKey] = []
    for signature in signatures {
      guard let key = keys.first(where: { $0.name == signature.name && $0.id == signature.keyID }) else { continue }
      guard key.accepts(signature.bytes, for: text) else { throw .signatureWrong(key: key.label) }
      if !signed.contains(key) { signed.append(key) }
    }
    guard !signed.isEmpty else {
      throw .notSigned(by: signatures.map { "\($0.name)+\(Hex.encode(NoteKey.idBytes($0.keyID)))" })
    }
    return signed
  }
}

/// RFC 4648, section 4, in its one spelling: no other text decodes to the same bytes.
package enum Base64 {
  package static func encode(_ bytes: [UInt8]) -> String { Data(bytes).base64EncodedString() }

  package static func decode(_ text: String) -> [UInt8]? {
    guard let data = Data(base64Encoded: text), data.base64EncodedString() == text else { return nil }
    return Array(data)
  }
}

/// The root of a log at one size, as its checkpoints say it.
///
/// Source: C2SP, tlog-checkpoint. Lines beyond the three are refused: Salvor writes none, and nobody could audit them.
package struct TreeHead: Sendable, Equatable, Hashable {
  package var origin: String
  package var size: Int64
  package var root: Digest

  package init(origin: String, size: Int64, root: Digest) { (self.origin, self.size, self.root) = (origin, size, root) }

  package static func empty(_ origin: String) -> TreeHead { TreeHead(origin: origin, size: 0, root: MerkleTree.empty) }

  package var text: String { "\(origin)\n\(size)\n\(Base64.encode(root.bytes))\n" }

  package init(text: String) throws(LogError) {
    let lines = text.utf8.split(separator: 10, omittingEmptySubsequences: false).map { String($0) ?? "" }
    guard lines.count == 4, lines[3].isEmpty else { throw .badCheckpoint("it does not have three lines") }
    guard NoteKey.isName(lines[0]) else { throw .badCheckpoint("its origin is no proper name") }
    guard let size = Int64(lines[1]), size >= 0, String(size) == lines[1] else {
      throw .badCheckpoint("its size is no number")
    }
    guard let bytes = Base64.decode(lines[2]), let root = Digest(bytes: bytes) else {
      throw .badCheckpoint("its root is no SHA-256")
    }
    guard size > 0 || root == MerkleTree.empty else { throw .badCheckpoint("an empty tree has another root") }
    self.init(origin: lines[0], size: size, root: root)
  }
}

/// A tree head and who vouches for it.
package struct Checkpoint: Sendable, Equatable {
  package var head: TreeHead
  package var note: SignedNote

  package var encoded: [UInt8] { note.encoded }

  /// - Parameter keys: The log's own; the name in them is its origin.
  package init(_ bytes: [UInt8], trusting keys: [NoteKey]) throws(LogError) {
    note = try SignedNote(bytes)
    head = try TreeHead(text: note.text)
    let own = keys.filter { $0.name == head.origin && !$0.algorithm.isCosignature }
    let signed = try note.verified(by: own)
    // Who trusts a key of each kind is not content with one of them.
    for algorithm in Set(own.map(\.algorithm)) where !signed.contains(where: { $0.algorithm == algorithm }) {
      throw .notSigned(by: signed.map(\.label))
    }
  }

  package init(_ head: TreeHead, signedBy signers: [any NoteSigner]) throws(LogError) {
    self.head = head
    var signatures: [SignedNote.Signature] = []
    for signer in signers { signatures.append(try signer.signature(of: head.text)) }
    note = SignedNote(text: head.text, signatures: signatures)
  }
}
