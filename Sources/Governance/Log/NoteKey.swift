import Core
import Crypto
import Foundation

/// A public key that notes are checked against, and the name it signs under.
///
/// Source: C2SP, signed-note, "Verifier keys", and tlog-cosignature.
package struct NoteKey: Sendable, Hashable, CustomStringConvertible {
  package enum Algorithm: Sendable, Hashable {
    case ed25519
    /// ML-DSA-65 (FIPS 204) over the text, with an empty context. The specification has no byte for it: 0xff and a name.
    case mlDSA65
    /// A witness's word, with the time.
    case cosignature

    static let all: [Algorithm] = [.ed25519, .mlDSA65, .cosignature]

    /// What stands before the public key, in the key's text and in its id.
    package var marker: [UInt8] {
      switch self {
      case .ed25519: [0x01]
      case .mlDSA65: [0xff] + Array("salvor.dev/ml-dsa-65".utf8)
      case .cosignature: [0x04]
      }
    }

    package var keyBytes: Int { self == .mlDSA65 ? 1952 : 32 }
    package var isCosignature: Bool { self == .cosignature }
    package var title: String {
      switch self {
      case .ed25519: "Ed25519"
      case .mlDSA65: "ML-DSA-65"
      case .cosignature: "Ed25519 cosignature"
      }
    }
  }

  package let name: String
  package let algorithm: Algorithm
  package let bytes: [UInt8]
  package let id: UInt32

  package init(name: String, algorithm: Algorithm, bytes: [UInt8]) throws(LogError) {
    guard Self.isName(name) else { throw .badKey("'\(name)' is no proper name for one") }
    guard bytes.count == algorithm.keyBytes else {
      throw .badKey("an \(algorithm.title) key has \(algorithm.keyBytes) bytes, not \(bytes.count)")
    }
    (self.name, self.algorithm, self.bytes) = (name, algorithm, bytes)
    let covered = Array(name.utf8) + [10] + algorithm.marker + bytes
    id = Digest.of(covered).bytes[..<4].reduce(0) { $0 << 8 | UInt32($1) }
  }

  /// Reads what ``text`` writes.
  package init(text: some StringProtocol) throws(LogError) {
    guard text.utf8.count <= 8192 else { throw .badKey("a line is too long") }
    // Names have no plus; the rest may.
    let parts = text.split(separator: "+", maxSplits: 2, omittingEmptySubsequences: false)
    guard parts.count == 3, let blob = Base64.decode(String(parts[2])),
      let algorithm = Algorithm.all.first(where: { blob.starts(with: $0.marker) })
    else { throw .badKey("a line is not NAME+ID+KEY of a kind that is known") }
    try self.init(
      name: String(parts[0]), algorithm: algorithm, bytes: Array(blob.dropFirst(algorithm.marker.count)))
    guard parts[1] == Hex.encode(Self.idBytes(id)) else { throw .badKey("the id of \(name) is not the key's") }
  }

  /// Every key of a text with one on a line; blank lines and those that begin with `#` are for people.
  package static func list(_ text: String) throws(LogError) -> [NoteKey] {
    var keys: [NoteKey] = []
    for line in text.split(whereSeparator: \.isNewline) where !line.hasPrefix("#") {
      guard keys.count < 64 else { throw .badKey("there are more than 64") }
      keys.append(try NoteKey(text: line))
    }
    guard !keys.isEmpty else { throw .badKey("there is none") }
    return keys
  }

  /// `NAME+ID+KEY`, a vkey.
  package var text: String { "\(label)+\(Base64.encode(algorithm.marker + bytes))" }
  /// `NAME+ID`: enough to quote it by.
  package var label: String { "\(name)+\(Hex.encode(Self.idBytes(id)))" }
  package var description: String { label }

  static func idBytes(_ id: UInt32) -> [UInt8] {
    [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: id >> UInt32($0)) }
  }

  /// Not empty, no spaces of any kind, no plus, no control characters.
  static func isName(_ name: String) -> Bool {
    !name.isEmpty && name.utf8.count <= 255
      && name.unicodeScalars.allSatisfy {
        !$0.properties.isWhitespace && $0 != "+" && $0.value >= 32 && $0.value != 127
      }
  }

  package func accepts(_ signature: [UInt8], for text: String) -> Bool { accepts(signature, for: Array(text.utf8)) }

  package func accepts(_ signature: [UInt8], for message: [UInt8]) -> Bool {
    switch algorithm {
    case .ed25519:
      guard let key = try? EvidencePublicKey(bytes: bytes) else { return false }
      return signature.count == 64 && key.accepts(signature, for: message)
    case .mlDSA65:
      guard let key = try? MLDSA65.PublicKey(rawRepresentation: Data(bytes)) else { return false }
      return signature.count == 3309 && key.isValidSignature(Data(signature), for: Data(message))
    case .cosignature:
      guard signature.count == 72, let key = try? EvidencePublicKey(bytes: bytes) else { return false }
      let seconds = signature[..<8].reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
      return seconds <= UInt64(Int64.max)
        && key.accepts(Array(signature[8...]), for: Cosignature.message(message, at: seconds))
    }
  }
}

