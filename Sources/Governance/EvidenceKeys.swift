import Core
import Crypto
import Foundation

/// An Ed25519 public key (RFC 8032), as evidence is checked against.
package struct EvidencePublicKey: Sendable, Equatable, CustomStringConvertible {
  /// The 32 bytes of the key.
  package let bytes: [UInt8]

  package init(bytes: [UInt8]) throws(EvidenceError) {
    guard bytes.count == 32 else { throw .badKey("a public key has 32 bytes, not \(bytes.count)") }
    self.bytes = bytes
  }

  /// Reads what ``text`` writes: `SubjectPublicKeyInfo` in PEM (RFC 8410), which `openssl pkey -pubin` reads too.
  package init(text: String) throws(EvidenceError) {
    try self.init(bytes: Armor.publicKey.open(text))
  }

  package var text: String { Armor.publicKey.close(bytes) }

  /// Sixteen hexadecimal digits to tell keys apart by: the start of the key's SHA-256.
  package var id: String { String(Digest.of(bytes).hex.prefix(16)) }

  package var description: String { id }

  func accepts(_ signature: [UInt8], for message: [UInt8]) -> Bool {
    guard let key = try? Curve25519.Signing.PublicKey(rawRepresentation: bytes) else { return false }
    return key.isValidSignature(Data(signature), for: Data(message))
  }
}

/// Holds the private key that evidence is signed with.
///
/// Where the key lies is the caller's business: it writes ``privateKeyFile`` with mode 0600 and passes it in again.
package struct EvidenceSigner: Sendable {
  private let seed: Secret
  package let publicKey: EvidencePublicKey

  /// - Parameter privateKeyFile: What ``privateKeyFile`` gave: `OneAsymmetricKey` in PEM (RFC 8410), as
  ///   `openssl genpkey -algorithm ed25519` writes it.
  package init(privateKeyFile: Secret) throws(EvidenceError) {
    try self.init(seed: Armor.privateKey.open(privateKeyFile.revealed()))
  }

  /// A new key.
  ///
  /// - Parameter randomness: The system's, unless this is a test.
  package static func create(randomness: any Randomness = SystemRandomness()) throws(EvidenceError) -> EvidenceSigner {
    try EvidenceSigner(seed: randomness.bytes(32))
  }

  private init(seed: [UInt8]) throws(EvidenceError) {
    guard let key = try? Curve25519.Signing.PrivateKey(rawRepresentation: seed) else {
      throw .badKey("a private key has 32 bytes, not \(seed.count)")
    }
    self.seed = Secret(seed)
    publicKey = try EvidencePublicKey(bytes: Array(key.publicKey.rawRepresentation))
  }

  /// The private key as a file's content; keep it readable for its owner only.
  package var privateKeyFile: Secret { Secret(Armor.privateKey.close(seed.withBytes { Array($0) })) }

  func sign(_ message: [UInt8]) throws(EvidenceError) -> [UInt8] {
    do {
      let key = try seed.withBytes { try Curve25519.Signing.PrivateKey(rawRepresentation: Data($0)) }
      return Array(try key.signature(for: Data(message)))
    } catch {
      throw .badKey("it can't sign: \(error)")
    }
  }
}

/// PEM around 32 bytes of key behind a fixed piece of DER.
private enum Armor {
  case publicKey, privateKey

  private var label: String { self == .publicKey ? "PUBLIC KEY" : "PRIVATE KEY" }

  /// Everything before the key: algorithm 1.3.101.112, and for private keys version 0. Source: RFC 8410, sections 4
  /// and 7.
  private var prefix: [UInt8] {
    switch self {
    case .publicKey: [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00]
    case .privateKey: [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20]
    }
  }

  func close(_ key: [UInt8]) -> String {
    "-----BEGIN \(label)-----\n\(Data(prefix + key).base64EncodedString())\n-----END \(label)-----\n"
  }

  /// Says nothing about the text in its errors: it may be secret.
  func open(_ text: String) throws(EvidenceError) -> [UInt8] {
    let lines = text.split(whereSeparator: \.isNewline)
    guard lines.count >= 3, lines.first == "-----BEGIN \(label)-----", lines.last == "-----END \(label)-----" else {
      throw .badKey("it doesn't begin with '-----BEGIN \(label)-----' and end likewise")
    }
    guard let der = Data(base64Encoded: lines.dropFirst().dropLast().joined()), der.count == prefix.count + 32,
      der.starts(with: prefix)
    else { throw .badKey("it is not an Ed25519 \(label.lowercased())") }
    return Array(der.suffix(32))
  }
}