/// What a witness signs. Source: C2SP, tlog-cosignature, "Ed25519 signed message".
enum Cosignature {
  static func message(_ text: [UInt8], at seconds: UInt64) -> [UInt8] {
    Array("cosignature/v1\ntime \(seconds)\n".utf8) + text
  }
}

/// Whoever can put a signature under a note.
package protocol NoteSigner: Sendable {
  var key: NoteKey { get }
  func sign(_ message: [UInt8]) throws(LogError) -> [UInt8]
}

extension NoteSigner {
  package func signature(of text: String) throws(LogError) -> SignedNote.Signature {
    SignedNote.Signature(name: key.name, keyID: key.id, bytes: try sign(Array(text.utf8)))
  }
}

/// Signs as the log, with the key that evidence is signed with.
package struct ClassicNoteSigner: NoteSigner {
  package let key: NoteKey
  private let signer: EvidenceSigner

  package init(name: String, _ signer: EvidenceSigner) throws(LogError) {
    key = try NoteKey(name: name, algorithm: .ed25519, bytes: signer.publicKey.bytes)
    self.signer = signer
  }

  package func sign(_ message: [UInt8]) throws(LogError) -> [UInt8] {
    do { return try signer.sign(message) } catch { throw .badKey("it can't sign") }
  }
}

/// Signs so that whoever has a quantum computer one day can't forge what is signed today.
package struct LatticeNoteSigner: NoteSigner {
  package let key: NoteKey
  private let seed: Secret

  /// - Parameter privateKeyFile: What ``file(seed:)`` gave.
  package init(name: String, privateKeyFile: Secret) throws(LogError) {
    try self.init(name: name, seed: Self.open(privateKeyFile.revealed()))
  }

  package static func create(name: String, randomness: any Randomness) throws(LogError) -> LatticeNoteSigner {
    try LatticeNoteSigner(name: name, seed: randomness.bytes(32))
  }

  private init(name: String, seed: [UInt8]) throws(LogError) {
    guard let own = try? MLDSA65.PrivateKey(seedRepresentation: Data(seed), publicKey: nil) else {
      throw .badKey("it is no ML-DSA-65 private key")
    }
    key = try NoteKey(name: name, algorithm: .mlDSA65, bytes: Array(own.publicKey.rawRepresentation))
    self.seed = Secret(seed)
  }

  package func sign(_ message: [UInt8]) throws(LogError) -> [UInt8] {
    do {
      let own = try seed.withBytes { try MLDSA65.PrivateKey(seedRepresentation: Data($0), publicKey: nil) }
      return Array(try own.signature(for: Data(message)))
    } catch {
      throw .badKey("it can't sign")
    }
  }

  /// `OneAsymmetricKey` in PEM with the seed alone, as RFC 9881, section 6, writes it.
  package var privateKeyFile: Secret {
    let der = Self.prefix + seed.withBytes { Array($0) }
    return Secret("\(Self.begin)\n\(Base64.encode(der))\n\(Self.end)\n")
  }

  private static let (begin, end) = ("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----")
  /// Version 0, algorithm 2.16.840.1.101.3.4.3.18, and an octet string with the seed, tagged [0].
  private static let prefix: [UInt8] = [
    0x30, 0x34, 0x02, 0x01, 0x00, 0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x12, 0x04,
    0x22, 0x80, 0x20,
  ]

  private static func open(_ text: String) throws(LogError) -> [UInt8] {
    let lines = text.split(whereSeparator: \.isNewline)
    guard lines.count >= 3, lines[0] == begin, lines[lines.count - 1] == end,
      let der = Base64.decode(lines.dropFirst().dropLast().joined()), der.count == prefix.count + 32,
      der.starts(with: prefix)
    else { throw .badKey("it is no ML-DSA-65 private key with a seed, in PEM") }
    return Array(der.suffix(32))
  }
}

/// Signs as a witness: that at this time this was the largest tree it had seen, and all before it were part of it.
package struct WitnessSigner: NoteSigner {
  package let key: NoteKey
  private let signer: EvidenceSigner
  private let seconds: UInt64

  package init(name: String, _ signer: EvidenceSigner, at time: Timestamp) throws(LogError) {
    key = try NoteKey(name: name, algorithm: .cosignature, bytes: signer.publicKey.bytes)
    self.signer = signer
    seconds = UInt64(max(0, time.nanoseconds / 1_000_000_000))
  }

  package func sign(_ message: [UInt8]) throws(LogError) -> [UInt8] {
    do {
      let signature = try signer.sign(Cosignature.message(message, at: seconds))
      return (0..<8).reversed().map { UInt8(truncatingIfNeeded: seconds >> UInt64($0 * 8)) } + signature
    } catch {
      throw .badKey("it can't sign")
    }
  }
}
